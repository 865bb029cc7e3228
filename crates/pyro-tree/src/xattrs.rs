//! Extended attributes: of open files by descriptor, of links and pipes by a path through the descriptor of
//! their parent, so that nothing on the way can be swapped.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::XattrFlags;
use rustix::io::{Errno, Result};

use crate::Fidelity;
use crate::limits::MAX_XATTR_BYTES;

fn path(parent: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    [format!("/proc/self/fd/{}/", parent.as_raw_fd()).as_bytes(), name].concat()
}

/// An extended attribute's name and value.
pub(crate) type Attribute = (Vec<u8>, Vec<u8>);

/// Whether an attribute means the same to another system and any owner may set it.
pub(crate) fn is_portable(name: &[u8]) -> bool {
    name.starts_with(b"user.")
}

fn is_kept(name: &[u8], fidelity: Fidelity) -> bool {
    match fidelity {
        Fidelity::Full => true,
        Fidelity::Portable => is_portable(name),
    }
}

/// The attributes of an open file; none where the file system keeps none.
pub(crate) fn read(file: BorrowedFd<'_>, fidelity: Fidelity) -> Result<Vec<Attribute>> {
    read_by(
        fidelity,
        || rustix::fs::flistxattr_query(file),
        |names| rustix::fs::flistxattr(file, names),
        |attribute, value| rustix::fs::fgetxattr(file, attribute, value),
    )
}

/// The same of `name`, for what cannot be opened without doing something: links and pipes.
pub(crate) fn read_unopened(
    parent: BorrowedFd<'_>,
    name: &[u8],
    fidelity: Fidelity,
) -> Result<Vec<Attribute>> {
    let path = &path(parent, name)[..];
    read_by(
        fidelity,
        || rustix::fs::llistxattr_query(path),
        |names| rustix::fs::llistxattr(path, names),
        |attribute, value| rustix::fs::lgetxattr(path, attribute, value),
    )
}

fn read_by(
    fidelity: Fidelity,
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
    let mut value = Vec::new();
    let names = names[..len].split(|byte| *byte == 0).filter(|attribute| !attribute.is_empty());
    for attribute in names.filter(|attribute| is_kept(attribute, fidelity)) {
        value.resize(MAX_XATTR_BYTES, 0);
        match get(attribute, &mut value) {
            Ok(len) => attributes.push((attribute.to_vec(), value[..len].to_vec())),
            // It went away meanwhile.
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(attributes)
}

/// Sets attributes of `name`. What is portable is left out where the file system does not take it.
pub(crate) fn write(
    parent: BorrowedFd<'_>,
    name: &[u8],
    attributes: &[Attribute],
    fidelity: Fidelity,
) -> Result<()> {
    if attributes.is_empty() {
        return Ok(());
    }
    let path = &path(parent, name)[..];
    write_by(attributes, fidelity, |attribute, value| {
        rustix::fs::lsetxattr(path, attribute, value, XattrFlags::empty())
    })
}

/// The same for an open file.
pub(crate) fn write_open(file: BorrowedFd<'_>, attributes: &[Attribute], fidelity: Fidelity) -> Result<()> {
    write_by(attributes, fidelity, |attribute, value| {
        rustix::fs::fsetxattr(file, attribute, value, XattrFlags::empty())
    })
}

fn write_by(
    attributes: &[Attribute],
    fidelity: Fidelity,
    set: impl Fn(&[u8], &[u8]) -> Result<()>,
) -> Result<()> {
    for (attribute, value) in attributes.iter().filter(|(name, _)| is_kept(name, fidelity)) {
        match set(attribute, value) {
            Err(Errno::NOTSUP | Errno::PERM) if fidelity == Fidelity::Portable => {}
            other => other?,
        }
    }
    Ok(())
}
