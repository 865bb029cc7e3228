use std::io;

/// Why a tree cannot be moved.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The system refused something about a file.
    #[error("{path:?}: {source}")]
    File {
        /// The file, as text for people.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The tree or the archive holds what is not accepted.
    #[error("{path:?}: {reason}")]
    Refused {
        /// The entry, as text for people.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// The tree grows over a limit that the caller set.
    #[error("the tree has more than {limit} {what}")]
    OverLimit {
        /// What is counted.
        what: &'static str,
        /// How much of it is allowed.
        limit: u64,
    },
    /// The archive cannot be read on.
    #[error(transparent)]
    Read(#[from] crate::pax::ReadError),
    /// The archive cannot be written on.
    #[error(transparent)]
    Write(#[from] crate::pax::WriteError),
}

/// Names the file that an error is about.
pub(crate) trait At<T> {
    fn at(self, path: &[u8]) -> Result<T, TreeError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, path: &[u8]) -> Result<T, TreeError> {
        self.map_err(|source| TreeError::File { path: lossy(path), source: source.into() })
    }
}

pub(crate) fn refused(path: &[u8], reason: &'static str) -> TreeError {
    TreeError::Refused { path: lossy(path), reason }
}

pub(crate) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
