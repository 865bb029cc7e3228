//! Files of a running workspace, and patches.

use super::explain;
use crate::bounded::{entry_limit, page_list, read_limit};
use crate::tool::{Call, Effect, Tool, json, refused};
use pyro_core::Problem;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FileList {
    pub(super) workspace_id: String,
    #[serde(default = "super::workspace_path")]
    path: String,
    #[serde(default)]
    recursive: bool,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    #[schemars(range(min = 1, max = 2000))]
    limit: Option<u64>,
}

impl Tool for FileList {
    const NAME: &'static str = "workspace_file_list";
    const DESCRIPTION: &'static str = "List a directory of the workspace.";
    const EFFECT: Effect = Effect::Reads;
    const OUTPUT: &'static str = "entries: list, next_offset: int?";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let limit = entry_limit(self.limit)?;
        let listed = call.server.pyro.file_list(&self.workspace_id, &self.path, self.recursive).await;
        let mut listing = json(&listed.map_err(explain)?);
        page_list(listing.as_object_mut().expect("a listing is an object"), "entries", self.offset, limit);
        Ok(listing)
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FileRead {
    workspace_id: String,
    path: String,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    #[schemars(range(min = 1, max = 1048576))]
    max_bytes: Option<u64>,
}

impl Tool for FileRead {
    const NAME: &'static str = "workspace_file_read";
    const DESCRIPTION: &'static str = "Read a text file, from a byte offset on.";
    const EFFECT: Effect = Effect::Reads;
    const OUTPUT: &'static str = "content: str, size_bytes: int, next_offset: int?";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let max = read_limit(self.max_bytes)?;
        let end = *pyro_core::limits::FILE_BYTES.end();
        if self.offset >= end {
            return Err(refused("out_of_range", format!("offset must be below {end}")));
        }
        let wanted = self.offset.saturating_add(max).min(end);
        let read =
            call.server.pyro.file_read(&self.workspace_id, &self.path, wanted).await.map_err(explain)?;
        let start = usize::try_from(self.offset).unwrap_or(usize::MAX).min(read.bytes.len());
        let part = &read.bytes[start..];
        let end = (start + part.len()) as u64;
        let mut result = json(&read);
        let fields = result.as_object_mut().expect("a file's content is an object");
        fields.insert("content".to_owned(), json!(String::from_utf8_lossy(part)));
        fields.insert("offset".to_owned(), json!(start));
        fields.insert("max_bytes".to_owned(), json!(max));
        fields.insert("truncated".to_owned(), json!(end < read.size_bytes));
        if end < read.size_bytes {
            fields.insert("next_offset".to_owned(), json!(end));
        }
        Ok(result)
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FileWrite {
    workspace_id: String,
    path: String,
    text: String,
}

impl Tool for FileWrite {
    const NAME: &'static str = "workspace_file_write";
    const DESCRIPTION: &'static str =
        "Write a whole text file; directories are made. For a change use a patch.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "path: str, bytes_written: int";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let written = call.server.pyro.file_write(&self.workspace_id, &self.path, self.text.as_bytes()).await;
        Ok(json(&written.map_err(explain)?))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PatchApply {
    workspace_id: String,
    /// Unified diff with a/ and b/ paths below /workspace.
    patch: String,
}

impl Tool for PatchApply {
    const NAME: &'static str = "workspace_patch_apply";
    const DESCRIPTION: &'static str = "Apply a patch as git does: all of it, or nothing.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "changed: bool";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let applied = call.server.pyro.patch_apply(&self.workspace_id, self.patch.as_bytes()).await;
        let mut report = json(&applied.map_err(explain)?);
        // The caller has just written it.
        report.as_object_mut().expect("a report is an object").remove("patch");
        Ok(report)
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FileRemove {
    workspace_id: String,
    path: String,
    /// A directory with what is in it, too.
    #[serde(default)]
    recursive: bool,
}

impl Tool for FileRemove {
    const NAME: &'static str = "workspace_file_remove";
    const DESCRIPTION: &'static str = "Remove a file or directory of the workspace.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "path: str";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let removed = call.server.pyro.file_remove(&self.workspace_id, &self.path, self.recursive).await;
        Ok(json(&removed.map_err(explain)?))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FileMove {
    workspace_id: String,
    path: String,
    new_path: String,
    /// Also where something is at the new path.
    #[serde(default)]
    replace: bool,
}

impl Tool for FileMove {
    const NAME: &'static str = "workspace_file_move";
    const DESCRIPTION: &'static str = "Rename or move a file or directory of the workspace.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "path: str";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let Self { workspace_id, path, new_path, replace } = self;
        let moved = call.server.pyro.file_move(&workspace_id, &path, &new_path, replace).await;
        Ok(json(&moved.map_err(explain)?))
    }
}
