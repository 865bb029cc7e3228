//! Services of a workspace since its last reset: what they are, and what has become of them.

use super::ids::WorkspaceId;
use super::row::{self, Damaged, Fields};
use super::values::{ServiceState, ServiceStop, WorkspaceState};
use super::{Durability, Millis, StateStore, StoreError, life, workspaces};
use rusqlite::{OptionalExtension, Transaction, params};

/// Services of one workspace, those that have ended among them.
pub const SERVICES: u64 = 64;
/// Text kept of why a service failed.
pub const PROBLEM_BYTES: usize = 1 << 10;

/// A service that the guest has begun to run.
#[derive(Clone, Debug)]
pub struct NewService<'a> {
    /// Its name, which no other one of the workspace has that lives.
    pub name: &'a str,
    /// One line, as a shell would take it.
    pub command: &'a str,
    /// Working directory.
    pub cwd: &'a str,
    /// Everything else that it takes to run it, as JSON.
    pub spec: &'a str,
    /// Whether it comes back with its machine.
    pub autostart: bool,
    /// Its main process in the guest.
    pub pid: i32,
}

/// A service on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// Its name.
    pub name: String,
    /// Names it for ever.
    pub token: i64,
    /// One line, as a shell would take it.
    pub command: String,
    /// Working directory.
    pub cwd: String,
    /// Everything else that it takes to run it, as JSON.
    pub spec: String,
    /// Whether it comes back with its machine.
    pub autostart: bool,
    /// What has become of it.
    pub state: ServiceState,
    /// Its main process in the guest, while it has one.
    pub pid: Option<i32>,
    /// When it was started, the last time.
    pub started_at: Millis,
    /// When it became ready.
    pub ready_at: Option<Millis>,
    /// When it ended.
    pub ended_at: Option<Millis>,
    /// How it ended, as far as that is known.
    pub exit_code: Option<i32>,
    /// Why it ended, where not by itself.
    pub stop_reason: Option<ServiceStop>,
    /// What was wrong, for people.
    pub problem: Option<String>,
    /// How often it was started again.
    pub restart_count: u64,
    /// Ports of the host that lead to it now, as JSON.
    pub published: Option<String>,
}

/// What happens to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceChange<'a> {
    /// It is about to be started again.
    Starting,
    /// The guest runs it again.
    Restarted {
        /// Its main process.
        pid: i32,
    },
    /// It is ready.
    Ready {
        /// Ports of the host that lead to it from now on, as JSON.
        published: Option<&'a str>,
    },
    /// Nothing leads to it any more.
    Withdrawn,
    /// It ended and will be started again.
    BackedOff {
        /// How it ended.
        exit_code: Option<i32>,
        /// What was wrong.
        problem: Option<&'a str>,
    },
    /// It ended for good.
    Ended {
        /// As what.
        state: ServiceState,
        /// How.
        exit_code: Option<i32>,
        /// Why, where not by itself.
        reason: Option<ServiceStop>,
        /// What was wrong.
        problem: Option<&'a str>,
    },
}

/// Services by whether they live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceCounts {
    /// All of them.
    pub all: u64,
    /// Those in state `running`.
    pub running: u64,
}

impl StateStore {
    /// Fails where a service of this name could not be started now: one lives, or there are too many.
    pub fn check_new_service(&self, id: WorkspaceId, name: &str) -> Result<(), StoreError> {
        self.read(|tx| {
            life::require_state(tx, id, &[WorkspaceState::Started])?;
            require_room(tx, id, name)
        })
    }

