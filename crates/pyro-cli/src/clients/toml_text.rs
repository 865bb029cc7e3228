//! TOML, edited as it was written.

use super::{DocumentError, ENTRY, Entry};
use serde_json::Value;
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, TableLike};

pub(super) fn read(text: &str) -> Result<Value, DocumentError> {
    let table: toml::Table = toml::from_str(text).map_err(|error| DocumentError::Toml(Box::new(error)))?;
    Ok(serde_json::to_value(table).expect("TOML has string keys"))
}

pub(super) fn put(
    text: &str,
    tables: &[String],
    entry: &Entry,
    changes: Option<&[(&'static str, Value)]>,
) -> Result<String, DocumentError> {
    // The editor knows one line end; a file that has only the other one gets that back.
    let with_returns = text.contains("\r\n") && !text.replace("\r\n", "").contains('\n');
    let plain = if with_returns { text.replace("\r\n", "\n") } else { text.to_owned() };
    let mut document: DocumentMut =
        plain.parse().map_err(|error| DocumentError::TomlEdit(Box::new(error)))?;
    if document.to_string() != plain {
        return Err(DocumentError::Entangled);
    }
    let mut table: &mut dyn TableLike = document.as_table_mut();
    let mut inline = false;
    for name in tables {
        if !table.contains_key(name) {
            table.insert(name, empty(inline, true));
        }
        let item = table.get_mut(name).expect("it is there now");
        inline |= item.is_inline_table();
        table = item.as_table_like_mut().ok_or_else(|| DocumentError::NoTable(name.clone()))?;
    }
    let (own, fields) = match (table.contains_key(ENTRY), changes) {
        (true, Some(changes)) => (table.get_mut(ENTRY).expect("it is there"), changes),
        (true, None) | (false, _) => {
            table.insert(ENTRY, empty(inline, false));
            (table.get_mut(ENTRY).expect("it is there now"), entry.fields.as_slice())
        }
    };
    let own = own.as_table_like_mut().ok_or_else(|| DocumentError::NoTable(ENTRY.to_owned()))?;
    for (name, value) in fields {
        set(own, name, value);
    }
    let edited = document.to_string();
    Ok(if with_returns { edited.replace('\n', "\r\n") } else { edited })
}

fn empty(inline: bool, implicit: bool) -> Item {
    if inline {
        return Item::Value(InlineTable::new().into());
    }
    let mut table = Table::new();
    table.set_implicit(implicit);
    Item::Table(table)
}

/// Sets one field; what is written around its value stays.
fn set(table: &mut dyn TableLike, name: &str, value: &Value) {
    let mut new = toml_value(value);
    match table.get_mut(name).and_then(Item::as_value_mut) {
        Some(old) => {
            *new.decor_mut() = old.decor().clone();
            *old = new;
        }
        None => drop(table.insert(name, Item::Value(new))),
    }
}

/// Entries hold words, lists of words and switches.
fn toml_value(value: &Value) -> toml_edit::Value {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::Array(values) => values.iter().map(toml_value).collect::<Array>().into(),
        Value::String(text) => text.as_str().into(),
        Value::Null | Value::Number(_) | Value::Object(_) => value.to_string().into(),
    }
}
