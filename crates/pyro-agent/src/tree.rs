//! Trees to and from the host.

mod pack;
#[cfg(test)]
mod tests;
mod unpack;
mod xattrs;

use std::io;

use pyro_agent::wire::{Failure, FailureCode, TreeStats};

use crate::connection::{Connection, DataReader, DataWriter, failure};

/// Why a tree cannot be moved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    #[error("{path:?}: {source}")]
    File { path: String, source: io::Error },
    #[error("{path:?}: {reason}")]
    Refused { path: String, reason: &'static str },
    #[error(transparent)]
    Read(#[from] pyro_agent::pax::ReadError),
    #[error(transparent)]
    Write(#[from] pyro_agent::pax::WriteError),
}

impl TreeError {
    fn failure(&self) -> Failure {
        let code = match self {
            Self::File { source, .. } => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => FailureCode::NotFound,
                io::ErrorKind::PermissionDenied => FailureCode::PermissionDenied,
                _ => FailureCode::Os,
            },
            Self::Refused { .. } | Self::Read(_) | Self::Write(_) => FailureCode::BadRequest,
        };
        failure(code, self.to_string())
    }
}

/// Names the file that an error is about.
trait At<T> {
    fn at(self, path: &[u8]) -> Result<T, TreeError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, path: &[u8]) -> Result<T, TreeError> {
        self.map_err(|source| TreeError::File { path: lossy(path), source: source.into() })
    }
}

fn refused(path: &[u8], reason: &'static str) -> TreeError {
    TreeError::Refused { path: lossy(path), reason }
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Sends the tree at `path`.
pub(crate) fn send(connection: &mut Connection, path: &str) -> Result<TreeStats, Failure> {
    absolute(path)?;
    let mut stream = DataWriter::new(connection);
    let stats = pack::pack(path, &mut stream).map_err(|error| error.failure())?;
    stream.finish().map_err(|error| failure(FailureCode::Os, format!("the host left: {error}")))?;
    Ok(stats)
}

/// Receives a tree into `path`.
pub(crate) fn receive(connection: &mut Connection, path: &str) -> Result<TreeStats, Failure> {
    absolute(path)?;
    let mut stream = DataReader::new(connection);
    let stats = unpack::unpack(path, &mut stream).map_err(|error| error.failure())?;
    // What follows the archive's end mark, up to the frame that ends the transfer.
    io::copy(&mut stream, &mut io::sink())
        .map_err(|error| failure(FailureCode::Os, format!("the host left: {error}")))?;
    Ok(stats)
}

fn absolute(path: &str) -> Result<(), Failure> {
    if path.starts_with('/') && !path.contains('\0') {
        return Ok(());
    }
    Err(failure(FailureCode::BadRequest, format!("{path:?} is no absolute path")))
}