    /// Puts a service on record as starting. One of the same name that has ended is forgotten, and where there
    /// is no room, the one that ended first. Gives its token.
    pub fn begin_service(
        &self,
        id: WorkspaceId,
        new: &NewService<'_>,
        now: Millis,
    ) -> Result<i64, StoreError> {
        self.write(Durability::Disk, |tx| {
            life::require_state(tx, id, &[WorkspaceState::Started])?;
            require_room(tx, id, new.name)?;
            tx.execute("DELETE FROM services WHERE workspace = ?1 AND name = ?2", params![id, new.name])?;
            let sql = format!(
                "DELETE FROM services WHERE workspace = ?1 AND token IN (SELECT token FROM services \
                 WHERE workspace = ?1 AND state NOT IN {LIVE} ORDER BY autostart, coalesce(ended_at, 0), token \
                 LIMIT max(0, (SELECT count(*) FROM services WHERE workspace = ?1) - ?2))"
            );
            tx.execute(&sql, params![id, row::stored(SERVICES - 1)])?;
            tx.execute(
                "INSERT INTO services (workspace, name, command, cwd, spec, autostart, state, pid, started_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![
                    id,
                    new.name,
                    new.command,
                    new.cwd,
                    new.spec,
                    new.autostart,
                    ServiceState::Starting,
                    new.pid,
                    now
                ],
            )?;
            let token = tx.last_insert_rowid();
            life::renew(tx, id, now)?;
            Ok(token)
        })
    }

    /// Notes what has happened to a service. Nothing happens any more to one that is not on record.
    pub fn change_service(
        &self,
        id: WorkspaceId,
        token: i64,
        change: &ServiceChange<'_>,
        now: Millis,
    ) -> Result<(), StoreError> {
        self.write(Durability::System, |tx| {
            let changed = match change {
                ServiceChange::Starting => tx.execute(
                    "UPDATE services SET state = ?3, pid = NULL, started_at = ?4, ready_at = NULL, ended_at = NULL, \
                     exit_code = NULL, stop_reason = NULL, problem = NULL, published = NULL WHERE workspace = ?1 AND token = ?2",
                    params![id, token, ServiceState::Starting, now],
                ),
                ServiceChange::Restarted { pid } => tx.execute(
                    "UPDATE services SET state = ?3, pid = ?4, started_at = ?5, ready_at = NULL, ended_at = NULL, \
                     exit_code = NULL, stop_reason = NULL, problem = NULL, published = NULL, \
                     restart_count = restart_count + 1 \
                     WHERE workspace = ?1 AND token = ?2",
                    params![id, token, ServiceState::Starting, pid, now],
                ),
                ServiceChange::Ready { published } => tx.execute(
                    "UPDATE services SET state = ?3, ready_at = ?4, published = ?5 \
                     WHERE workspace = ?1 AND token = ?2",
                    params![id, token, ServiceState::Running, now, published],
                ),
                ServiceChange::Withdrawn => tx.execute(
                    "UPDATE services SET published = NULL WHERE workspace = ?1 AND token = ?2",
                    params![id, token],
                ),
                ServiceChange::BackedOff { exit_code, problem } => {
                    let end = End { state: ServiceState::Backoff, exit_code: *exit_code, reason: None, problem };
                    end.store(tx, id, token, now)
                }
                ServiceChange::Ended { state, exit_code, reason, problem } => {
                    let end = End { state: *state, exit_code: *exit_code, reason: *reason, problem };
                    end.store(tx, id, token, now)
                }
            }?;
            match changed {
                0 => Err(StoreError::NoService { id, name: format!("#{token}") }),
                _ => Ok(()),
            }
        })
    }

    /// Services of a workspace, by name.
    pub fn services(&self, id: WorkspaceId) -> Result<Vec<ServiceRecord>, StoreError> {
        self.read(|tx| {
            workspaces::require(tx, id)?;
            let mut select = tx.prepare("SELECT * FROM services WHERE workspace = ?1 ORDER BY name")?;
            let mut rows = select.query([id])?;
            let mut services = Vec::new();
            while let Some(row) = rows.next()? {
                services.push(parse(id, &Fields::new(row, "workspace"))?);
            }
            Ok(services)
        })
    }

    /// One service of a workspace.
    pub fn service(&self, id: WorkspaceId, name: &str) -> Result<ServiceRecord, StoreError> {
        self.read(|tx| {
            workspaces::require(tx, id)?;
            let sql = "SELECT * FROM services WHERE workspace = ?1 AND name = ?2";
            let found = tx
                .query_row(sql, params![id, name], |row| Ok(parse(id, &Fields::new(row, "workspace"))))
                .optional()?;
            Ok(found.ok_or_else(|| StoreError::NoService { id, name: name.to_owned() })??)
        })
    }

    /// How many services a workspace has.
    pub fn service_counts(&self, id: WorkspaceId) -> Result<ServiceCounts, StoreError> {
        self.read(|tx| {
            let sql =
                "SELECT count(*), count(*) FILTER (WHERE state = ?2) FROM services WHERE workspace = ?1";
            let (all, running): (i64, i64) =
                tx.query_row(sql, params![id, ServiceState::Running], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(ServiceCounts { all: all.unsigned_abs(), running: running.unsigned_abs() })
        })
    }
}

