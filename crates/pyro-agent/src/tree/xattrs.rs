//! Extended attributes: of open files by descriptor, of links and pipes by a path through the descriptor of
//! their parent, so that nothing on the way can be swapped.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::XattrFlags;
use rustix::io::{Errno, Result};

use crate::limits::MAX_XATTR_BYTES;

fn path(parent: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    [format!("/proc/self/fd/{}/", parent.as_raw_fd()).as_bytes(), name].concat()
}

/// An extended attribute's name and value.
pub(super) type Attribute = (Vec<u8>, Vec<u8>);

/// All attributes of an open file; none where the file system keeps none.
pub(super) fn read(file: BorrowedFd<'_>) -> Result<Vec<Attribute>> {
    read_by(
        || rustix::fs::flistxattr_query(file),
        |names| rustix::fs::flistxattr(file, names),
        |attribute, value| rustix::fs::fgetxattr(file, attribute, value),
    )
}

/// The same of `name`, for what cannot be opened without doing something: links and pipes.
pub(super) fn read_unopened(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<Attribute>> {
    let path = &path(parent, name)[..];
    read_by(
        || rustix::fs::llistxattr_query(path),
        |names| rustix::fs::llistxattr(path, names),
        |attribute, value| rustix::fs::lgetxattr(path, attribute, value),
    )
}

fn read_by(
    query: impl Fn() -> Result<usize>,
    list: impl Fn(&mut [u8]) -> Result<usize>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize>,
) -> Result<Vec<Attribute>> {
    let len = match query() {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(len) => len.min(MAX_XATTR_BYTES),
        Err(error) => return Err(error),
    };
    let mut names = vec![0u8; len];
    let len = list(&mut names)?;
    let mut attributes = Vec::new();
    let mut value = vec![0u8; MAX_XATTR_BYTES];
    for attribute in names[..len].split(|byte| *byte == 0).filter(|attribute| !attribute.is_empty()) {
        match get(attribute, &mut value) {
            Ok(len) => attributes.push((attribute.to_vec(), value[..len].to_vec())),
            // It went away meanwhile.
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(attributes)
}

/// Sets attributes of `name`.
pub(super) fn write(parent: BorrowedFd<'_>, name: &[u8], attributes: &[Attribute]) -> Result<()> {
    if attributes.is_empty() {
        return Ok(());
    }
    let path = path(parent, name);
    attributes.iter().try_for_each(|(attribute, value)| {
        rustix::fs::lsetxattr(&path[..], &attribute[..], value, XattrFlags::empty())
    })
}
