//! Programs that are clients of MCP servers: where each keeps its list of servers, and pyro's entry there.
//!
//! Nothing here prints or reads the environment. An edit keeps everything that it is not about: comments, order,
//! indentation, line ends and the entries of others; where that cannot be promised, the file stays as it is.

mod config_file;
mod document;
mod entry;
mod json_text;
mod launch;
mod registrar;
mod report;
mod settlement;
mod toml_text;

pub(crate) use config_file::{ConfigFile, FileError};
pub(crate) use document::{DocumentError, Syntax, fragment};
pub(crate) use entry::{Entry, Standing};
pub(crate) use launch::{CommandStyle, Launch, LaunchError};
pub(crate) use registrar::{RegisterError, Registration, find_program};
pub(crate) use report::{ClientReport, PlaceReport, examine};
pub(crate) use settlement::{Done, Settlement};

use crate::settings::Surroundings;
use clap::ValueEnum;
use pyro_core::{Blame, Explain, Problem};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What pyro's entry is called everywhere.
pub(crate) const ENTRY: &str = "pyro";

/// A program that can use pyro.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Client {
    ClaudeCode,
    Codex,
    Opencode,
    Cursor,
    Vscode,
}

/// Whose servers a list has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scope {
    /// The user's, in every project.
    User,
    /// The project's, for everybody who works on it.
    Project,
    /// The user's in this project alone; Claude Code has it, pyro only looks at it.
    #[value(skip)]
    Local,
}

impl Scope {
    /// Whether pyro adds entries to such lists.
    pub(crate) fn is_offered(self) -> bool {
        self != Self::Local
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Project => "project",
            Self::Local => "local",
        }
    }
}

/// A list of servers of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) scope: Scope,
    pub(crate) path: PathBuf,
    pub(crate) syntax: Syntax,
    /// The tables, from the outermost, that the list is in.
    pub(crate) tables: Vec<String>,
}

impl Client {
    pub(crate) const ALL: [Self; 5] =
        [Self::ClaudeCode, Self::Codex, Self::Opencode, Self::Cursor, Self::Vscode];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ClaudeCode => "claude-code",
            Self::Codex => "codex",
            Self::Opencode => "opencode",
            Self::Cursor => "cursor",
            Self::Vscode => "vscode",
        }
    }

    /// What its program is called.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::ClaudeCode => "claude",
            Self::Codex => "codex",
            Self::Opencode => "opencode",
            Self::Cursor => "cursor",
            Self::Vscode => "code",
        }
    }

    /// Where an entry goes when nothing is said of it. VS Code's user-wide list depends on a profile.
    pub(crate) fn default_scope(self) -> Scope {
        match self {
            Self::ClaudeCode | Self::Codex | Self::Opencode | Self::Cursor => Scope::User,
            Self::Vscode => Scope::Project,
        }
    }

    /// All its lists of servers that pyro knows, the one that a client prefers last.
    pub(crate) fn places(self, around: &Surroundings) -> Vec<Place> {
        let project = project_dir(&around.current_dir);
        let place = |scope, path: PathBuf, syntax, tables: &[&str]| Place {
            scope,
            path,
            syntax,
            tables: tables.iter().map(|table| (*table).to_owned()).collect(),
        };
        let json = |scope, path: PathBuf, table: &str| {
            place(scope, path, Syntax::Json, std::slice::from_ref(&table))
        };
        match self {
            Self::ClaudeCode => {
                let own = around.claude_config_dir.as_ref().unwrap_or(&around.home).join(".claude.json");
                let local = project.to_string_lossy().into_owned();
                vec![
                    json(Scope::User, own.clone(), "mcpServers"),
                    json(Scope::Project, project.join(".mcp.json"), "mcpServers"),
                    place(Scope::Local, own, Syntax::Json, &["projects", &local, "mcpServers"]),
                ]
            }
            Self::Codex => {
                let home = around.codex_home.clone().unwrap_or_else(|| around.home.join(".codex"));
                let toml = |scope, path| place(scope, path, Syntax::Toml, &["mcp_servers"]);
                vec![
                    toml(Scope::User, home.join("config.toml")),
                    toml(Scope::Project, project.join(".codex/config.toml")),
                ]
            }
            Self::Opencode => {
                let user = around.config_home.join("opencode");
                vec![
                    json(Scope::User, opencode_file(&user), "mcp"),
                    json(Scope::Project, opencode_file(&project), "mcp"),
                ]
            }
            Self::Cursor => vec![
                json(Scope::User, around.home.join(".cursor/mcp.json"), "mcpServers"),
                json(Scope::Project, project.join(".cursor/mcp.json"), "mcpServers"),
            ],
            Self::Vscode => vec![
                json(Scope::User, around.config_home.join("Code/User/mcp.json"), "servers"),
                json(Scope::Project, project.join(".vscode/mcp.json"), "servers"),
            ],
        }
    }

    /// Its list of `scope`.
    pub(crate) fn place(self, scope: Scope, around: &Surroundings) -> Place {
        let mut places = self.places(around).into_iter();
        places.find(|place| place.scope == scope).expect("every client has lists of users and of projects")
    }

    /// Whether it seems to be used here: its program is found, or it keeps configuration of this user.
    pub(crate) fn is_installed(self, around: &Surroundings) -> bool {
        let kept = match self {
            Self::ClaudeCode => around.home.join(".claude.json"),
            Self::Codex => around.codex_home.clone().unwrap_or_else(|| around.home.join(".codex")),
            Self::Opencode => around.config_home.join("opencode"),
            Self::Cursor => around.home.join(".cursor"),
            Self::Vscode => around.config_home.join("Code"),
        };
        find_program(&around.program_path, self.program()).is_some() || kept.exists()
    }
}

/// The git checkout that `directory` is in, otherwise itself.
pub(crate) fn project_dir(directory: &Path) -> PathBuf {
    let checkout = directory.ancestors().find(|dir| dir.join(".git").exists());
    checkout.unwrap_or(directory).to_owned()
}

/// opencode takes either name; a file that is there is the one that is used.
fn opencode_file(dir: &Path) -> PathBuf {
    let with_comments = dir.join("opencode.jsonc");
    match with_comments.exists() {
        true => with_comments,
        false => dir.join("opencode.json"),
    }
}

/// Why a client cannot be connected or looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot edit '{}'", .path.display())]
    Document { path: PathBuf, source: DocumentError },
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Register(#[from] RegisterError),
}

impl Explain for ClientError {
    fn explain(&self) -> Problem {
        match self {
            Self::File(error) => error.explain(),
            Self::Document { .. } => Problem::new("bad_client_config", Blame::Caller, self).with_hint(
                "the file was left as it is: repair it, or add by hand what `pyro host print-config` prints",
            ),
            Self::Launch(error) => error.explain(),
            Self::Register(error) => error.explain(),
        }
    }
}

#[cfg(test)]
mod tests;
