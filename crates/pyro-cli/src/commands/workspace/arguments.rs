//! What the workspace commands' arguments say, and what is wrong with them beyond their syntax.

use crate::commands::command_line::CommandLineError;
use crate::commands::company::AuthorityArgumentError;
use crate::commands::network::RuleArgumentError;
use clap::ValueEnum;
use pyro_core::services::ServiceSyntaxError;
use pyro_core::workspace::{SecretSpec, SecretValue, SeedFilter};
use pyro_core::{Blame, Explain, Problem};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// What is wrong. The values of secrets are never told.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArgumentError {
    #[error("workspace labels must use KEY=VALUE, not '{0}'")]
    Label(String),
    #[error("workspace clear-label values must not be empty")]
    ClearLabel,
    #[error("workspace secrets must use NAME=VALUE")]
    Secret,
    #[error("secret '{0}' has no value: the environment variable {0} is not set")]
    SecretUnset(String),
    #[error("secret '{0}' must be valid UTF-8 text")]
    SecretNotText(String),
    #[error("workspace secret files must use NAME=PATH, not '{0}'")]
    SecretFile(String),
    #[error("workspace secret env mappings must name a secret, not '{0}'")]
    SecretEnvSecret(String),
    #[error("workspace secret env mappings must name an environment variable, not '{0}'")]
    SecretEnvVariable(String),
    #[error("workspace secret env mapping references '{0}' more than once")]
    SecretEnvTwice(String),
    #[error("--from-snapshot must use WORKSPACE:SNAPSHOT, not '{0}'")]
    SnapshotAddress(String),
    #[error("{option} file not found: {}", .path.display())]
    NoFile { option: &'static str, path: PathBuf },
    #[error("{option} must point to a file, not a directory: {}", .path.display())]
    NotAFile { option: &'static str, path: PathBuf },
    #[error("{option} cannot be read")]
    Unreadable { option: &'static str, source: io::Error },
    #[error("{option} must be at most {most} bytes")]
    TooLarge { option: &'static str, most: u64 },
    #[error(transparent)]
    Command(#[from] CommandLineError),
    #[error("choose at most one of --ready-file, --ready-tcp, --ready-http, or --ready-command")]
    ReadyTwice,
    #[error(transparent)]
    Service(#[from] ServiceSyntaxError),
    #[error(transparent)]
    Rules(#[from] RuleArgumentError),
    #[error(transparent)]
    Authorities(#[from] AuthorityArgumentError),
}

impl ArgumentError {
    /// `example` is a command line that works.
    pub(super) fn no_command(example: &'static str) -> Self {
        Self::Command(CommandLineError::NoCommand { example })
    }
}

impl Explain for ArgumentError {
    fn explain(&self) -> Problem {
        let problem = |code| Problem::new(code, Blame::Caller, self);
        match self {
            Self::Label(_) | Self::ClearLabel => problem("invalid_label"),
            Self::Secret => problem("invalid_secret")
                .with_hint("--secret NAME takes the value of the environment variable NAME"),
            Self::SecretUnset(name) => problem("invalid_secret")
                .with_hint(format!("export {name}, or use --secret-file {name}=PATH")),
            Self::SecretNotText(_) | Self::SecretFile(_) => problem("invalid_secret"),
            Self::SecretEnvSecret(_) | Self::SecretEnvVariable(_) => problem("invalid_secret_env")
                .with_hint("--secret-env NAME, or --secret-env NAME=VARIABLE to call it otherwise"),
            Self::SecretEnvTwice(_) => problem("invalid_secret_env"),
            Self::SnapshotAddress(_) => {
                problem("invalid_snapshot_address").with_hint("for example: --from-snapshot fix:baseline")
            }
            Self::NoFile { .. } | Self::NotAFile { .. } | Self::Unreadable { .. } => {
                problem("unreadable_file")
            }
            Self::TooLarge { .. } => {
                problem("too_large").with_hint("`pyro workspace sync push` copies files of any size")
            }
            Self::Command(error) => error.explain(),
            Self::ReadyTwice => {
                problem("invalid_readiness").with_hint("--ready-command can look at several things")
            }
            Self::Service(error) => error.explain(),
            Self::Rules(error) => error.explain(),
            Self::Authorities(error) => error.explain(),
        }
    }
}

/// What to take of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Filter {
    /// Everything.
    All,
    /// What git tracks, and what it neither tracks nor ignores.
    Git,
}

impl From<Filter> for SeedFilter {
    fn from(filter: Filter) -> Self {
        match filter {
            Filter::All => Self::All,
            Filter::Git => Self::Git,
        }
    }
}

/// `KEY=VALUE`, each.
pub(super) fn labels(texts: &[String]) -> Result<Vec<(String, String)>, ArgumentError> {
    let split = |text: &String| {
        let (key, value) = text.split_once('=').ok_or_else(|| ArgumentError::Label(text.clone()))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    texts.iter().map(split).collect()
}

/// Keys of labels to remove.
pub(super) fn label_keys(texts: &[String]) -> Result<Vec<String>, ArgumentError> {
    match texts.iter().any(|text| text.trim().is_empty()) {
        true => Err(ArgumentError::ClearLabel),
        false => Ok(texts.to_vec()),
    }
}

/// `NAME=VALUE`, or `NAME` alone whose value `variable` looks up; then `NAME=PATH` of the files.
pub(super) fn secrets(
    literals: &[String],
    files: &[String],
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Vec<SecretSpec>, ArgumentError> {
    let literals = literals.iter().map(|text| literal_secret(text, variable));
    literals.chain(files.iter().map(|text| file_secret(text))).collect()
}

fn literal_secret(
    text: &str,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Result<SecretSpec, ArgumentError> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => (name, value.to_owned()),
        // What is no name could be a value in the wrong place, so it is not told.
        None if is_variable(text) => {
            let value = variable(text).ok_or_else(|| ArgumentError::SecretUnset(text.to_owned()))?;
            (text, value.into_string().map_err(|_| ArgumentError::SecretNotText(text.to_owned()))?)
        }
        _ => return Err(ArgumentError::Secret),
    };
    Ok(SecretSpec { name: name.to_owned(), value: SecretValue::Literal(value) })
}

fn file_secret(text: &str) -> Result<SecretSpec, ArgumentError> {
    match text.split_once('=') {
        Some((name, path)) if !name.trim().is_empty() && !path.is_empty() => {
            Ok(SecretSpec { name: name.to_owned(), value: SecretValue::File(path.into()) })
        }
        _ => Err(ArgumentError::SecretFile(text.to_owned())),
    }
}

fn is_variable(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.starts_with(|c: char| inner(c) && !c.is_ascii_digit()) && text.chars().all(inner)
}

/// `SECRET`, or `SECRET=VARIABLE`; each secret once.
pub(super) fn secret_env(texts: &[String]) -> Result<Vec<(String, String)>, ArgumentError> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for text in texts {
        let (secret, variable) = text.split_once('=').unwrap_or((text, text));
        if secret.trim().is_empty() {
            return Err(ArgumentError::SecretEnvSecret(text.clone()));
        }
        if variable.trim().is_empty() {
            return Err(ArgumentError::SecretEnvVariable(text.clone()));
        }
        if pairs.iter().any(|(known, _)| known == secret) {
            return Err(ArgumentError::SecretEnvTwice(secret.to_owned()));
        }
        pairs.push((secret.to_owned(), variable.to_owned()));
    }
    Ok(pairs)
}

/// `WORKSPACE:SNAPSHOT`. The names of neither hold the colon's last occurrence.
pub(super) fn snapshot_address(text: &str) -> Result<(String, String), ArgumentError> {
    match text.rsplit_once(':') {
        Some((workspace, snapshot)) if !workspace.is_empty() && !snapshot.is_empty() => {
            Ok((workspace.to_owned(), snapshot.to_owned()))
        }
        _ => Err(ArgumentError::SnapshotAddress(text.to_owned())),
    }
}

/// A path of the host as records and results show it: from the root. What cannot be made so stays as it is.
pub(super) fn host_path(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests;
