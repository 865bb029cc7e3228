//! What callers may name things: rules without a database.

use crate::problem::{Blame, Explain, Problem};
use std::collections::BTreeMap;

/// The snapshot that each workspace has from its creation.
pub const BASELINE: &str = "baseline";
/// Characters of a workspace's name and of a label's value.
pub const TEXT_CHARS: usize = 120;
/// Characters of keys, snapshots' and secrets' names.
pub const WORD_CHARS: usize = 64;
/// Labels of one workspace. They are shown in one line.
pub const LABELS: usize = 64;
/// Secrets of one workspace. Each is a file in the guest's memory.
pub const SECRETS: usize = 256;

const WORD_RULE: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$";
const VARIABLE_RULE: &str = "^[A-Za-z_][A-Za-z0-9_]{0,63}$";

/// A name that does not follow its rule.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// Nothing but space.
    #[error("{what} must not be empty")]
    Empty {
        /// What it is, as callers call it.
        what: String,
    },
    /// More characters than there is room for.
    #[error("{what} must be at most {TEXT_CHARS} characters, not {chars}")]
    TooLong {
        /// What it is.
        what: String,
        /// How many it has.
        chars: usize,
    },
    /// Line ends, escapes and the like, which would disturb what shows them.
    #[error("{what} must not contain newlines or other control characters")]
    Control {
        /// What it is.
        what: String,
    },
    /// Characters that do not belong there.
    #[error("{what} must match {rule}, not '{found}'")]
    Rule {
        /// What it is.
        what: String,
        /// The rule.
        rule: &'static str,
        /// The text.
        found: String,
    },
    /// The name of the snapshot that every workspace has.
    #[error("snapshot_name 'baseline' is reserved")]
    Reserved,
    /// Two secrets of one name.
    #[error("duplicate secret name: {0}")]
    DuplicateSecret(String),
    /// More of them than one workspace can have.
    #[error("a workspace can have at most {most} {what}, not {count}")]
    TooMany {
        /// What they are.
        what: &'static str,
        /// How many are allowed.
        most: usize,
        /// How many there are.
        count: usize,
    },
    /// Contradiction in a request.
    #[error("name and clear_name cannot be used together")]
    NameAndClear,
}

impl Explain for NameError {
    fn explain(&self) -> Problem {
        Problem::new("invalid_name", Blame::Caller, self)
    }
}

/// A workspace's name, without the space around it.
pub fn workspace_name(text: &str) -> Result<String, NameError> {
    line("name", text)
}

/// A label, without the space around its parts.
pub fn label(key: &str, value: &str) -> Result<(String, String), NameError> {
    let key = label_key(key)?;
    let value = line(&format!("label '{key}'"), value)?;
    Ok((key, value))
}

/// A label's key, without the space around it.
pub fn label_key(text: &str) -> Result<String, NameError> {
    matching("label key", text, WORD_RULE, |c| c.is_ascii_alphanumeric(), is_word)
}

/// The name of a snapshot that a caller makes.
pub fn snapshot_name(text: &str) -> Result<String, NameError> {
    let name = existing_snapshot_name(text)?;
    if name == BASELINE { Err(NameError::Reserved) } else { Ok(name) }
}

/// The name of a snapshot that may be there already, the baseline among them.
pub fn existing_snapshot_name(text: &str) -> Result<String, NameError> {
    matching("snapshot_name", text, WORD_RULE, |c| c.is_ascii_alphanumeric(), is_word)
}

/// The name of a service.
pub fn service_name(text: &str) -> Result<String, NameError> {
    matching("service_name", text, WORD_RULE, |c| c.is_ascii_alphanumeric(), is_word)
}

/// A secret's name.
pub fn secret_name(text: &str) -> Result<String, NameError> {
    variable("secret name", text)
}

/// The name of an environment variable that `what` gives.
pub fn variable(what: &str, text: &str) -> Result<String, NameError> {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || c == '_';
    matching(what, text, VARIABLE_RULE, |c| c.is_ascii_alphabetic() || c == '_', is_inner)
}

/// All labels of one workspace.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, NameError> {
    if labels.len() > LABELS {
        return Err(NameError::TooMany { what: "labels", most: LABELS, count: labels.len() });
    }
    labels.iter().map(|(key, value)| label(key, value)).collect()
}

/// The names of all secrets of one workspace.
pub fn secret_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Vec<String>, NameError> {
    let mut checked: Vec<String> = Vec::new();
    for name in names {
        let name = secret_name(name)?;
        if checked.contains(&name) {
            return Err(NameError::DuplicateSecret(name));
        }
        checked.push(name);
    }
    if checked.len() > SECRETS {
        return Err(NameError::TooMany { what: "secrets", most: SECRETS, count: checked.len() });
    }
    Ok(checked)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

fn line(what: &str, text: &str) -> Result<String, NameError> {
    let text = text.trim();
    let what = || what.to_owned();
    if text.is_empty() {
        return Err(NameError::Empty { what: what() });
    }
    let chars = text.chars().count();
    if chars > TEXT_CHARS {
        return Err(NameError::TooLong { what: what(), chars });
    }
    if text.chars().any(char::is_control) {
        return Err(NameError::Control { what: what() });
    }
    Ok(text.to_owned())
}

fn matching(
    what: &str,
    text: &str,
    rule: &'static str,
    is_first: impl Fn(char) -> bool,
    is_inner: impl Fn(char) -> bool,
) -> Result<String, NameError> {
    let text = text.trim();
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return Err(NameError::Empty { what: what.to_owned() }) };
    if is_first(first) && chars.all(is_inner) && text.len() <= WORD_CHARS {
        return Ok(text.to_owned());
    }
    // What was written may be long and is shown; its beginning will do.
    let found = text.chars().take(TEXT_CHARS).flat_map(char::escape_debug).collect();
    Err(NameError::Rule { what: what.to_owned(), rule, found })
}

#[cfg(test)]
mod tests;
