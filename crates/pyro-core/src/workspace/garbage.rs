//! What a crash or a deletion leaves, and its removal.

use super::{WorkspaceError, now};
use crate::limits::MACHINE_LOCK_DEADLINE;
use crate::places::{FileLock, Hold, Places};
use crate::store::{Departure, StateStore, StoreError, WorkspaceId, WorkspaceState};
use std::io;
use std::path::Path;

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
    Ok(())
}

/// Waits for the machines of creations that nobody goes on with: they end when their creator is gone.
pub(crate) async fn await_machines(store: &StateStore, places: &Places) -> Result<(), WorkspaceError> {
    for workspace in store.list()?.into_iter().flatten() {
        if workspace.state == WorkspaceState::Creating && is_free(&places.operation_lock(workspace.id)) {
            let path = places.machine_lock(workspace.id);
            let waited = FileLock::take_within(&path, Hold::Shared, MACHINE_LOCK_DEADLINE).await;
            waited.map_err(WorkspaceError::state("lock", path))?;
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
    let Some(_held) = try_operation(places, id)? else { return Ok(()) };
    // A machine that was booting for it ends with its client, which is gone.
    if is_free(&places.machine_lock(id)) {
        remove(store, places, id, reason)?;
    }
    Ok(())
}

/// Notes that a machine is gone whose supervisor could not.
fn settle_machine(store: &StateStore, places: &Places, id: WorkspaceId) -> Result<(), WorkspaceError> {
    if !is_free(&places.machine_lock(id)) {
        return Ok(());
    }
    let Some(_held) = try_operation(places, id)? else { return Ok(()) };
    if is_free(&places.machine_lock(id)) {
        let reason = "its supervisor ended unexpectedly";
        match store.set_state(id, &[WorkspaceState::Started], WorkspaceState::Stopped, Some(reason), now()) {
            Ok(()) | Err(StoreError::Conflict { .. } | StoreError::NoWorkspace(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn expire(store: &StateStore, places: &Places, id: WorkspaceId) -> Result<(), WorkspaceError> {
    let Some(_held) = try_operation(places, id)? else { return Ok(()) };
    if store.begin_expiry(id, now())? {
        remove(store, places, id, Departure::Expired)?;
    }
    Ok(())
}

fn try_operation(places: &Places, id: WorkspaceId) -> Result<Option<FileLock>, WorkspaceError> {
    let path = places.operation_lock(id);
    match FileLock::try_take(&path, Hold::Exclusive) {
        // Its directory is removed last, just before its record.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            crate::places::create_private_dir(&places.workspace(id))
                .map_err(WorkspaceError::state("make", places.workspace(id)))?;
            FileLock::try_take(&path, Hold::Exclusive).map_err(WorkspaceError::state("lock", path))
        }
        taken => taken.map_err(WorkspaceError::state("lock", path)),
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
    for dir in [places.secrets(id), places.workspace(id)] {
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(WorkspaceError::state("remove", dir)(error));
            }
            _ => {}
        }
    }
    store.delete(id, reason, now())?;
    collect_layers(store, places)
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
                store.forget_layer(layer)?;
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
