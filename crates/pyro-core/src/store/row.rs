//! Rows become values here, each field on its own: a damaged row hurts nobody but its workspace.

use crate::problem::{Blame, Explain, Problem};
use rusqlite::types::{FromSql, ValueRef};
use rusqlite::{Row, RowIndex};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A record that does not make sense.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the record of workspace '{id}' is damaged: {field}: {problem}")]
pub struct Damaged {
    /// The workspace, as far as its id can be read.
    pub id: String,
    /// The part of the record.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl Damaged {
    pub(super) fn new(id: impl ToString, field: &'static str, problem: impl ToString) -> Self {
        Self { id: id.to_string(), field, problem: problem.to_string() }
    }
}

impl Explain for Damaged {
    fn explain(&self) -> Problem {
        Problem::new("damaged_record", Blame::Host, self).with_hint(format!(
            "other workspaces are not concerned; `pyro workspace delete {}` removes it",
            self.id
        ))
    }
}

/// One row of a workspace.
pub(super) struct Fields<'row> {
    row: &'row Row<'row>,
    id: String,
}

impl<'row> Fields<'row> {
    /// A row whose workspace's id is in the column `id_column`.
    pub(super) fn new(row: &'row Row<'row>, id_column: &'static str) -> Self {
        Self { row, id: text(row, id_column) }
    }

    /// The workspace, as it is written.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// A column's value.
    pub(super) fn get<T: FromSql>(&self, column: &'static str) -> Result<T, Damaged> {
        self.row.get(column).map_err(|error| self.damaged(column, error))
    }

    /// A number that is not negative.
    pub(super) fn count(&self, column: &'static str) -> Result<u64, Damaged> {
        let number: i64 = self.get(column)?;
        u64::try_from(number).map_err(|error| self.damaged(column, error))
    }

    /// A number that is not negative, or nothing.
    pub(super) fn optional_count(&self, column: &'static str) -> Result<Option<u64>, Damaged> {
        let number: Option<i64> = self.get(column)?;
        number.map(u64::try_from).transpose().map_err(|error| self.damaged(column, error))
    }

    /// A path.
    pub(super) fn path(&self, column: &'static str) -> Result<PathBuf, Damaged> {
        Ok(path(self.get(column)?))
    }

    /// A path, or nothing.
    pub(super) fn optional_path(&self, column: &'static str) -> Result<Option<PathBuf>, Damaged> {
        Ok(self.get::<Option<Vec<u8>>>(column)?.map(path))
    }

    /// What to say of a column that cannot be right.
    pub(super) fn damaged(&self, field: &'static str, problem: impl ToString) -> Damaged {
        Damaged::new(&self.id, field, problem)
    }
}

/// A column as text, whatever it holds.
pub(super) fn text(row: &Row<'_>, column: &'static str) -> String {
    text_at(row, column)
}

/// The same of a column with or without a name.
pub(super) fn text_at(row: &Row<'_>, column: impl RowIndex) -> String {
    match row.get_ref(column) {
        Ok(ValueRef::Text(bytes) | ValueRef::Blob(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        Ok(ValueRef::Integer(number)) => number.to_string(),
        Ok(ValueRef::Real(_) | ValueRef::Null) | Err(_) => "?".to_owned(),
    }
}

/// A number as it is stored. SQLite knows no larger ones; nothing here comes near.
pub(super) fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A path as it is stored.
pub(super) fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}
