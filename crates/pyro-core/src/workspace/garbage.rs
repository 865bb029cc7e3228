//! What a crash or a deletion leaves, and its removal.

use super::{WorkspaceError, now};
use crate::faults::FaultPoint;
use crate::limits::MACHINE_LOCK_DEADLINE;
use crate::places::{FileLock, Hold, Places};
use crate::store::{Damaged, Departure, StateStore, StoreError, WorkspaceId, WorkspaceState};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

/// Settles what processes left that died: creations and deletions half done, machines gone without a word,
/// workspaces whose time is over. Cheap when there is nothing; what somebody is working on is left alone.
pub(crate) fn recover(store: &StateStore, places: &Places) -> Result<(), WorkspaceError> {
    let expired = store.expired(now())?;
    for workspace in store.list()?.into_iter().flatten() {
        let id = workspace.id;
        match workspace.state {
            WorkspaceState::Creating => remove_abandoned(store, places, id, Departure::Abandoned)?,
            WorkspaceState::Deleting => {
                remove_abandoned(store, places, id, departure(workspace.stop_reason.as_deref()))?
            }
            WorkspaceState::Started => settle_machine(store, places, id)?,
            WorkspaceState::Stopped => {}
        }
        // A supervisor looks after the time of its own workspace.
        if expired.contains(&id) && is_free(&places.machine_lock(id)) {
            expire(store, places, id)?;
        }
    }
    // Mostly there is nothing, and then nothing is locked.
    if !store.garbage_layers()?.is_empty() {
        collect_layers(store, places)?;
    }
    remove_unrecorded(store, places)
}

/// Workspaces on record, damaged ones among them as far as they can be told.
pub(crate) fn recorded(store: &StateStore) -> Result<HashSet<WorkspaceId>, StoreError> {
    let mut ids = HashSet::new();
    for found in store.list()? {
        match found {
            Ok(workspace) => ids.extend([workspace.id]),
            // Its files are its own however its record reads.
            Err(damaged) => ids.extend(damaged.id.parse::<WorkspaceId>()),
        }
    }
    Ok(ids)
}

/// The workspace whose file or directory this is.
pub(crate) fn owner(path: &Path) -> Option<WorkspaceId> {
    path.file_stem().and_then(OsStr::to_str)?.parse().ok()
}

/// Removes directories of workspaces whose creator died before there was a record. They hold locks alone.
fn remove_unrecorded(store: &StateStore, places: &Places) -> Result<(), WorkspaceError> {
    let unrecorded = || -> Result<Vec<PathBuf>, StoreError> {
        let is_nameless = |found: &Result<_, Damaged>| {
            found.as_ref().is_err_and(|damaged| damaged.id.parse::<WorkspaceId>().is_err())
        };
        // Which directory is that one's cannot be told.
        if store.list()?.iter().any(is_nameless) {
            return Ok(Vec::new());
        }
        let Ok(entries) = std::fs::read_dir(places.workspaces()) else { return Ok(Vec::new()) };
        let paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        let recorded = recorded(store)?;
        let is_unrecorded = |path: &PathBuf| owner(path).is_some_and(|id| !recorded.contains(&id));
        Ok(paths.into_iter().filter(is_unrecorded).collect())
    };
    if unrecorded()?.is_empty() {
        return Ok(());
    }
    // Whoever makes a workspace keeps layers until its record is there.
    let path = places.layers_lock();
    let lock = FileLock::try_take(&path, Hold::Exclusive).map_err(WorkspaceError::state("lock", path))?;
    let Some(_alone) = lock else { return Ok(()) };
    unrecorded()?.iter().try_for_each(|path| remove_tree(path))
}

/// Waits for the machines of creations that nobody goes on with: they end when their creator is gone.
pub(crate) async fn await_machines(store: &StateStore, places: &Places) -> Result<(), WorkspaceError> {
    for workspace in store.list()?.into_iter().flatten() {
        if workspace.state == WorkspaceState::Creating && is_free(&places.operation_lock(workspace.id)) {
            let path = places.machine_lock(workspace.id);
            let waited = FileLock::take_within(&path, Hold::Shared, MACHINE_LOCK_DEADLINE).await;
            match waited {
                // Somebody else has removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                waited => drop(waited.map_err(WorkspaceError::state("lock", path))?),
            }
        }
    }
    Ok(())
}

fn departure(stop_reason: Option<&str>) -> Departure {
    stop_reason.and_then(|reason| reason.parse().ok()).unwrap_or(Departure::Deleted)
}

/// Removes what nobody is making or deleting any more.
fn remove_abandoned(
    store: &StateStore,
    places: &Places,
    id: WorkspaceId,
    reason: Departure,
) -> Result<(), WorkspaceError> {
    alone(places, id, || match is_free(&places.machine_lock(id)) {
        true => remove(store, places, id, reason),
        // A machine that was booting for it ends with its client, which is gone.
        false => Ok(()),
    })
}

/// Notes that a machine is gone whose supervisor could not.
pub(crate) fn settle_machine(
    store: &StateStore,
    places: &Places,
    id: WorkspaceId,
) -> Result<(), WorkspaceError> {
    match is_free(&places.machine_lock(id)) {
        true => alone(places, id, || note_end(store, places, id)),
        false => Ok(()),
    }
}

