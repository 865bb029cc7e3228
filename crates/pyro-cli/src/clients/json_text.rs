//! JSON as people write it, with comments.

use super::{DocumentError, ENTRY, Entry};
use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstObject, CstRootNode};
use serde_json::{Map, Value};
use std::collections::HashSet;

/// Comments and trailing commas are what clients take; everything looser is taken for damage.
fn options() -> ParseOptions {
    ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    }
}

pub(super) fn read(text: &str) -> Result<Value, DocumentError> {
    let root = CstRootNode::parse(text, &options()).map_err(DocumentError::Json)?;
    match root.value() {
        None => Ok(Value::Object(Map::new())),
        // The last of two entries of one name counts for some readers and the first for others.
        Some(value) => value.to_serde_value().ok_or(DocumentError::NoObject),
    }
}

pub(super) fn put(
    text: &str,
    tables: &[String],
    entry: &Entry,
    changes: Option<&[(&'static str, Value)]>,
) -> Result<String, DocumentError> {
    let root = CstRootNode::parse(text, &options()).map_err(DocumentError::Json)?;
    let is_new = root.value().is_none();
    let mut table = root.object_value_or_create().ok_or(DocumentError::NoObject)?;
    for name in tables {
        check_once(&table)?;
        table = match table.get(name) {
            None => table.append(name, CstInputValue::Object(Vec::new())).object_value(),
            Some(found) => found.object_value(),
        }
        .ok_or_else(|| DocumentError::NoTable(name.clone()))?;
    }
    check_once(&table)?;
    match (table.get(ENTRY), changes) {
        (Some(found), Some(changes)) => {
            let own = found.object_value().ok_or_else(|| DocumentError::NoTable(ENTRY.to_owned()))?;
            check_once(&own)?;
            for (name, value) in changes {
                match own.get(name) {
                    Some(field) => field.set_value(input(value)),
                    None => drop(own.append(name, input(value))),
                }
            }
        }
        (Some(found), None) => found.set_value(fields(entry)),
        (None, _) => drop(table.append(ENTRY, fields(entry))),
    }
    let mut text = root.to_string();
    if is_new && !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

fn check_once(table: &CstObject) -> Result<(), DocumentError> {
    let mut seen = HashSet::new();
    for name in table.properties().iter().filter_map(|property| property.decoded_name()) {
        if !seen.insert(name.clone()) {
            return Err(DocumentError::Twice(name));
        }
    }
    Ok(())
}

fn fields(entry: &Entry) -> CstInputValue {
    CstInputValue::Object(
        entry.fields.iter().map(|(name, value)| ((*name).to_owned(), input(value))).collect(),
    )
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(value) => CstInputValue::Bool(*value),
        Value::Number(number) => CstInputValue::Number(number.to_string()),
        Value::String(text) => CstInputValue::String(text.clone()),
        Value::Array(values) => CstInputValue::Array(values.iter().map(input).collect()),
        Value::Object(table) => {
            CstInputValue::Object(table.iter().map(|(name, value)| (name.clone(), input(value))).collect())
        }
    }
}
