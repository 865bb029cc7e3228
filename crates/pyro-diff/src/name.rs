//! Paths as patches write them: plain, or between quotes as C does.

use std::borrow::Cow;

/// Why `path` cannot be the path of a change.
pub(crate) fn check_path(path: &[u8]) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("it is empty");
    }
    if path.len() > crate::limits::MAX_PATH_BYTES {
        return Err("it is too long");
    }
    if path.contains(&0) {
        return Err("it holds a NUL byte");
    }
    if path[0] == b'/' {
        return Err("it is absolute");
    }
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" => return Err("it has an empty part"),
            b"." | b".." => return Err("it has a part that is not a name"),
            _ => {}
        }
    }
    Ok(())
}

/// A path for a person: bytes that are not UTF-8 or not printable are escaped.
#[must_use]
pub fn shown(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => path.escape_ascii().to_string(),
    }
}

/// `prefix` and `path` as git writes them: between quotes if a byte is unusual.
#[must_use]
pub fn quote<'a>(prefix: &str, path: &'a [u8]) -> Cow<'a, [u8]> {
    let unusual = |byte: &u8| *byte < 0x20 || *byte >= 0x7f || matches!(byte, b'"' | b'\\');
    if !path.iter().any(unusual) {
        if prefix.is_empty() {
            return Cow::Borrowed(path);
        }
        return Cow::Owned([prefix.as_bytes(), path].concat());
    }
    let mut out = vec![b'"'];
    out.extend_from_slice(prefix.as_bytes());
    for byte in path {
        let letter = match byte {
            0x07 => b'a',
            0x08 => b'b',
            b'\t' => b't',
            b'\n' => b'n',
            0x0b => b'v',
            0x0c => b'f',
            b'\r' => b'r',
            b'"' => b'"',
            b'\\' => b'\\',
            other if unusual(other) => {
                out.extend_from_slice(format!("\\{other:03o}").as_bytes());
                continue;
            }
            plain => {
                out.push(*plain);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', letter]);
    }
    out.push(b'"');
    Cow::Owned(out)
}

/// The name between quotes at the start of `text`, and what follows the closing quote.
pub(crate) fn unquote(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut rest = text.strip_prefix(b"\"")?;
    let mut out = Vec::new();
    loop {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        match byte {
            b'"' => return Some((out, rest)),
            b'\n' => return None,
            b'\\' => {
                let (&escape, after) = rest.split_first()?;
                rest = after;
                out.push(match escape {
                    b'a' => 0x07,
                    b'b' => 0x08,
                    b't' => b'\t',
                    b'n' => b'\n',
                    b'v' => 0x0b,
                    b'f' => 0x0c,
                    b'r' => b'\r',
                    b'"' | b'\\' => escape,
                    b'0'..=b'3' => {
                        let (digits, after) = rest.split_at_checked(2)?;
                        if !digits.iter().all(|digit| (b'0'..=b'7').contains(digit)) {
                            return None;
                        }
                        rest = after;
                        ((escape - b'0') << 6) | ((digits[0] - b'0') << 3) | (digits[1] - b'0')
                    }
                    _ => return None,
                });
            }
            plain => out.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn usual_names_stay_plain_and_others_are_quoted_as_git_does() {
        assert_eq!(&*quote("a/", b"x y.txt"), b"a/x y.txt");
        assert_eq!(&*quote("a/", b"t\tq\"\n\\"), br#""a/t\tq\"\n\\""#);
        assert_eq!(&*quote("b/", "é".as_bytes()), br#""b/\303\251""#);
    }

    #[test]
    fn broken_quotes_are_refused() {
        for text in [&b"\"abc"[..], b"\"a\\", b"\"a\\9\"", b"\"\\01\"", b"\"\\400\"", b"x", b""] {
            assert_eq!(unquote(text), None, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn paths_that_leave_the_tree_are_refused() {
        for path in [&b""[..], b"/a", b"a//b", b"a/", b"../a", b"a/../b", b"./a", b"a\0b"] {
            assert!(check_path(path).is_err(), "{}", path.escape_ascii());
        }
        assert!(check_path(b".git/config").is_ok());
        assert!(check_path(b"a/..b/c..").is_ok());
    }

    proptest! {
        #[test]
        fn quoting_is_undone_by_unquoting(path in proptest::collection::vec(any::<u8>(), 1..40)) {
            let quoted = quote("a/", &path);
            if quoted.starts_with(b"\"") {
                let (name, rest) = unquote(&quoted).unwrap();
                prop_assert_eq!(&name[2..], &path[..]);
                prop_assert!(rest.is_empty());
            } else {
                prop_assert_eq!(&quoted[2..], &path[..]);
            }
        }
    }
}
