//! Domain names in the one form that is compared: lower case, no final dot.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes of a name's text; its wire form has two more (RFC 1035, 2.3.4).
const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// A domain name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Box<str>);

/// A text that is no domain name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Characters beyond what names are made of.
    #[error("\"{0}\" is not a domain name: letters, digits, hyphens and dots only")]
    Characters(String),
    /// International names have an ASCII form.
    #[error("\"{0}\" is not in ASCII: write its form that begins with xn--")]
    International(String),
    /// Empty, or with an empty or long label, or long as a whole.
    #[error("\"{0}\" is not a domain name: its parts have 1 to 63 characters, at most 253 in all")]
    Length(String),
    /// Only digits: an address, or a mistake for one.
    #[error("\"{0}\" is neither an address nor a domain name")]
    Number(String),
}

impl Name {
    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it lies under `parent`, at any depth; a name does not lie under itself.
    #[must_use]
    pub fn is_under(&self, parent: &Name) -> bool {
        self.0.strip_suffix(&*parent.0).is_some_and(|rest| rest.ends_with('.'))
    }

    /// How many parts it has.
    #[must_use]
    pub fn labels(&self) -> usize {
        self.0.split('.').count()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if !name.is_ascii() {
            return Err(NameError::International(text.chars().take(MAX_NAME_BYTES).collect()));
        }
        let given = || text.chars().take(MAX_NAME_BYTES).collect::<String>();
        // The underscore is no host's, but services' records have it and some resolvers serve it.
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            return Err(NameError::Characters(given()));
        }
        if name.len() > MAX_NAME_BYTES
            || name.split('.').any(|label| label.is_empty() || label.len() > MAX_LABEL_BYTES)
        {
            return Err(NameError::Length(given()));
        }
        // Resolvers read 1.2 and 0x7f.1 as addresses, which a rule for a name must not turn into.
        let last = name.rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x") || last.starts_with("0X")
        {
            return Err(NameError::Number(given()));
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.into()
    }
}
