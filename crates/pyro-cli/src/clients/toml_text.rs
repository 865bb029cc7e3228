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
    // It ends the last line, too.
    let is_open = !plain.is_empty() && !plain.ends_with('\n');
    if document.to_string().trim_end_matches('\n') != plain.trim_end_matches('\n') {
        return Err(DocumentError::Entangled);
    }
    let is_new = tables.first().is_some_and(|name| !document.contains_key(name));
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
    if is_new && !inline {
        close(&mut document, &tables[0]);
    }
    let mut edited = document.to_string();
    if is_open && edited.ends_with('\n') {
        edited.pop();
    }
    Ok(if with_returns { edited.replace('\n', "\r\n") } else { edited })
}

/// Comments at the end of a document belong to what is above them, not to the table that comes last now.
fn close(document: &mut DocumentMut, name: &str) {
    let end = document.trailing().as_str().unwrap_or_default().to_owned();
    let own = document.get_mut(name).and_then(|table| table.get_mut(ENTRY)).and_then(Item::as_table_mut);
    if let Some(own) = own.filter(|_| !end.trim().is_empty()) {
        let end = if end.ends_with('\n') { end } else { format!("{end}\n") };
        own.decor_mut().set_prefix(format!("{end}\n"));
        document.set_trailing("");
    }
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
