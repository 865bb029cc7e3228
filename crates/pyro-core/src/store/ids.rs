//! Names that pyro itself gives: of workspaces and of layers.

use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Text that is no id.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{what} id must be {digits} lower case hex digits, not '{found}'")]
pub struct IdError {
    what: &'static str,
    digits: usize,
    found: String,
}

macro_rules! id {
    ($(#[$meta:meta])* $name:ident, $what:literal, $bytes:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Bytes of randomness that make one.
            pub const BYTES: usize = $bytes;

            /// The id with these bytes, which the caller draws at random.
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let wrong = || IdError { what: $what, digits: 2 * $bytes, found: text.to_owned() };
                let mut bytes = [0; $bytes];
                if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    return Err(wrong());
                }
                hex::decode_to_slice(text, &mut bytes).map_err(|_| wrong())?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(ToSqlOutput::from(self.to_string()))
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                value.as_str()?.parse().map_err(|error| FromSqlError::Other(Box::new(error)))
            }
        }
    };
}

id!(
    /// A workspace: 12 lower case hex digits.
    WorkspaceId,
    "workspace",
    6
);
id!(
    /// A layer of a disk: 32 lower case hex digits, the stem of its file's name.
    LayerId,
    "layer",
    16
);

id!(
    /// A shell of a workspace: 12 lower case hex digits.
    ShellId,
    "shell",
    6
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_text() {
        let id = WorkspaceId::from_bytes([0, 0x1f, 2, 3, 4, 0xff]);
        assert_eq!(id.to_string(), "001f020304ff");
        assert_eq!("001f020304ff".parse(), Ok(id));
        let layer = LayerId::from_bytes([7; 16]);
        assert_eq!(layer.to_string().parse(), Ok(layer));
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "001f", "001F020304FF", "001f020304fg", "001f020304ff0", "../../../../"] {
            let error = text.parse::<WorkspaceId>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("workspace id must be 12 lower case hex digits, not '{text}'")
            );
        }
    }
}
