use crate::exec::AgentError;
use crate::problem::{Blame, Explain, Problem};
use pyro_tree::TreeError;
use std::io;
use std::path::PathBuf;

/// Why a tree did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The seed is not there.
    #[error("seed_path {} does not exist", .0.display())]
    SeedMissing(PathBuf),
    /// The seed is something else.
    #[error("seed_path must be a directory or a .tar/.tar.gz/.tgz/.tar.zst archive, and {} is neither", .0.display())]
    SeedKind(PathBuf),
    /// The seed cannot be opened.
    #[error("cannot open seed_path {}", path.display())]
    SeedUnreadable {
        /// The seed.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An archive has no git index.
    #[error("seed_filter git needs a directory, and seed_path {} is an archive", .0.display())]
    FilteredArchive(PathBuf),
    /// The seed is in no git work tree.
    #[error("seed_filter git needs a git work tree, and seed_path {} is in none", .0.display())]
    NotARepository(PathBuf),
    /// git is not installed, or does not start.
    #[error("cannot run git")]
    GitMissing(#[source] io::Error),
    /// git could not list the files.
    #[error("git cannot list the files of {}: {reason}", path.display())]
    Git {
        /// The work tree.
        path: PathBuf,
        /// git's own words.
        reason: String,
    },
    /// Part of the seed cannot be read or is not accepted.
    #[error("cannot send seed_path {}", path.display())]
    Seed {
        /// The seed.
        path: PathBuf,
        /// What and why.
        source: TreeError,
    },
    /// The path has no last name.
    #[error("output_path {} does not name a file or directory", .0.display())]
    OutputName(PathBuf),
    /// Something is there.
    #[error("output_path already exists: {}", .0.display())]
    OutputExists(PathBuf),
    /// The place for the output cannot be made or filled.
    #[error("cannot write output_path {}", path.display())]
    Output {
        /// Where it was to be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Part of what the guest sent cannot be written or is not accepted.
    #[error("cannot write output_path {}", path.display())]
    Unpack {
        /// Where it was to be.
        path: PathBuf,
        /// What and why.
        source: TreeError,
    },
    /// All there is to write is a symbolic link that leads out.
    #[error("it is a symbolic link to {target:?}, which leads out of what is exported")]
    LinkOutside {
        /// Where it leads.
        target: String,
    },
    /// All there is to write is a named pipe.
    #[error("it is a named pipe, which cannot be copied out")]
    Pipe,
    /// The guest sent something that is neither a tree nor one entry.
    #[error("the guest sent neither a directory nor a single file")]
    Shapeless,
    /// The agent refused or the connection broke.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The transfer was given up.
    #[error("the transfer was stopped")]
    Stopped,
    /// A thread of ours failed.
    #[error("the transfer's thread panicked")]
    Panicked,
}

impl Explain for TransferError {
    fn explain(&self) -> Problem {
        match self {
            Self::SeedMissing(_) => Problem::new("seed_missing", Blame::Caller, self),
            Self::SeedKind(_) => Problem::new("seed_kind", Blame::Caller, self),
            Self::SeedUnreadable { .. } => Problem::new("seed_unreadable", Blame::Caller, self),
            Self::FilteredArchive(_) | Self::NotARepository(_) => {
                Problem::new("seed_filter", Blame::Caller, self).with_hint("seed_filter all takes every file")
            }
            Self::GitMissing(_) => Problem::new("git_missing", Blame::Host, self)
                .with_hint("install git, or use seed_filter all"),
            Self::Git { .. } => Problem::new("git_failed", Blame::Caller, self)
                .with_hint("`git status` there must work, or use seed_filter all"),
            Self::Seed { source, .. } => explain_seed(source, self),
            Self::OutputName(_) => Problem::new("output_name", Blame::Caller, self),
            Self::OutputExists(_) => Problem::new("output_exists", Blame::Caller, self)
                .with_hint("choose another path, or overwrite it with force"),
            Self::Output { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory => {
                    Problem::new("output_failed", Blame::Caller, self)
                        .with_hint("choose a place that you can write to")
                }
                _ => Problem::new("output_failed", Blame::Host, self),
            },
            Self::Unpack { source, .. } => explain_unpack(source, self),
            Self::LinkOutside { .. } => Problem::new("link_outside", Blame::Caller, self)
                .with_hint("export what it leads to, or allow all links"),
            Self::Pipe => Problem::new("export_kind", Blame::Caller, self),
            Self::Shapeless => Problem::new("guest_protocol", Blame::Guest, self),
            Self::Agent(error) => error.explain(),
            Self::Stopped => Problem::new("transfer_stopped", Blame::Caller, self),
            Self::Panicked => Problem::new("transfer_panicked", Blame::Bug, self),
        }
    }
}

fn explain_seed(source: &TreeError, shown: &TransferError) -> Problem {
    match source {
        TreeError::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Problem::new("seed_unreadable", Blame::Caller, shown)
                .with_hint("make it readable, or leave it out of the seed")
        }
        TreeError::File { .. } => Problem::new("seed_unreadable", Blame::Host, shown),
        TreeError::Refused { .. }
        | TreeError::OverLimit { .. }
        | TreeError::Read(_)
        | TreeError::Write(_) => Problem::new("seed_refused", Blame::Caller, shown),
    }
}

fn explain_unpack(source: &TreeError, shown: &TransferError) -> Problem {
    match source {
        TreeError::File { .. } => Problem::new("output_failed", Blame::Host, shown),
        TreeError::Refused { .. }
        | TreeError::OverLimit { .. }
        | TreeError::Read(_)
        | TreeError::Write(_) => Problem::new("guest_tree", Blame::Guest, shown),
    }
}
