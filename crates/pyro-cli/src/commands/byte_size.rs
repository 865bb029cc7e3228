//! Numbers of bytes as arguments say them.

/// What is no number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ByteSizeError {
    #[error("a number of bytes is digits, with K, M, G, KiB, MiB or GiB behind them: 500M")]
    Form,
    #[error("at least 1 byte and fewer than 16 EiB")]
    Range,
}

/// `text` as a number of bytes. The letters alone mean powers of 1024 as well, as with the commands that every
/// system has.
pub(crate) fn parse_byte_size(text: &str) -> Result<u64, ByteSizeError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        _ => return Err(ByteSizeError::Form),
    };
    if number.is_empty() {
        return Err(ByteSizeError::Form);
    }
    let number: u64 = number.parse().map_err(|_| ByteSizeError::Range)?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0).ok_or(ByteSizeError::Range)
}

/// A number of bytes as [`parse_byte_size`] reads it, in the largest unit that needs no fraction.
pub(crate) fn byte_size(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes > 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written_alike() {
        for (text, bytes) in [
            ("1", 1),
            ("1000", 1000),
            ("1KiB", 1 << 10),
            ("500MiB", 500 << 20),
            ("3GiB", 3 << 30),
            ("1025KiB", 1025 << 10),
        ] {
            assert_eq!(parse_byte_size(text), Ok(bytes), "{text}");
            assert_eq!(byte_size(bytes), text);
        }
        assert_eq!(parse_byte_size("2K"), Ok(2 << 10));
        assert_eq!(parse_byte_size("2M"), Ok(2 << 20));
        assert_eq!(parse_byte_size("2G"), Ok(2 << 30));
        assert_eq!(byte_size(0), "0");
    }

    #[test]
    fn what_is_no_size_says_why() {
        for text in ["", "K", "-1", "1.5M", "1 M", "1k", "1MB", "M1", "1KK", "\u{661}"] {
            assert_eq!(parse_byte_size(text), Err(ByteSizeError::Form), "{text}");
        }
        for text in ["0", "0G", "18446744073709551616", "17179869184G"] {
            assert_eq!(parse_byte_size(text), Err(ByteSizeError::Range), "{text}");
        }
    }
}
