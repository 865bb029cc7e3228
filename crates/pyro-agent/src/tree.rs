//! Trees to and from the host, over one connection.

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use pyro_agent::wire::{Failure, FailureCode, TreeStats};
use pyro_tree::{PackOptions, TreeError, UnpackOptions};

use crate::connection::{Connection, DataReader, DataWriter, failure};

/// Sends the tree at `path`.
pub(crate) fn send(connection: &mut Connection, path: &str) -> Result<TreeStats, Failure> {
    absolute(path)?;
    let mut stream = DataWriter::new(connection);
    let stats = pyro_tree::pack(Path::new(path), &mut stream, &PackOptions::default())
        .map_err(|error| refusal(&error))?;
    stream.finish().map_err(|error| failure(FailureCode::Os, format!("the host left: {error}")))?;
    Ok(to_wire(&stats))
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
