//! The keys that detach a terminal, written as docker writes them: `ctrl-p,ctrl-q`.

use std::str::FromStr;

/// Keys in a row, as the bytes that a terminal sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DetachKeys(Vec<u8>);

/// Keys that are none.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is no key: give a letter, or ctrl- and one of a-z @ [ \\ ] ^ _")]
pub(super) struct KeyError(String);

impl FromStr for DetachKeys {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        text.split(',').map(key).collect::<Result<_, _>>().map(Self)
    }
}

fn key(text: &str) -> Result<u8, KeyError> {
    let wrong = || KeyError(text.to_owned());
    match (text.strip_prefix("ctrl-").map(str::as_bytes), text.as_bytes()) {
        (Some([letter @ (b'a'..=b'z')]), _) => Ok(letter - b'a' + 1),
        (Some([sign @ (b'@' | b'['..=b'_')]), _) => Ok(sign - b'@'),
        (None, [byte]) if byte.is_ascii_graphic() => Ok(*byte),
        _ => Err(wrong()),
    }
}

/// Looks for the keys in what is typed.
#[derive(Debug)]
pub(super) struct Typed {
    keys: DetachKeys,
    /// How many of them were typed last.
    seen: usize,
}

impl Typed {
    pub(super) fn new(keys: DetachKeys) -> Self {
        Self { keys, seen: 0 }
    }

    /// What of `bytes`, with what was held back before, is for the shell; and whether the keys were typed.
    /// Keys that may begin the sequence are held back until the next one.
    pub(super) fn take(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(bytes.len());
        for byte in bytes {
            while self.seen > 0 && self.keys.0[self.seen] != *byte {
                // What was held back is none of them, but for its end.
                let held = &self.keys.0[..self.seen];
                let kept = (0..self.seen).rev().find(|len| held.ends_with(&self.keys.0[..*len])).unwrap_or(0);
                passed.extend_from_slice(&held[..self.seen - kept]);
                self.seen = kept;
            }
            if self.keys.0[self.seen] != *byte {
                passed.push(*byte);
                continue;
            }
            self.seen += 1;
            if self.seen == self.keys.0.len() {
                return (passed, true);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> DetachKeys {
        text.parse().unwrap()
    }

    #[test]
    fn keys_are_written_as_docker_writes_them() {
        assert_eq!(keys("ctrl-p,ctrl-q"), DetachKeys(vec![16, 17]));
        assert_eq!(keys("a,ctrl-@,ctrl-[,ctrl-_"), DetachKeys(vec![b'a', 0, 27, 31]));
        for text in ["", "ctrl-", "ctrl-P", "ctrl-1", "ab", "a,,b", "é", "ctrl-p,"] {
            assert!(text.parse::<DetachKeys>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_the_whole_sequence_detaches_and_everything_else_is_passed_on() {
        let mut typed = Typed::new(keys("ctrl-p,ctrl-q"));
        assert_eq!(typed.take(b"ls\r"), (b"ls\r".to_vec(), false));
        assert_eq!(typed.take(b"\x10"), (vec![], false));
        assert_eq!(typed.take(b"\x10"), (b"\x10".to_vec(), false));
        assert_eq!(typed.take(b"x"), (b"\x10x".to_vec(), false));
        assert_eq!(typed.take(b"a\x10\x11rest"), (b"a".to_vec(), true));
    }

    #[test]
    fn a_sequence_that_begins_anew_in_itself_is_found() {
        let mut typed = Typed::new(keys("a,a,b"));
        assert_eq!(typed.take(b"aaab"), (b"a".to_vec(), true));
    }
}
