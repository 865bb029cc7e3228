//! What a client must be told to have pyro, and how far an entry is from that.

use super::{Client, Launch};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// The fields of an entry, in the order in which they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) fields: Vec<(&'static str, Value)>,
}

/// How an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "differences", rename_all = "kebab-case")]
pub(crate) enum Standing {
    /// As it is wanted.
    Present,
    /// There, but otherwise than wanted: what is wrong, in words.
    Drifted(Vec<String>),
    /// Not there.
    Missing,
}

/// Fields that need not be there, and what their absence means.
fn usual(field: &str) -> Option<Value> {
    match field {
        "args" => Some(json!([])),
        "type" => Some(json!("stdio")),
        "enabled" => Some(json!(true)),
        "disabled" => Some(json!(false)),
        _ => None,
    }
}

impl Entry {
    /// The entry of `client` for a server that `launch` starts.
    pub(crate) fn new(client: Client, launch: &Launch) -> Self {
        let (command, args) = (json!(launch.program()), json!(launch.arguments()));
        let fields = match client {
            Client::ClaudeCode | Client::Codex | Client::Cursor => vec![("command", command), ("args", args)],
            Client::Vscode => vec![("type", json!("stdio")), ("command", command), ("args", args)],
            Client::Opencode => {
                vec![("type", json!("local")), ("enabled", json!(true)), ("command", json!(launch.words))]
            }
        };
        Self { fields }
    }

    /// The same without a field.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(field, _)| *field != name);
        self
    }

    /// What is to be written over `found`: fields that differ, or everything where the entry is of another kind.
    pub(crate) fn changes(&self, found: &Value) -> Option<Vec<(&'static str, Value)>> {
        let found = found.as_object().filter(|found| !is_remote(found))?;
        let wrong = |(field, _): &(&'static str, Value)| self.differs(found, field).is_some();
        let mut changes: Vec<_> = self.fields.iter().filter(|field| wrong(field)).cloned().collect();
        changes.extend(SWITCHES.iter().filter_map(|name| {
            let is_ours = self.fields.iter().any(|(field, _)| field == name);
            (!is_ours && self.differs(found, name).is_some())
                .then(|| (*name, usual(name).unwrap_or_default()))
        }));
        Some(changes)
    }

    /// How `found` is, compared with this.
    pub(crate) fn standing(&self, found: Option<&Value>) -> Standing {
        let Some(found) = found else { return Standing::Missing };
        let Some(table) = found.as_object() else {
            return Standing::Drifted(vec!["the entry is no table".to_owned()]);
        };
        if is_remote(table) {
            return Standing::Drifted(vec!["it has a url instead of a command".to_owned()]);
        }
        let own = self.fields.iter().map(|(field, _)| *field);
        let switches = SWITCHES.iter().copied().filter(|name| own.clone().all(|field| field != *name));
        let differences: Vec<String> =
            own.clone().chain(switches).filter_map(|name| self.differs(table, name)).collect();
        match differences.is_empty() {
            true => Standing::Present,
            false => Standing::Drifted(differences),
        }
    }

    /// What is wrong with one field of `found`, in words.
    fn differs(&self, found: &Map<String, Value>, name: &str) -> Option<String> {
        let wanted = self.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value.clone());
        let wanted = wanted.or_else(|| usual(name))?;
        let is = match (found.get(name), usual(name)) {
            (Some(is), _) => is.clone(),
            (None, Some(usual)) if usual == wanted => return None,
            (None, _) => return Some(format!("{name} is missing")),
        };
        (is != wanted).then(|| format!("{name} is {is}, not {wanted}"))
    }

    /// As JSON, alone.
    pub(crate) fn to_json(&self) -> Value {
        Value::Object(self.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    }
}

/// Fields that, where they are there, must not say that the server is off or of another kind.
const SWITCHES: [&str; 3] = ["type", "enabled", "disabled"];

fn is_remote(found: &Map<String, Value>) -> bool {
    found.contains_key("url")
}
