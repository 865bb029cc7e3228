mod commands;
mod damage;
mod files;
mod golden;
mod layers;
mod life;
mod processes;
mod services;
mod shells;
mod workspaces;

use super::*;
use crate::authorities::Authorities;
use crate::network::NetworkRules;
use std::collections::{BTreeMap, BTreeSet};
use tempfile::TempDir;

const TTL: Millis = 600_000;

/// A store in a directory of its own.
pub(crate) struct Fixture {
    pub(crate) directory: TempDir,
    store: StateStore,
}

impl std::ops::Deref for Fixture {
    type Target = StateStore;

    fn deref(&self) -> &StateStore {
        &self.store
    }
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = StateStore::open(&directory.path().join("state.db")).unwrap();
        Self { directory, store }
    }

    /// Another connection, as another process would have.
    pub(crate) fn again(&self) -> StateStore {
        StateStore::open(self.store.path()).unwrap()
    }

    /// A started workspace, whose baseline is `layer(10 * number)` and whose top is one more.
    pub(crate) fn workspace(&self, number: u8, now: Millis) -> WorkspaceId {
        create(&self.store, new_workspace(number), now).id
    }

    /// Changes the file behind the store's back.
    fn sql(&self, sql: &str) {
        let connection = Connection::open(self.store.path()).unwrap();
        connection.pragma_update(None, "foreign_keys", false).unwrap();
        connection.execute_batch(sql).unwrap();
    }

    fn rules(&self) -> Vec<Finding> {
        self.store.check().unwrap()
    }
}

fn id(number: u8) -> WorkspaceId {
    WorkspaceId::from_bytes([number; 6])
}

fn layer(number: u8) -> LayerId {
    LayerId::from_bytes([number; 16])
}

fn new_workspace(number: u8) -> NewWorkspace {
    NewWorkspace {
        id: id(number),
        name: None,
        labels: BTreeMap::new(),
        environment: "debian:12".to_owned(),
        environment_version: Some("1.0.0".to_owned()),
        base_key: "debian_12-1.0.0.ext4".to_owned(),
        base_rootfs: "/cache/rootfs.ext4".into(),
        kernel: None,
        vcpu_count: 1,
        mem_mib: 1024,
        disk_mib: None,
        ttl_seconds: 600,
        network_policy: NetworkPolicy::Off,
        network_rules: NetworkRules::default(),
        uses_host_proxy: false,
        authorities: Authorities::default(),
        image: ImageDefaults::default(),
        seed: Seed {
            mode: SeedMode::Empty,
            seed_path: None,
            destination: "/workspace".to_owned(),
            entry_count: 0,
            bytes_written: 0,
            origin: None,
        },
        secrets: Vec::new(),
        parent: None,
        top_layer: layer(10 * number),
    }
}

fn create(store: &StateStore, new: NewWorkspace, now: Millis) -> Workspace {
    store.begin_create(&new, now).unwrap();
    let mut next = u128::from_str_radix(&new.top_layer.to_string(), 16).unwrap();
    next += 1 << 120;
    let created = Created {
        entry_count: 3,
        bytes_written: 40,
        baseline: NewBaseline::SealTop(LayerId::from_bytes(next.to_be_bytes())),
        state: WorkspaceState::Started,
    };
    store.finish_create(new.id, &created, now).unwrap()
}

/// The top that [`create`] gives to `new_workspace(number)`.
fn first_top(number: u8) -> LayerId {
    let mut bytes = [10 * number; 16];
    bytes[0] += 1;
    LayerId::from_bytes(bytes)
}

fn snapshot(name: &str) -> NewSnapshot {
    NewSnapshot { name: name.to_owned(), entry_count: 1, bytes_written: 2 }
}

fn command(text: &str) -> NewCommand {
    NewCommand { command: text.to_owned(), cwd: "/workspace".to_owned(), detached: false }
}

fn printed(stdout: &[u8]) -> CommandOutput {
    CommandOutput { stdout: stdout.to_vec(), ..CommandOutput::default() }
}

#[track_caller]
fn text<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    result.unwrap_err().to_string()
}
