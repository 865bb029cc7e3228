//! Trees to and from the host, over one connection.

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use pyro_agent::wire::{Failure, FailureCode, GuestPath, TreeStats};
use pyro_tree::{PackOptions, TreeError, UnpackOptions};

use crate::connection::{Connection, DataReader, DataWriter, failure};
use crate::exec::WORKSPACE;
use crate::paths::{FileError, Root};

/// Where an open directory has a path that nobody can move.
const DESCRIPTORS: &str = "/proc/self/fd";

/// Sends the tree at `path`. No link on the way there leads out of the workspace.
pub(crate) fn send(connection: &mut Connection, path: &str) -> Result<TreeStats, Failure> {
    absolute(path)?;
    send_from(connection, Path::new(WORKSPACE), Path::new(path))
}

fn send_from(connection: &mut Connection, root: &Path, path: &Path) -> Result<TreeStats, Failure> {
    let parent = parent_below(root, path)?;
    let held = parent.as_ref().zip(path.file_name());
    let place =
        held.map(|(parent, name)| Path::new(DESCRIPTORS).join(parent.as_raw_fd().to_string()).join(name));
    let mut stream = DataWriter::new(connection);
    let stats = pyro_tree::pack(place.as_deref().unwrap_or(path), &mut stream, &PackOptions::default())
        .map_err(|error| refusal(&error))?;
    stream.finish().map_err(|error| failure(FailureCode::Os, format!("the host left: {error}")))?;
    Ok(to_wire(&stats))
}

/// The directory that something below `root` lies in; `None` for the root itself and for what is elsewhere.
fn parent_below(root: &Path, path: &Path) -> Result<Option<OwnedFd>, FileError> {
    if path == root || !path.starts_with(root) {
        return Ok(None);
    }
    let root = Root::open(&GuestPath::new(root.as_os_str().as_bytes()))?;
    let spot = root.absolute(&GuestPath::new(path.as_os_str().as_bytes()))?;
    root.stat(&spot)?;
    root.open_parent(&spot).map(Some)
}

/// Receives a tree into `path`.
pub(crate) fn receive(connection: &mut Connection, path: &str) -> Result<TreeStats, Failure> {
    absolute(path)?;
    let mut stream = DataReader::new(connection);
    let stats = pyro_tree::unpack(Path::new(path), &mut stream, &UnpackOptions::default())
        .map_err(|error| refusal(&error))?;
    // What follows the archive's end mark, up to the frame that ends the transfer.
    io::copy(&mut stream, &mut io::sink())
        .map_err(|error| failure(FailureCode::Os, format!("the host left: {error}")))?;
    Ok(to_wire(&stats))
}

fn refusal(error: &TreeError) -> Failure {
    let code = match error {
        TreeError::File { source, .. } => match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => FailureCode::NotFound,
            io::ErrorKind::PermissionDenied => FailureCode::PermissionDenied,
            _ => FailureCode::Os,
        },
        TreeError::Refused { .. }
        | TreeError::OverLimit { .. }
        | TreeError::Read(_)
        | TreeError::Write(_) => FailureCode::BadRequest,
    };
    failure(code, error.to_string())
}

fn to_wire(stats: &pyro_tree::TreeStats) -> TreeStats {
    TreeStats {
        entry_count: stats.entry_count,
        bytes_written: stats.bytes_written,
        skipped_count: stats.skipped_count,
    }
}

fn absolute(path: &str) -> Result<(), Failure> {
    if path.starts_with('/') && !path.contains('\0') {
        return Ok(());
    }
    Err(failure(FailureCode::BadRequest, format!("{path:?} is no absolute path")))
}