/// The same for a caller that holds the operation lock.
pub(crate) fn note_end(store: &StateStore, places: &Places, id: WorkspaceId) -> Result<(), WorkspaceError> {
    if !is_free(&places.machine_lock(id)) {
        return Ok(());
    }
    let reason = "its supervisor ended unexpectedly";
    match store.set_state(id, &[WorkspaceState::Started], WorkspaceState::Stopped, Some(reason), now()) {
        Ok(()) | Err(StoreError::Conflict { .. } | StoreError::NoWorkspace(_) | StoreError::Expired(_)) => {
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

fn expire(store: &StateStore, places: &Places, id: WorkspaceId) -> Result<(), WorkspaceError> {
    alone(places, id, || {
        if store.begin_expiry(id, now())? {
            places.reach(FaultPoint::ExpiryMarked);
            remove(store, places, id, Departure::Expired)?;
        }
        Ok(())
    })
}

/// Does `work` with the workspace's operation lock held, or not at all when somebody else holds it.
fn alone(
    places: &Places,
    id: WorkspaceId,
    work: impl FnOnce() -> Result<(), WorkspaceError>,
) -> Result<(), WorkspaceError> {
    let path = places.operation_lock(id);
    match FileLock::try_take(&path, Hold::Exclusive) {
        Ok(Some(_held)) => work(),
        Ok(None) => Ok(()),
        // Its directory goes last, just before its record, and nobody begins anything without it. Several
        // may go on from there.
        Err(error) if error.kind() == io::ErrorKind::NotFound => work(),
        Err(error) => Err(WorkspaceError::state("lock", path)(error)),
    }
}

/// Whether nobody holds the lock. A lock that was never made is free.
pub(crate) fn is_free(path: &Path) -> bool {
    if !path.exists() {
        return true;
    }
    matches!(FileLock::try_take(path, Hold::Shared), Ok(Some(_)))
}

/// Removes a workspace in state `deleting` or `creating`, with all its files. The caller holds its operation
/// lock, and its machine is gone. Whatever of this is left when the process dies is done again.
pub(crate) fn remove(
    store: &StateStore,
    places: &Places,
    id: WorkspaceId,
    reason: Departure,
) -> Result<(), WorkspaceError> {
    remove_tree(&places.secrets(id))?;
    places.reach(FaultPoint::RemoveSecrets);
    // Under its own name others would go on making locks in it.
    let (dir, aside) = (places.workspace(id), places.workspace_aside(id));
    remove_tree(&aside)?;
    match std::fs::rename(&dir, &aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(WorkspaceError::state("remove", dir)(error));
        }
        _ => {}
    }
    places.reach(FaultPoint::RemoveAside);
    remove_tree(&aside)?;
    places.reach(FaultPoint::RemoveDirectory);
    store.delete(id, reason, now())?;
    places.reach(FaultPoint::RemoveForgotten);
    collect_layers(store, places)
}

fn remove_tree(dir: &Path) -> Result<(), WorkspaceError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(WorkspaceError::state("remove", dir)(error))
        }
        _ => Ok(()),
    }
}

/// Removes layers that nothing needs: the file first, then the record, so that no file is ever forgotten.
/// Left for another time while somebody makes or opens layers.
pub(crate) fn collect_layers(store: &StateStore, places: &Places) -> Result<(), WorkspaceError> {
    let path = places.layers_lock();
    let lock = FileLock::try_take(&path, Hold::Exclusive).map_err(WorkspaceError::state("lock", path))?;
    let Some(_alone) = lock else { return Ok(()) };
    for layer in store.garbage_layers()? {
        let path = places.layer(layer);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(WorkspaceError::state("remove", path)(error));
            }
            _ => {
                places.reach(FaultPoint::CollectRemoved);
                store.forget_layer(layer)?;
                places.reach(FaultPoint::CollectForgotten);
            }
        }
    }
    collect_bases(store, places)
}

fn collect_bases(store: &StateStore, places: &Places) -> Result<(), WorkspaceError> {
    let Ok(entries) = std::fs::read_dir(places.bases()) else { return Ok(()) };
    let used = store.base_keys()?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let key = Path::new(&name).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        if !used.contains(&key) {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(WorkspaceError::state("remove", path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_removal_is_not_disturbed_by_others_who_look() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new(dir.path());
        let store = StateStore::open(&places.database()).unwrap();
        let is_over = AtomicBool::new(false);
        let id = |number: u8| WorkspaceId::from_bytes([number; 6]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    for number in 0..u8::MAX {
                        // Finds it taken, free, or gone.
                        let _ = FileLock::try_take(&places.operation_lock(id(number)), Hold::Shared);
                    }
                }
            });
            let removed: Vec<_> = (0..u8::MAX)
                .map(|number| {
                    crate::places::create_private_dir(&places.workspace(id(number))).unwrap();
                    let lock = places.operation_lock(id(number));
                    let _held = FileLock::take(&lock, Hold::Exclusive).unwrap();
                    remove(&store, &places, id(number), Departure::Deleted)
                })
                .collect();
            is_over.store(true, Ordering::Relaxed);
            removed.into_iter().for_each(|removed| removed.unwrap());
        });
        assert_eq!(std::fs::read_dir(places.workspaces()).unwrap().count(), 0);
    }

    #[test]
    fn directories_without_a_record_go_once_nobody_makes_a_workspace() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new(dir.path());
        let store = StateStore::open(&places.database()).unwrap();
        let stray = places.workspace(WorkspaceId::from_bytes([1; 6]));
        crate::places::create_private_dir(&stray).unwrap();
        let making = FileLock::take(&places.layers_lock(), Hold::Shared).unwrap();
        recover(&store, &places).unwrap();
        assert!(stray.exists());
        drop(making);
        recover(&store, &places).unwrap();
        assert!(!stray.exists());
    }
}
