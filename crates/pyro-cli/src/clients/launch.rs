//! The command that starts a server.

use super::find_program;
use crate::commands::mcp::serve::ServeArgs;
use crate::settings::Surroundings;
use clap::ValueEnum;
use pyro_core::{Blame, Explain, Problem};
use pyro_mcp::UnknownSurface;
use std::path::{Path, PathBuf};

/// What a client calls to have pyro.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum CommandStyle {
    /// This pyro: by its name where PATH finds it, otherwise by its path.
    #[default]
    Installed,
    /// `uvx --from pyro-mcp pyro`, which gets pyro when it is started.
    Uvx,
}

/// The words of a command that starts a server, the program first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Launch {
    pub(crate) words: Vec<String>,
}

/// Why there is no such command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error(transparent)]
    Surface(#[from] UnknownSurface),
    #[error("'{}' is not a directory", .0.display())]
    NoDirectory(PathBuf),
    #[error("the path '{}' is not text, which configuration files need", .0.display())]
    NotText(PathBuf),
}

impl Explain for LaunchError {
    fn explain(&self) -> Problem {
        match self {
            Self::Surface(_) => Problem::new("unknown_surface", Blame::Caller, self),
            Self::NoDirectory(_) => Problem::new("bad_project", Blame::Caller, self),
            Self::NotText(_) => Problem::new("bad_path", Blame::Caller, self),
        }
    }
}

impl Launch {
    /// The command for a server that is to be as `server` says.
    pub(crate) fn new(
        server: &ServeArgs,
        style: CommandStyle,
        around: &Surroundings,
    ) -> Result<Self, LaunchError> {
        server.surface()?;
        let mut words = match style {
            CommandStyle::Installed => vec![installed(around)?],
            CommandStyle::Uvx => ["uvx", "--from", "pyro-mcp", "pyro"].map(str::to_owned).to_vec(),
        };
        words.extend(["mcp", "serve"].map(str::to_owned));
        for (option, value) in [("--profile", &server.profile), ("--mode", &server.mode)] {
            words.extend(value.iter().flat_map(|value| [option.to_owned(), value.clone()]));
        }
        if let Some(path) = &server.project_path {
            words.extend(["--project-path".to_owned(), directory(path)?]);
        }
        for (option, value) in [("--repo-url", &server.repo_url), ("--repo-ref", &server.repo_ref)] {
            words.extend(value.iter().flat_map(|value| [option.to_owned(), value.clone()]));
        }
        if server.no_project_source {
            words.push("--no-project-source".to_owned());
        }
        for path in &server.allow_path {
            words.extend(["--allow-path".to_owned(), directory(path)?]);
        }
        if server.allow_network {
            words.push("--allow-network".to_owned());
        }
        Ok(Self { words })
    }

    pub(crate) fn program(&self) -> &str {
        &self.words[0]
    }

    pub(crate) fn arguments(&self) -> &[String] {
        &self.words[1..]
    }
}

fn installed(around: &Surroundings) -> Result<String, LaunchError> {
    let own = around.executable.canonicalize().unwrap_or_else(|_| around.executable.clone());
    let found = find_program(&around.program_path, "pyro").and_then(|path| path.canonicalize().ok());
    match found == Some(own) {
        true => Ok("pyro".to_owned()),
        false => text(&around.executable),
    }
}

/// Clients start servers wherever they like, so that only a whole path means the same.
fn directory(path: &Path) -> Result<String, LaunchError> {
    let whole = path.canonicalize().map_err(|_| LaunchError::NoDirectory(path.to_owned()))?;
    match whole.is_dir() {
        true => text(&whole),
        false => Err(LaunchError::NoDirectory(path.to_owned())),
    }
}

fn text(path: &Path) -> Result<String, LaunchError> {
    path.to_str().map(str::to_owned).ok_or_else(|| LaunchError::NotText(path.to_owned()))
}