/// States of services that have a process, or will have one again.
const LIVE: &str = "('starting', 'running', 'backoff')";

struct End<'a> {
    state: ServiceState,
    exit_code: Option<i32>,
    reason: Option<ServiceStop>,
    problem: &'a Option<&'a str>,
}

impl End<'_> {
    fn store(
        &self,
        tx: &Transaction<'_>,
        id: WorkspaceId,
        token: i64,
        now: Millis,
    ) -> rusqlite::Result<usize> {
        let problem = self.problem.map(|text| &text[..text.floor_char_boundary(PROBLEM_BYTES)]);
        tx.execute(
            "UPDATE services SET state = ?3, pid = NULL, ended_at = ?4, exit_code = ?5, stop_reason = ?6, \
             problem = ?7, published = NULL WHERE workspace = ?1 AND token = ?2",
            params![id, token, self.state, now, self.exit_code, self.reason, problem],
        )
    }
}

fn require_room(tx: &Transaction<'_>, id: WorkspaceId, name: &str) -> Result<(), StoreError> {
    let sql = format!("SELECT name FROM services WHERE workspace = ?1 AND state IN {LIVE}");
    let mut select = tx.prepare(&sql)?;
    let live = select.query_map([id], |row| Ok(row::text(row, "name")))?.collect::<Result<Vec<_>, _>>()?;
    if live.iter().any(|one| one == name) {
        return Err(StoreError::ServiceRuns { id, name: name.to_owned() });
    }
    match live.len() as u64 >= SERVICES {
        true => Err(StoreError::TooManyServices { id }),
        false => Ok(()),
    }
}

/// Notes that a workspace's machine is gone, and with it what ran there.
pub(super) fn end_all(
    tx: &Transaction<'_>,
    id: WorkspaceId,
    reason: ServiceStop,
    now: Millis,
) -> rusqlite::Result<()> {
    let sql = format!(
        "UPDATE services SET state = ?2, pid = NULL, ended_at = coalesce(ended_at, ?3), stop_reason = ?4, \
         published = NULL WHERE workspace = ?1 AND state IN {LIVE}"
    );
    tx.execute(&sql, params![id, ServiceState::Stopped, now, reason])?;
    Ok(())
}

fn parse(id: WorkspaceId, fields: &Fields<'_>) -> Result<ServiceRecord, Damaged> {
    Ok(ServiceRecord {
        workspace: id,
        name: fields.get("name")?,
        token: fields.get("token")?,
        command: fields.get("command")?,
        cwd: fields.get("cwd")?,
        spec: fields.get("spec")?,
        autostart: fields.get("autostart")?,
        state: fields.get("state")?,
        pid: fields.get("pid")?,
        started_at: fields.get("started_at")?,
        ready_at: fields.get("ready_at")?,
        ended_at: fields.get("ended_at")?,
        exit_code: fields.get("exit_code")?,
        stop_reason: fields.get("stop_reason")?,
        problem: fields.get("problem")?,
        restart_count: fields.count("restart_count")?,
        published: fields.get("published")?,
    })
}
