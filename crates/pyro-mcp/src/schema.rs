//! JSON schemas that cost a model few words: no titles, no formats, no null where leaving out will do.

use rmcp::model::JsonObject;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// The schema of a tool's arguments. What is optional may be left out, and is then not said to be nullable.
pub(crate) fn input<T: JsonSchema>() -> JsonObject {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let Value::Object(mut schema) = schema.to_value() else {
        unreachable!("an argument structure is an object")
    };
    compact(&mut schema);
    // What the structure's own doc comment says is for readers of the source; the tool has its description.
    schema.remove("description");
    schema
}

fn compact(schema: &mut Map<String, Value>) {
    for noise in ["title", "format", "$schema"] {
        if !matches!(schema.get(noise), Some(Value::Object(_))) {
            schema.remove(noise);
        }
    }
    // Nothing, none, no and zero are what anybody takes a missing argument for.
    let usual = [Value::Null, json!([]), json!({}), json!(false), json!(0)];
    if schema.get("default").is_some_and(|default| usual.contains(default)) {
        schema.remove("default");
    }
    // Below zero no count goes.
    if schema.get("minimum") == Some(&json!(0)) {
        schema.remove("minimum");
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            schema.insert("type".to_owned(), one);
        }
    }
    unwrap_nullable(schema);
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for property in properties.values_mut() {
            if let Value::Object(property) = property {
                compact(property);
            }
        }
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(Value::Object(inner)) = schema.get_mut(inner) {
            compact(inner);
        }
    }
    for variants in ["anyOf", "oneOf"] {
        if let Some(Value::Array(variants)) = schema.get_mut(variants) {
            variants.iter_mut().filter_map(Value::as_object_mut).for_each(compact);
        }
    }
    enumerate_words(schema);
}

/// `anyOf: [X, null]` is X.
fn unwrap_nullable(schema: &mut Map<String, Value>) {
    let Some(Value::Array(variants)) = schema.get("anyOf") else { return };
    let others: Vec<&Value> = variants.iter().filter(|one| one.get("type") != Some(&json!("null"))).collect();
    if let ([Value::Object(only)], true) = (others.as_slice(), others.len() < variants.len()) {
        let only = only.clone();
        schema.remove("anyOf");
        for (key, value) in only {
            schema.entry(key).or_insert(value);
        }
    }
}

/// Words that are told one by one, for some have a text of their own, become one list in their order.
fn enumerate_words(schema: &mut Map<String, Value>) {
    let Some(Value::Array(variants)) = schema.get("oneOf") else { return };
    let words = variants.iter().map(|one| match (one.get("const"), one.get("enum")) {
        (Some(word), _) => Some(vec![word.clone()]),
        (None, Some(Value::Array(words))) => Some(words.clone()),
        _ => None,
    });
    if let Some(words) = words.collect::<Option<Vec<_>>>() {
        schema.remove("oneOf");
        schema.insert("type".to_owned(), json!("string"));
        schema.insert("enum".to_owned(), Value::Array(words.concat()));
    }
}

/// The schema of a result, from `name: type` and `name: type?` separated by commas. Types are `str`, `int`,
/// `num`, `bool`, `list` and `obj`; a `?` behind one is for what may be missing. More fields are allowed: results
/// grow.
pub(crate) fn output(fields: &str) -> JsonObject {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in fields.split(',').map(str::trim).filter(|field| !field.is_empty()) {
        let (name, kind) = field.split_once(": ").expect("each field is `name: type`");
        let (kind, is_optional) = match kind.strip_suffix('?') {
            Some(kind) => (kind, true),
            None => (kind, false),
        };
        let kind = match kind {
            "str" => "string",
            "int" => "integer",
            "num" => "number",
            "bool" => "boolean",
            "list" => "array",
            "obj" => "object",
            other => unreachable!("no type is called {other}"),
        };
        properties.insert(name.to_owned(), json!({ "type": kind }));
        if !is_optional {
            required.push(json!(name));
        }
    }
    let mut schema = Map::new();
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("properties".to_owned(), Value::Object(properties));
    if !required.is_empty() {
        schema.insert("required".to_owned(), Value::Array(required));
    }
    schema
}

/// Takes arguments out of a schema.
pub(crate) fn hide(schema: &mut JsonObject, hidden: impl Fn(&str) -> bool) {
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.retain(|name, _| !hidden(name));
    }
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.retain(|name| name.as_str().is_none_or(|name| !hidden(name)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize, JsonSchema)]
    #[serde(rename_all = "lowercase")]
    #[allow(dead_code)]
    enum Word {
        /// One.
        One,
        Two,
    }

    /// Not shown.
    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Arguments {
        /// Needed.
        name: String,
        #[serde(default)]
        word: Option<Word>,
        #[schemars(range(min = 1, max = 8))]
        #[serde(default)]
        count: Option<u64>,
        #[serde(default)]
        list: Vec<String>,
    }

    #[test]
    fn arguments_are_told_in_few_words() {
        let shown = Value::Object(input::<Arguments>());
        let wanted = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["name"],
            "properties": {
                "name": { "type": "string", "description": "Needed." },
                "word": { "type": "string", "enum": ["two", "one"] },
                "count": { "type": "integer", "minimum": 1, "maximum": 8 },
                "list": { "type": "array", "items": { "type": "string" } },
            },
        });
        assert_eq!(shown, wanted);
    }

    #[test]
    fn a_hidden_argument_is_neither_shown_nor_required() {
        let mut schema = input::<Arguments>();
        hide(&mut schema, |name| name == "name");
        assert!(schema["properties"].get("name").is_none() && schema["required"] == json!([]));
    }

    #[test]
    fn results_name_what_can_be_counted_on() {
        let schema = Value::Object(output("exit_code: int, hint: str?"));
        let wanted = json!({
            "type": "object",
            "properties": { "exit_code": { "type": "integer" }, "hint": { "type": "string" } },
            "required": ["exit_code"],
        });
        assert_eq!(schema, wanted);
    }
}
