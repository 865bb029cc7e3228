use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::limits::{MAX_REMOVE_DEPTH, MAX_WALK_NAME_BYTES};
use crate::walk::{Names, directory_buffer, open_below};

struct Level {
    directory: OwnedFd,
    names: Names,
    /// Its name in the level above.
    name: Vec<u8>,
}

/// Removes a name and, if it is a directory, all below it; links are not followed. Gives how many names
/// went; none is no error.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<u64> {
    match unlink(parent, name)? {
        Unlinked::Gone => return Ok(0),
        Unlinked::Removed => return Ok(1),
        Unlinked::Directory => {}
    }
    let mut buffer = directory_buffer();
    let mut open = |parent: BorrowedFd<'_>, name: &[u8]| {
        let directory = open_below(parent, name)?;
        let names = Names::read(directory.as_fd(), &mut buffer, MAX_WALK_NAME_BYTES)?;
        Ok::<_, Errno>(Level { directory, names, name: name.to_vec() })
    };
    let mut levels = vec![open(parent, name)?];
    let mut count = 0;
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.take() else {
            let done = levels.pop().expect("the loop's condition");
            let above = levels.last().map_or(parent, |level| level.directory.as_fd());
            drop(done.directory);
            match rustix::fs::unlinkat(above, &done.name[..], AtFlags::REMOVEDIR) {
                Ok(()) => count += 1,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
            continue;
        };
        match unlink(level.directory.as_fd(), name)? {
            Unlinked::Gone => {}
            Unlinked::Removed => count += 1,
            Unlinked::Directory => {
                let below = open(level.directory.as_fd(), name)?;
                levels.push(below);
                if levels.len() > MAX_REMOVE_DEPTH {
                    return Err(Errno::NAMETOOLONG);
                }
            }
        }
    }
    Ok(count)
}

enum Unlinked {
    Gone,
    Removed,
    Directory,
}

fn unlink(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Unlinked> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) => Ok(Unlinked::Removed),
        Err(Errno::NOENT) => Ok(Unlinked::Gone),
        Err(Errno::ISDIR) => Ok(Unlinked::Directory),
        Err(error) => Err(error),
    }
}
