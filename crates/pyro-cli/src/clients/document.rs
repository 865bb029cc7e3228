//! Texts that hold tables in tables: reading one entry, and writing it without touching anything else.

use super::{ENTRY, Entry, Place, json_text, toml_text};
use serde_json::{Map, Value};

/// The form of a configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syntax {
    /// JSON, with comments and trailing commas where the file has some.
    Json,
    Toml,
}

/// Why a text cannot be read or edited.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DocumentError {
    #[error("it is not valid JSON")]
    Json(#[source] jsonc_parser::errors::ParseError),
    #[error("it is not valid TOML")]
    Toml(#[source] Box<toml::de::Error>),
    #[error("it is not valid TOML")]
    TomlEdit(#[source] Box<toml_edit::TomlError>),
    #[error("its outermost value is no object")]
    NoObject,
    #[error("`{0}` in it is no table")]
    NoTable(String),
    #[error("it has `{0}` twice")]
    Twice(String),
    #[error("an edit would change more of it than pyro's entry")]
    Entangled,
}

impl Syntax {
    /// All that `text` holds, an empty text no entries.
    pub(crate) fn read(self, text: &str) -> Result<Value, DocumentError> {
        match self {
            Self::Json => json_text::read(text),
            Self::Toml => toml_text::read(text),
        }
    }

    /// `text` with pyro's entry in `tables` as `entry` says. Fields of the entry that it does not name stay.
    pub(crate) fn put(self, text: &str, tables: &[String], entry: &Entry) -> Result<String, DocumentError> {
        let before = self.read(text)?;
        let found = find(&before, tables)?;
        let changes = found.and_then(|found| entry.changes(found));
        let put = match self {
            Self::Json => json_text::put(text, tables, entry, changes.as_deref())?,
            Self::Toml => toml_text::put(text, tables, entry, changes.as_deref())?,
        };
        // The editors are other people's; what they made is believed when it has been read again.
        let after = self.read(&put)?;
        let (mut was, mut is) = (before.clone(), after.clone());
        let taken = (take(&mut was, tables), take(&mut is, tables));
        let kept = match (&changes, &taken) {
            (Some(changes), (Some(was), Some(is))) => with(was, changes) == *is,
            (None, (_, Some(is))) => entry.to_json() == *is,
            (_, (_, None)) | (Some(_), (None, Some(_))) => false,
        };
        match kept && without_empty(&was, tables) == without_empty(&is, tables) {
            true => Ok(put),
            false => Err(DocumentError::Entangled),
        }
    }
}

/// An entry by itself, in the tables where it goes.
pub(crate) fn fragment(place: &Place, entry: &Entry) -> String {
    place.syntax.put("", &place.tables, entry).expect("an empty text takes any entry")
}

/// pyro's entry in `tables` of `root`.
pub(crate) fn find<'a>(root: &'a Value, tables: &[String]) -> Result<Option<&'a Value>, DocumentError> {
    let mut table = root.as_object().ok_or(DocumentError::NoObject)?;
    for name in tables {
        match table.get(name) {
            None => return Ok(None),
            Some(value) => {
                table = value.as_object().ok_or_else(|| DocumentError::NoTable(name.clone()))?;
            }
        }
    }
    Ok(table.get(ENTRY))
}

fn take(root: &mut Value, tables: &[String]) -> Option<Value> {
    let mut table = root.as_object_mut()?;
    for name in tables {
        table = table.get_mut(name)?.as_object_mut()?;
    }
    table.remove(ENTRY)
}

/// `root` where `tables` are there in any case.
fn without_empty(root: &Value, tables: &[String]) -> Value {
    let mut root = root.clone();
    let mut table = &mut root;
    for name in tables {
        let Some(inner) = table.as_object_mut() else { break };
        table = inner.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
    }
    root
}

fn with(table: &Value, changes: &[(&'static str, Value)]) -> Value {
    let mut table = table.clone();
    for (name, value) in changes {
        table[*name] = value.clone();
    }
    table
}
