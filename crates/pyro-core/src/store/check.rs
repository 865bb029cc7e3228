//! What is wrong with the database, beyond what any operation would notice.

use super::row;
use super::{StateStore, StoreError, layers, workspaces};
use rusqlite::Transaction;

/// Findings of one kind that are told one by one.
const TOLD: usize = 100;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// SQLite finds its file damaged: any record may be concerned.
    File(String),
    /// A workspace's record does not make sense.
    Record(super::Damaged),
    /// Records do not fit each other.
    Rule(String),
}

/// What each of these queries finds is wrong; it gives one text a row.
const RULES: &[&str] = &[
    layers::DANGLING,
    "WITH RECURSIVE based (id) AS (SELECT id FROM layers WHERE parent IS NULL UNION \
        SELECT layers.id FROM layers JOIN based ON layers.parent = based.id) \
     SELECT 'layer ' || id || ' has no base below it' FROM layers WHERE id NOT IN based",
    "SELECT 'layer ' || top_layer || ', the top of workspace ' || workspaces.id || ', is sealed' \
     FROM workspaces JOIN layers ON layers.id = top_layer WHERE layers.state <> 'open'",
    "SELECT 'layer ' || top_layer || ' is the top of several workspaces' \
     FROM workspaces GROUP BY top_layer HAVING count(*) > 1",
    "SELECT 'layer ' || lower.id || ', below layer ' || upper.id || ', is not sealed' \
     FROM layers AS upper JOIN layers AS lower ON lower.id = upper.parent WHERE lower.state <> 'sealed'",
    "SELECT 'layer ' || lower.id || ' has another base image than layer ' || upper.id || ' on it' \
     FROM layers AS upper JOIN layers AS lower ON lower.id = upper.parent WHERE lower.base_key <> upper.base_key",
    "SELECT 'snapshot ' || name || ' of workspace ' || workspace || ' is not sealed' \
     FROM snapshots JOIN layers ON layers.id = layer WHERE layers.state <> 'sealed'",
    "SELECT 'workspace ' || id || ' has no baseline snapshot' FROM workspaces \
     WHERE state IN ('started', 'stopped') AND id NOT IN (SELECT workspace FROM snapshots WHERE kind = 'baseline')",
    "SELECT 'commands of workspace ' || workspaces.id || ' have gaps' \
     FROM workspaces JOIN commands ON commands.workspace = workspaces.id GROUP BY workspaces.id \
     HAVING max(sequence) <> next_sequence - 1 OR (max(sequence) <= 10000 AND count(*) <> max(sequence))",
    "SELECT 'workspace ' || workspaces.id || ' is stopped and runs command #' || sequence \
     FROM workspaces JOIN commands ON commands.workspace = workspaces.id \
     WHERE workspaces.state IN ('stopped', 'creating') AND commands.state = 'running'",
    "SELECT 'workspace ' || workspaces.id || ' is stopped and runs service ' || services.name \
     FROM workspaces JOIN services ON services.workspace = workspaces.id \
     WHERE workspaces.state IN ('stopped', 'creating') AND services.state IN ('starting', 'running', 'backoff')",
];

impl StateStore {
    /// Everything that is wrong with the database itself; nothing is changed. Reads all of it.
    pub fn check(&self) -> Result<Vec<Finding>, StoreError> {
        self.read(|tx| {
            let mut findings: Vec<Finding> = texts(tx, "PRAGMA integrity_check(100)")?
                .into_iter()
                .filter(|text| text != "ok")
                .map(Finding::File)
                .collect();
            findings
                .extend(workspaces::select_all(tx)?.into_iter().filter_map(Result::err).map(Finding::Record));
            for rule in RULES {
                findings.extend(texts(tx, rule)?.into_iter().take(TOLD).map(Finding::Rule));
            }
            let orphans = "SELECT \"table\" || ' row ' || coalesce(rowid, '?') || ' belongs to nothing' \
                FROM pragma_foreign_key_check WHERE parent <> 'layers'";
            findings.extend(texts(tx, orphans)?.into_iter().take(TOLD).map(Finding::Rule));
            Ok(findings)
        })
    }
}

fn texts(tx: &Transaction<'_>, sql: &str) -> Result<Vec<String>, StoreError> {
    let mut select = tx.prepare(sql)?;
    let mut rows = select.query([])?;
    let mut texts = Vec::new();
    while let Some(row) = rows.next()? {
        texts.push(row::text_at(row, 0));
    }
    Ok(texts)
}
