//! What went wrong, as a front end tells it: a stable code, one message, a hint, and who is to blame.
//!
//! Operations fail with their own error enums; each of them decides its [`Blame`] here, through
//! [`Explain`], and nowhere else. Front ends print a [`Problem`] once and exit with its code.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Who has to act to make the operation succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Blame {
    /// The request is wrong.
    Caller,
    /// The guest misbehaved or died.
    Guest,
    /// A registry or another remote party.
    Remote,
    /// This machine lacks something: a program, memory, disk, a permission.
    Host,
    /// pyro itself.
    Bug,
}

impl Blame {
    /// The exit code of a command that failed for this reason.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Caller => 1,
            Self::Guest => 3,
            Self::Remote => 4,
            Self::Host => 5,
            Self::Bug => 70,
        }
    }
}

/// An error as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A stable word for programs.
    pub code: Cow<'static, str>,
    /// One line, lower case, with the offending value; the chain of causes joined with `: `.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Who has to act.
    pub blame: Blame,
}

impl Problem {
    /// A problem whose message is the error and its causes.
    pub fn new(code: &'static str, blame: Blame, error: &dyn std::error::Error) -> Self {
        Self { code: code.into(), message: chain(error), hint: None, blame }
    }

    /// The same with advice.
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// Errors that know their [`Problem`].
pub trait Explain: std::error::Error {
    /// The error as it is shown.
    fn explain(&self) -> Problem;
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // A transparent variant repeats its source's text; tell it once.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open `x`")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_problem_tells_the_whole_chain_once() {
        let problem = Problem::new("c", Blame::Host, &Outer(std::io::Error::other("disk on fire")));
        assert_eq!(problem.message, "cannot open `x`: disk on fire");
    }
}
