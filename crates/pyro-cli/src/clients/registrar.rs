//! Clients whose own program adds a server to their list.

use super::{Client, ENTRY, Launch, Scope, project_dir};
use crate::settings::Surroundings;
use pyro_core::{Blame, Explain, Problem};
use std::env;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Node programs take seconds to start on a busy machine; one that asks something would never end.
const PROGRAM_DEADLINE: Duration = Duration::from_secs(60);

/// A call of a client's program that adds pyro.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registration {
    pub(crate) program: PathBuf,
    /// The program's name and its arguments.
    pub(crate) words: Vec<String>,
    dir: PathBuf,
}

/// Why a client's program did not add it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegisterError {
    #[error("cannot run '{}'", .program.display())]
    Spawn { program: PathBuf, source: io::Error },
    #[error("'{}' failed: {told}", .program.display())]
    Failed { program: PathBuf, told: String },
    #[error("'{}' did not end within {} seconds", .0.display(), PROGRAM_DEADLINE.as_secs())]
    Deadline(PathBuf),
}

impl Explain for RegisterError {
    fn explain(&self) -> Problem {
        Problem::new("client_program_failed", Blame::Host, self).with_hint(
            "run the program yourself, or edit its file: `pyro host print-config` prints what goes there",
        )
    }
}

impl Registration {
    /// The call for `client`, where its program is there and can do it.
    pub(crate) fn new(client: Client, scope: Scope, launch: &Launch, around: &Surroundings) -> Option<Self> {
        let options: &[&str] = match (client, scope) {
            (Client::ClaudeCode, Scope::User) => &["--scope", "user"],
            (Client::ClaudeCode, Scope::Project) => &["--scope", "project"],
            (Client::Codex, Scope::User) => &[],
            (Client::ClaudeCode, Scope::Local)
            | (Client::Codex, Scope::Project | Scope::Local)
            | (Client::Opencode | Client::Cursor | Client::Vscode, _) => return None,
        };
        let program = find_program(&around.program_path, client.program())?;
        let words = [&[client.program(), "mcp", "add"], options, &[ENTRY, "--"]].concat();
        let words = words.into_iter().map(str::to_owned).chain(launch.words.iter().cloned()).collect();
        Some(Self { program, words, dir: project_dir(&around.current_dir) })
    }

    /// Does it.
    pub(crate) async fn run(&self) -> Result<(), RegisterError> {
        let mut command = Command::new(&self.program);
        command.args(&self.words[1..]).current_dir(&self.dir).stdin(Stdio::null());
        let mut command = tokio::process::Command::from(command);
        let running = command.kill_on_drop(true).output();
        let ended = tokio::time::timeout(PROGRAM_DEADLINE, running).await;
        let ended = ended.map_err(|_| RegisterError::Deadline(self.program.clone()))?;
        let ended = ended.map_err(|source| RegisterError::Spawn { program: self.program.clone(), source })?;
        if ended.status.success() {
            return Ok(());
        }
        // What went wrong comes last, after warnings.
        let texts = [&ended.stdout, &ended.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let said = texts.iter().flat_map(|text| text.lines()).rfind(|line| !line.trim().is_empty());
        let told = said.map_or_else(|| ended.status.to_string(), |line| line.trim().to_owned());
        Err(RegisterError::Failed { program: self.program.clone(), told })
    }
}

/// The first program of that name in a search path.
pub(crate) fn find_program(path: &OsStr, name: &str) -> Option<PathBuf> {
    let runs = |path: &Path| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    env::split_paths(path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)).find(|path| runs(path))
}
