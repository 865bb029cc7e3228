//! Named points at which a process kills itself, so that tests can see what a crash there leaves.
//!
//! A front end for tests hands a [`Fault`] over in [`Config`](crate::Config); nothing else ever sets one.

use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::PathBuf;

macro_rules! points {
    ($($point:ident = $name:literal,)*) => {
        /// A moment between two steps of an operation.
        #[allow(missing_docs, reason = "each is told by its name")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum FaultPoint {
            $(#[serde(rename = $name)] $point,)*
        }

        impl FaultPoint {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$point),*];

            /// Its name: the operation, then what it has just done.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

points! {
    CreateDirectory = "create:directory",
    CreateLayer = "create:layer",
    CreateRecorded = "create:recorded",
    CreateSecrets = "create:secrets",
    CreateBooted = "create:booted",
    CreateSeeded = "create:seeded",
    CreateFinished = "create:finished",
    BootLocked = "boot:locked",
    BootReady = "boot:ready",
    BootRecorded = "boot:recorded",
    StartBooted = "start:booted",
    StopFlushed = "stop:flushed",
    StopEnded = "stop:ended",
    StopAnswered = "stop:answered",
    LayerAnnounced = "layer:announced",
    LayerMade = "layer:made",
    SealFrozen = "seal:frozen",
    SealReplaced = "seal:replaced",
    SealRecorded = "seal:recorded",
    SealThawed = "seal:thawed",
    RestSealed = "rest:sealed",
    RestLayer = "rest:layer",
    RestRecorded = "rest:recorded",
    ResetStopped = "reset:stopped",
    ResetLayer = "reset:layer",
    ResetRecorded = "reset:recorded",
    ResetCollected = "reset:collected",
    ResetBooted = "reset:booted",
    ForkSealed = "fork:sealed",
    ForkMade = "fork:made",
    SyncConnected = "sync:connected",
    SyncSending = "sync:sending",
    SyncMerged = "sync:merged",
    SnapshotForgotten = "snapshot-delete:forgotten",
    MergeWritten = "merge:written",
    MergeRecorded = "merge:recorded",
    CollectRemoved = "collect:removed",
    CollectForgotten = "collect:forgotten",
    DeleteStopped = "delete:stopped",
    DeleteMarked = "delete:marked",
    RemoveSecrets = "remove:secrets",
    RemoveAside = "remove:aside",
    RemoveDirectory = "remove:directory",
    RemoveForgotten = "remove:forgotten",
    ExpiryMarked = "expiry:marked",
    ShellExecuted = "shell-open:executed",
    ShellRecorded = "shell-open:recorded",
    ShellEnded = "shell-close:ended",
    ShellForgotten = "shell-close:forgotten",
    ServiceExecuted = "service:executed",
    ServiceRecorded = "service:recorded",
    ServiceReady = "service:ready",
    ServiceEnded = "service:ended",
    ServicesStopped = "services:stopped",
    UpdateRecorded = "update:recorded",
    UpdateEnforced = "update:enforced",
    UpdateWithdrawn = "update:withdrawn",
    UpdateAnswered = "update:answered",
}

/// Where to die.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    point: FaultPoint,
    /// Made at the point, so that a test can tell this death from another one.
    mark: PathBuf,
}

impl Fault {
    /// Reads `POINT=MARK`; `None` where there is no such point.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, mark) = text.split_once('=')?;
        let point = *FaultPoint::ALL.iter().find(|point| point.name() == name)?;
        Some(Self { point, mark: PathBuf::from(mark) })
    }
}

/// Dies here if `fault` says so, as sudden as by `kill -9`.
pub(crate) fn reach(fault: Option<&Fault>, point: FaultPoint) {
    if let Some(fault) = fault.filter(|fault| fault.point == point) {
        let _ = File::create(&fault.mark);
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_found_by_its_name() {
        for point in FaultPoint::ALL {
            let fault = Fault::parse(&format!("{}=/mark", point.name())).unwrap();
            assert_eq!((fault.point, fault.mark), (*point, PathBuf::from("/mark")));
        }
        assert_eq!(Fault::parse("nowhere=/mark"), None);
        assert_eq!(Fault::parse("create:directory"), None);
    }
}
