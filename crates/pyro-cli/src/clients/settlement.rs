//! Making a client's entry what it is to be: decided first, then done or only shown.

use super::document::find;
use super::{
    Client, ClientError, ConfigFile, DocumentError, Entry, Launch, Place, Registration, Scope, Standing,
};
use crate::settings::Surroundings;
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;

/// What is to be done about an entry.
#[derive(Debug)]
pub(crate) struct Settlement {
    client: Client,
    place: Place,
    launch: Launch,
    standing: Standing,
    overridden_by: Option<PathBuf>,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// It is as it is to be.
    Nothing,
    /// The client's own program adds it.
    Register(Registration),
    /// The client's file is edited.
    Edit { file: Box<ConfigFile>, text: String },
}

/// What was done, or would be.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Done {
    pub(crate) host: Client,
    pub(crate) scope: Scope,
    pub(crate) path: PathBuf,
    /// How the entry was before.
    pub(crate) before: Standing,
    /// How it is now, as far as that can be read.
    pub(crate) after: Option<Standing>,
    /// Where another entry is that counts more in this project, and is not as it is wanted.
    pub(crate) overridden_by: Option<PathBuf>,
    /// Whether something was done.
    pub(crate) changed: bool,
    /// Whether that was only looked at.
    pub(crate) dry_run: bool,
    /// The command that adds it, where the client's own program does that.
    pub(crate) command: Option<Vec<String>>,
    /// What an edit changes in the file.
    pub(crate) diff: Option<String>,
}

impl Settlement {
    /// Decides what to do about the entry of `scope`. Nothing is changed yet.
    pub(crate) fn new(
        client: Client,
        scope: Scope,
        launch: &Launch,
        around: &Surroundings,
    ) -> Result<Self, ClientError> {
        let place = client.place(scope, around);
        let found = Found::read(client, &place, launch)?;
        let standing = found.standing();
        let step = match (&standing, Registration::new(client, scope, launch, around)) {
            (Standing::Present, _) => Step::Nothing,
            // Programs refuse to change an entry, or lose what else is in it.
            (Standing::Missing, Some(registration)) => Step::Register(registration),
            (Standing::Missing, None) | (Standing::Drifted(_), _) => {
                let put = place.syntax.put(&found.file.text, &found.tables, &found.entry);
                let text = put.map_err(found_in(&place))?;
                Step::Edit { file: Box::new(found.file), text }
            }
        };
        let overridden_by = overriding(client, scope, launch, around);
        Ok(Self { client, place, launch: launch.clone(), standing, overridden_by, step })
    }

    pub(crate) fn is_needed(&self) -> bool {
        !matches!(self.step, Step::Nothing)
    }

    /// Does it.
    pub(crate) async fn carry_out(&self) -> Result<(), ClientError> {
        match &self.step {
            Step::Nothing => Ok(()),
            Step::Register(registration) => Ok(registration.run().await?),
            Step::Edit { file, text } => {
                // A project's files are everybody's who works on it; a user's may come to hold credentials.
                let new_mode = if self.place.scope == Scope::Project { 0o666 } else { 0o600 };
                Ok(file.replace(text, new_mode)?)
            }
        }
    }

    /// As it is told.
    pub(crate) fn done(&self, dry_run: bool) -> Done {
        let (command, diff) = match &self.step {
            Step::Nothing => (None, None),
            Step::Register(registration) => (Some(registration.words.clone()), None),
            Step::Edit { file, text } => {
                (None, Some(String::from_utf8_lossy(&file.patch(text)).into_owned()))
            }
        };
        Done {
            host: self.client,
            scope: self.place.scope,
            path: self.place.path.clone(),
            before: self.standing.clone(),
            after: Found::read(self.client, &self.place, &self.launch).ok().map(|found| found.standing()),
            overridden_by: self.overridden_by.clone(),
            changed: self.is_needed() && !dry_run,
            dry_run,
            command,
            diff,
        }
    }
}

/// The file of an entry that the client prefers to that of `scope`, where it starts another server.
fn overriding(client: Client, scope: Scope, launch: &Launch, around: &Surroundings) -> Option<PathBuf> {
    let preferred = client.places(around).into_iter().skip_while(|place| place.scope != scope).skip(1);
    let drifted = preferred.filter(|place| {
        let found = Found::read(client, place, launch);
        found.is_ok_and(|found| matches!(found.standing(), Standing::Drifted(_)))
    });
    drifted.last().map(|place| place.path)
}

/// A client's file, and what it says of pyro.
pub(super) struct Found {
    file: ConfigFile,
    /// The tables that the entry is in, or goes to.
    tables: Vec<String>,
    /// As it is wanted.
    entry: Entry,
    is: Option<Value>,
}

impl Found {
    pub(super) fn read(client: Client, place: &Place, launch: &Launch) -> Result<Self, ClientError> {
        let file = ConfigFile::open(&place.path)?;
        let root = place.syntax.read(&file.text).map_err(found_in(place))?;
        let mut tables = place.tables.clone();
        let mut entry = Entry::new(client, launch);
        if client == Client::Opencode && is_second_form(&root) {
            tables.push("servers".to_owned());
            entry = entry.without("enabled");
        }
        let is = find(&root, &tables).map_err(found_in(place))?.cloned();
        Ok(Self { file, tables, entry, is })
    }

    pub(super) fn standing(&self) -> Standing {
        self.entry.standing(self.is.as_ref())
    }
}

/// opencode 2 takes the form of its first version, and one of its own with a table more.
fn is_second_form(root: &Value) -> bool {
    let servers = root.get("mcp").and_then(|mcp| mcp.get("servers"));
    servers.and_then(Value::as_object).is_some_and(|table| !table.contains_key("command"))
}

fn found_in(place: &Place) -> impl FnOnce(DocumentError) -> ClientError {
    let path = place.path.clone();
    move |source| ClientError::Document { path, source }
}
