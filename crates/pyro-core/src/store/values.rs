//! Words of the database: closed sets that are stored as text.

use crate::problem::{Blame, Explain, Problem};
use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A word that is not in its set.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{what} must be one of: {allowed}, not '{found}'")]
pub struct UnknownWord {
    what: &'static str,
    allowed: String,
    found: String,
}

impl Explain for UnknownWord {
    fn explain(&self) -> Problem {
        Problem::new("unknown_word", Blame::Caller, self)
    }
}

macro_rules! words {
    ($(#[$meta:meta])* $name:ident, $what:literal { $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As it is stored and shown.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(UnknownWord {
                        what: $what,
                        allowed: [$($text),+].join(", "),
                        found: text.to_owned(),
                    }),
                }
            }
        }

        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(ToSqlOutput::from(self.as_str()))
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                value.as_str()?.parse().map_err(|error: UnknownWord| FromSqlError::Other(Box::new(error)))
            }
        }
    };
}

words!(
    /// Where a workspace is in its life: `creating`, then `started` and `stopped` in turn, then
    /// `deleting`, which nothing leaves.
    WorkspaceState, "state" {
        /// Its files are being made; what finds it so without its maker alive deletes it.
        Creating = "creating",
        /// A machine is meant to run. Whether one does is told by its supervisor's lock alone.
        Started = "started",
        /// No machine runs.
        Stopped = "stopped",
        /// Its files are being removed; what finds it so goes on with that.
        Deleting = "deleting",
    }
);
words!(
    /// What a workspace's guest may reach.
    NetworkPolicy, "network_policy" {
        /// It has no network.
        Off = "off",
        /// It may reach out.
        Egress = "egress",
        /// It may reach out, and its services may be published on the host's loopback.
        EgressAndPublishedPorts = "egress+published-ports",
    }
);
words!(
    /// What a workspace was filled with.
    SeedMode, "seed mode" {
        /// Nothing.
        Empty = "empty",
        /// A directory of the host.
        Directory = "directory",
        /// An archive of the host.
        TarArchive = "tar_archive",
        /// The disk of another workspace.
        Snapshot = "snapshot",
    }
);
words!(
    /// Whether a layer may still change.
    LayerState, "layer state" {
        /// Some machine writes it, or will.
        Open = "open",
        /// It never changes again.
        Sealed = "sealed",
    }
);
words!(
    /// Who made a snapshot.
    SnapshotKind, "snapshot kind" {
        /// The workspace as it was created.
        Baseline = "baseline",
        /// Made on request.
        Named = "named",
    }
);
words!(
    /// What has become of a command.
    CommandState, "command state" {
        /// It runs, as far as anyone has said.
        Running = "running",
        /// It ended by itself.
        Exited = "exited",
        /// Its machine or whoever watched it went away first.
        Lost = "lost",
        /// It was ended: time-out, signal.
        Killed = "killed",
    }
);
words!(
    /// What has become of a shell.
    ShellState, "shell state" {
        /// It runs.
        Running = "running",
        /// It has ended; what it printed can still be read.
        Stopped = "stopped",
    }
);
words!(
    /// What has become of a service.
    ServiceState, "service state" {
        /// It runs and is not ready yet.
        Starting = "starting",
        /// It runs and is ready.
        Running = "running",
        /// It ended and is about to be started again.
        Backoff = "backoff",
        /// It ended by itself after it was ready.
        Exited = "exited",
        /// It was ended.
        Stopped = "stopped",
        /// It did not become ready, or could not be started again.
        Failed = "failed",
    }
);
words!(
    /// Why a service ended, where not by itself.
    ServiceStop, "stop reason" {
        /// Asked to, it ended.
        SigTerm = "sigterm",
        /// Asked to, it did not end in time and was killed.
        SigKill = "sigkill",
        /// Its workspace was stopped.
        WorkspaceStopped = "workspace_stopped",
        /// Its machine died.
        MachineEnded = "machine_ended",
        /// Its process ended before it was ready.
        ExitedBeforeReady = "process_exited_before_ready",
        /// It was not ready in time.
        ReadinessTimeout = "readiness_timeout",
        /// A port of the host could not be had for it.
        PublishedPortFailed = "published_port_failed",
        /// The guest could not execute it again.
        NotExecuted = "not_executed",
        /// It failed as often as it may.
        RestartLimit = "restart_limit",
    }
);
words!(
    /// How a secret was given.
    SecretSource, "secret source" {
        /// As a value.
        Literal = "literal",
        /// As a file of the host.
        File = "file",
    }
);
words!(
    /// What a review event tells of.
    EventKind, "event kind" {
        /// A command.
        Exec = "exec",
        /// A patch was applied.
        Patch = "patch",
        /// Files came from the host.
        SyncPush = "sync_push",
        /// Files went to the host and may have changed it.
        SyncPull = "sync_pull",
        /// Files were copied out.
        Export = "export",
        /// A file was written.
        FileWrite = "file_write",
        /// A file was removed.
        FileRemove = "file_remove",
        /// A file was moved.
        FileMove = "file_move",
        /// A directory was made.
        FileMkdir = "file_mkdir",
        /// A snapshot was made.
        SnapshotCreate = "snapshot_create",
        /// A snapshot was deleted.
        SnapshotDelete = "snapshot_delete",
        /// The disk went back to a snapshot.
        Reset = "reset",
        /// Another workspace was made from this one.
        Fork = "fork",
        /// The machine was started.
        Start = "start",
        /// The machine was stopped.
        Stop = "stop",
        /// Name or labels changed.
        Update = "update",
        /// The network policy denied something.
        Denial = "denial",
        /// A service was started.
        ServiceStart = "service_start",
        /// A service was stopped or ended.
        ServiceStop = "service_stop",
        /// A shell was opened.
        ShellOpen = "shell_open",
        /// A shell was closed or ended.
        ShellClose = "shell_close",
    }
);
words!(
    /// Why a workspace is gone.
    Departure, "departure" {
        /// Someone deleted it.
        Deleted = "deleted",
        /// Its time was over.
        Expired = "expired",
        /// Its creation failed.
        Abandoned = "abandoned",
    }
);

impl ServiceState {
    /// Whether it has a process, or will have one again by itself.
    pub fn is_live(self) -> bool {
        match self {
            Self::Starting | Self::Running | Self::Backoff => true,
            Self::Exited | Self::Stopped | Self::Failed => false,
        }
    }
}

impl Serialize for NetworkPolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for NetworkPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl NetworkPolicy {
    /// A policy as callers write it: case and space around it do not matter.
    pub fn parse(text: &str) -> Result<Self, UnknownWord> {
        text.trim().to_ascii_lowercase().parse()
    }
}

impl EventKind {
    /// Whether it counts as use of the workspace, which renews its time. Taking copies does not.
    pub fn is_activity(self) -> bool {
        !matches!(self, Self::Export | Self::SyncPull | Self::Denial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_as_callers_write_it() {
        assert_eq!(NetworkPolicy::parse(" OFF\n"), Ok(NetworkPolicy::Off));
        assert_eq!(
            NetworkPolicy::parse("egress+published-ports"),
            Ok(NetworkPolicy::EgressAndPublishedPorts)
        );
        assert_eq!(
            NetworkPolicy::parse("all").unwrap_err().to_string(),
            "network_policy must be one of: off, egress, egress+published-ports, not 'all'"
        );
    }

    #[test]
    fn every_word_is_read_back() {
        for state in WorkspaceState::ALL {
            assert_eq!(state.as_str().parse(), Ok(*state));
        }
        for kind in EventKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(*kind));
        }
        assert!("STARTED".parse::<WorkspaceState>().is_err());
    }
}
