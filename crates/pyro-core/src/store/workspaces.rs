//! Workspaces: their records, their creation, their names and labels.

use super::ids::{LayerId, WorkspaceId};
use super::row::{self, Damaged, Fields};
use super::values::{LayerState, NetworkPolicy, SecretSource, SeedMode, SnapshotKind, WorkspaceState};
use super::{
    Durability, Millis, NameError, StateStore, StoreError, address, authorities, layers, life, names,
    snapshots,
};
use crate::authorities::{Authorities, AuthoritySource};
use crate::network::{NetworkRules, NetworkUpdate};
use rusqlite::{OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

/// A workspace as it is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Its id.
    pub id: WorkspaceId,
    /// What the caller calls it. Several may have one name.
    pub name: Option<String>,
    /// What the caller notes about it.
    pub labels: BTreeMap<String, String>,
    /// The environment it was made from.
    pub environment: String,
    /// That environment's version.
    pub environment_version: Option<String>,
    /// The file of the base image among the kept ones.
    pub base_key: String,
    /// The environment's own image, should the kept one be missing.
    pub base_rootfs: PathBuf,
    /// The environment's own kernel.
    pub kernel: Option<PathBuf>,
    /// Virtual CPUs.
    pub vcpu_count: u64,
    /// Memory.
    pub mem_mib: u64,
    /// What it may write to its disk.
    pub disk_mib: Option<u64>,
    /// How long it lives without activity; 0 is for ever.
    pub ttl_seconds: u64,
    /// What its guest may reach.
    pub network_policy: NetworkPolicy,
    /// What refines that.
    pub network_rules: NetworkRules,
    /// Whether its connections to names go through the host's proxy.
    pub uses_host_proxy: bool,
    /// Where its certificate authorities came from, see [`StateStore::authorities`].
    pub authorities: Vec<AuthoritySource>,
    /// What commands get where the caller says nothing.
    pub image: ImageDefaults,
    /// What it was filled with.
    pub seed: Seed,
    /// Its secrets, by name.
    pub secrets: Vec<SecretRecord>,
    /// The layer that its machine writes.
    pub top_layer: LayerId,
    /// Where it is in its life.
    pub state: WorkspaceState,
    /// Why it is stopped or being deleted.
    pub stop_reason: Option<String>,
    /// When it was made.
    pub created_at: Millis,
    /// When it was last used.
    pub last_activity_at: Millis,
    /// When its time is over.
    pub expires_at: Option<Millis>,
    /// How often it was reset.
    pub reset_count: u64,
    /// When it was reset last.
    pub last_reset_at: Option<Millis>,
    /// The number that the next command gets.
    pub next_sequence: u64,
}

impl Workspace {
    /// Commands since the last reset.
    pub fn command_count(&self) -> u64 {
        self.next_sequence.saturating_sub(1)
    }
}

/// What the environment's image wants for commands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDefaults {
    /// Variables.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Working directory.
    #[serde(default)]
    pub cwd: Option<String>,
    /// User.
    #[serde(default)]
    pub user: Option<String>,
}

/// What a workspace was filled with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// What kind of source.
    pub mode: SeedMode,
    /// The source: a path of the host, or `WORKSPACE:SNAPSHOT`.
    pub seed_path: Option<PathBuf>,
    /// The guest's directory.
    pub destination: String,
    /// Files, directories and links.
    pub entry_count: u64,
    /// Bytes of files.
    pub bytes_written: u64,
    /// Where the source is from, if its maker knows more than the path.
    pub origin: Option<SeedOrigin>,
}

/// Where a seed is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedOrigin {
    /// `git_checkout`, `directory` or `repo_url`.
    pub origin_kind: String,
    /// The directory, or the URL with what was checked out.
    pub origin_ref: String,
}

/// A secret, without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRecord {
    /// Its name.
    pub name: String,
    /// How it was given.
    pub source_kind: SecretSource,
}

/// A workspace to be made.
#[derive(Clone, Debug)]
pub struct NewWorkspace {
    /// Its id, drawn at random.
    pub id: WorkspaceId,
    /// See [`Workspace::name`].
    pub name: Option<String>,
    /// See [`Workspace::labels`].
    pub labels: BTreeMap<String, String>,
    /// See [`Workspace::environment`].
    pub environment: String,
    /// See [`Workspace::environment_version`].
    pub environment_version: Option<String>,
    /// See [`Workspace::base_key`].
    pub base_key: String,
    /// See [`Workspace::base_rootfs`].
    pub base_rootfs: PathBuf,
    /// See [`Workspace::kernel`].
    pub kernel: Option<PathBuf>,
    /// See [`Workspace::vcpu_count`].
    pub vcpu_count: u64,
    /// See [`Workspace::mem_mib`].
    pub mem_mib: u64,
    /// See [`Workspace::disk_mib`].
    pub disk_mib: Option<u64>,
    /// See [`Workspace::ttl_seconds`].
    pub ttl_seconds: u64,
    /// See [`Workspace::network_policy`].
    pub network_policy: NetworkPolicy,
    /// See [`Workspace::network_rules`].
    pub network_rules: NetworkRules,
    /// See [`Workspace::uses_host_proxy`].
    pub uses_host_proxy: bool,
    /// What its guest trusts beside its image's own.
    pub authorities: Authorities,
    /// See [`Workspace::image`].
    pub image: ImageDefaults,
    /// The source; its counts may come with [`StateStore::finish_create`].
    pub seed: Seed,
    /// See [`Workspace::secrets`].
    pub secrets: Vec<SecretRecord>,
    /// The sealed layer to begin on, which some other workspace needs too; `None` is the bare base.
    pub parent: Option<LayerId>,
    /// The layer it will write, drawn at random.
    pub top_layer: LayerId,
}

/// What the baseline snapshot of a new workspace is.
#[derive(Clone, Copy, Debug)]
pub enum NewBaseline {
    /// The top as it was seeded; it is sealed, and this layer is the new top.
    SealTop(LayerId),
    /// A sealed layer below the top: the one that the workspace began on, or an ancestor of it.
    Existing(LayerId),
}

/// How a creation ended well.
#[derive(Clone, Copy, Debug)]
pub struct Created {
    /// What the workspace was filled with.
    pub entry_count: u64,
    /// The same in bytes of files.
    pub bytes_written: u64,
    /// Its baseline.
    pub baseline: NewBaseline,
    /// Whether its machine runs.
    pub state: WorkspaceState,
}

/// What becomes of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NameChange {
    /// It is this from now on.
    Set(String),
    /// There is none from now on.
    Clear,
}

impl NameChange {
    /// What the fields `name` and `clear_name` of a request mean.
    pub fn from_request(name: Option<String>, clear_name: bool) -> Result<Option<Self>, NameError> {
        match (name, clear_name) {
            (Some(_), true) => Err(NameError::NameAndClear),
            (Some(name), false) => Ok(Some(Self::Set(name))),
            (None, true) => Ok(Some(Self::Clear)),
            (None, false) => Ok(None),
        }
    }
}

/// Changes of name, labels and network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceUpdate {
    /// The name.
    pub name: Option<NameChange>,
    /// Labels to add or replace.
    pub labels: BTreeMap<String, String>,
    /// Keys of labels to remove, before others are added.
    pub clear_labels: BTreeSet<String>,
    /// What the guest may reach.
    pub network: NetworkUpdate,
    /// Whether its connections to names go through the host's proxy.
    pub uses_host_proxy: Option<bool>,
}

impl WorkspaceUpdate {
    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl StateStore {
    /// Puts a workspace on record as `creating`, with its top layer. Its files can be made then: what is
    /// on record is nobody's garbage.
    pub fn begin_create(&self, new: &NewWorkspace, now: Millis) -> Result<(), StoreError> {
        let name = new.name.as_deref().map(names::workspace_name).transpose()?;
        let labels = names::labels(&new.labels)?;
        let secrets = names::secret_names(new.secrets.iter().map(|secret| secret.name.as_str()))?;
        let image = serde_json::to_string(&new.image).expect("strings and lists are JSON");
        self.write(Durability::Disk, |tx| {
            let exists = "SELECT EXISTS (SELECT 1 FROM workspaces WHERE id = ?1)";
            if tx.query_one(exists, [new.id], |row| row.get(0))? {
                return Err(StoreError::Taken(new.id));
            }
            layers::insert(tx, new.top_layer, new.parent, &new.base_key, now)?;
            tx.execute(
                "INSERT INTO workspaces (id, name, environment, environment_version, base_key, base_rootfs, kernel, \
                    vcpu_count, mem_mib, disk_mib, ttl_seconds, network_policy, image, seed_mode, seed_path, \
                    seed_destination, seed_entry_count, seed_bytes_written, top_layer, state, created_at, \
                    last_activity_at, expires_at, network_rules, uses_host_proxy, seed_origin) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, \
                    ?21, ?21, ?22, ?23, ?24, ?25)",
                params![
                    new.id,
                    name,
                    new.environment,
                    new.environment_version,
                    new.base_key,
                    row::bytes(&new.base_rootfs),
                    new.kernel.as_deref().map(row::bytes),
                    row::stored(new.vcpu_count),
                    row::stored(new.mem_mib),
                    new.disk_mib.map(row::stored),
                    row::stored(new.ttl_seconds),
                    new.network_policy,
                    image,
                    new.seed.mode,
                    new.seed.seed_path.as_deref().map(row::bytes),
                    new.seed.destination,
                    row::stored(new.seed.entry_count),
                    row::stored(new.seed.bytes_written),
                    new.top_layer,
                    WorkspaceState::Creating,
                    now,
                    life::expiry(row::stored(new.ttl_seconds), now),
                    stored_rules(&new.network_rules),
                    new.uses_host_proxy,
                    new.seed.origin.as_ref().map(stored_origin),
                ],
            )?;
            insert_labels(tx, new.id, &labels)?;
            authorities::put(tx, new.id, &new.authorities)?;
            for (name, secret) in secrets.iter().zip(&new.secrets) {
                tx.execute(
                    "INSERT INTO secrets (workspace, name, source_kind) VALUES (?1, ?2, ?3)",
                    params![new.id, name, secret.source_kind],
                )?;
            }
            Ok(())
        })
    }

    /// Makes a `creating` workspace one to use, with its baseline snapshot.
    pub fn finish_create(
        &self,
        id: WorkspaceId,
        created: &Created,
        now: Millis,
    ) -> Result<Workspace, StoreError> {
        self.write(Durability::Disk, |tx| {
            let workspace = life::require_state(tx, id, &[WorkspaceState::Creating])?;
            let layer = match created.baseline {
                NewBaseline::SealTop(new_top) => {
                    snapshots::push(tx, id, workspace.top_layer, new_top, now)?;
                    workspace.top_layer
                }
                NewBaseline::Existing(layer) => {
                    let chain = layers::chain(tx, workspace.top_layer)?;
                    let found = chain.iter().find(|below| below.id == layer && below.state == LayerState::Sealed);
                    let fault = super::LayerFault::Missing;
                    found.ok_or(StoreError::Layer { layer, fault })?.id
                }
            };
            tx.execute(
                "UPDATE workspaces SET seed_entry_count = ?2, seed_bytes_written = ?3, state = ?4 WHERE id = ?1",
                params![id, row::stored(created.entry_count), row::stored(created.bytes_written), created.state],
            )?;
            let new = snapshots::NewSnapshot {
                name: names::BASELINE.to_owned(),
                entry_count: created.entry_count,
                bytes_written: created.bytes_written,
            };
            snapshots::insert(tx, id, SnapshotKind::Baseline, &new, layer, now)?;
            life::renew(tx, id, now)?;
            require(tx, id)
        })
    }

    /// A workspace's record.
    pub fn get(&self, id: WorkspaceId) -> Result<Workspace, StoreError> {
        self.read(|tx| require(tx, id))
    }

    /// All workspaces, the last used first. One whose record is damaged is told so, in its place.
    pub fn list(&self) -> Result<Vec<Result<Workspace, Damaged>>, StoreError> {
        self.read(select_all)
    }

    /// Changes name, labels and network.
    pub fn update(
        &self,
        id: WorkspaceId,
        update: &WorkspaceUpdate,
        now: Millis,
    ) -> Result<Workspace, StoreError> {
        let set = names::labels(&update.labels)?;
        let cleared: Vec<String> =
            update.clear_labels.iter().map(|key| names::label_key(key)).collect::<Result<_, _>>()?;
        let set_name = match &update.name {
            Some(NameChange::Set(name)) => Some(Some(names::workspace_name(name)?)),
            Some(NameChange::Clear) => Some(None),
            None => None,
        };
        self.write(Durability::Disk, |tx| {
            let old = life::require_state(tx, id, &[WorkspaceState::Started, WorkspaceState::Stopped])?;
            let name = set_name.unwrap_or_else(|| old.name.clone());
            let mut labels = old.labels.clone();
            labels.retain(|key, _| !cleared.contains(key));
            labels.extend(set);
            let labels = names::labels(&labels)?;
            let (policy, rules) = update.network.apply(old.network_policy, &old.network_rules)?;
            let is_same_network = policy == old.network_policy && rules == old.network_rules;
            let uses_host_proxy = update.uses_host_proxy.unwrap_or(old.uses_host_proxy);
            let is_same_network = is_same_network && uses_host_proxy == old.uses_host_proxy;
            if name == old.name && labels == old.labels && is_same_network {
                return Err(StoreError::NothingToChange);
            }
            tx.execute(
                "UPDATE workspaces SET name = ?2, network_policy = ?3, network_rules = ?4, uses_host_proxy = ?5 \
                 WHERE id = ?1",
                params![id, name, policy, stored_rules(&rules), uses_host_proxy],
            )?;
            tx.execute("DELETE FROM labels WHERE workspace = ?1", [id])?;
            insert_labels(tx, id, &labels)?;
            life::renew(tx, id, now)?;
            require(tx, id)
        })
    }
}

fn stored_rules(rules: &NetworkRules) -> String {
    serde_json::to_string(rules).expect("lists of text are JSON")
}

fn stored_origin(origin: &SeedOrigin) -> String {
    serde_json::to_string(origin).expect("two texts are JSON")
}

fn insert_labels(
    tx: &Transaction<'_>,
    id: WorkspaceId,
    labels: &BTreeMap<String, String>,
) -> rusqlite::Result<()> {
    let mut insert = tx.prepare("INSERT INTO labels (workspace, key, value) VALUES (?1, ?2, ?3)")?;
    for (key, value) in labels {
        insert.execute(params![id, key, value])?;
    }
    Ok(())
}

/// The record of a workspace that has to be there.
pub(super) fn require(tx: &Transaction<'_>, id: WorkspaceId) -> Result<Workspace, StoreError> {
    let found = tx
        .query_row("SELECT * FROM workspaces WHERE id = ?1", [id], |row| Ok(parse(&Fields::new(row, "id"))))
        .optional()?;
    let Some(parsed) = found else { return Err(address::not_found(tx, &id.to_string())?) };
    let mut workspace = parsed?;
    let mut labels = tx.prepare("SELECT * FROM labels WHERE workspace = ?1")?;
    let mut rows = labels.query([id])?;
    while let Some(row) = rows.next()? {
        let (key, value) = parse_label(&Fields::new(row, "workspace"))?;
        workspace.labels.insert(key, value);
    }
    let mut secrets = tx.prepare("SELECT * FROM secrets WHERE workspace = ?1 ORDER BY name")?;
    let mut rows = secrets.query([id])?;
    while let Some(row) = rows.next()? {
        workspace.secrets.push(parse_secret(&Fields::new(row, "workspace"))?);
    }
    let mut trusted = tx.prepare("SELECT workspace, sources FROM authorities WHERE workspace = ?1")?;
    let mut rows = trusted.query([id])?;
    while let Some(row) = rows.next()? {
        workspace.authorities = authorities::sources(&Fields::new(row, "workspace"))?;
    }
    Ok(workspace)
}

pub(super) fn select_all(tx: &Transaction<'_>) -> Result<Vec<Result<Workspace, Damaged>>, StoreError> {
    let mut list: Vec<Result<Workspace, Damaged>> = Vec::new();
    let mut places = HashMap::new();
    let order = "SELECT * FROM workspaces ORDER BY last_activity_at DESC, created_at DESC, id";
    let mut workspaces = tx.prepare(order)?;
    let mut rows = workspaces.query([])?;
    while let Some(row) = rows.next()? {
        let fields = Fields::new(row, "id");
        places.insert(fields.id().to_owned(), list.len());
        list.push(parse(&fields));
    }
    let mut of_row = |fields: &Fields<'_>, change: &mut dyn FnMut(&mut Workspace) -> Result<(), Damaged>| {
        let Some(place) = places.get(fields.id()).and_then(|at| list.get_mut(*at)) else { return };
        if let Ok(workspace) = place
            && let Err(damaged) = change(workspace)
        {
            *place = Err(damaged);
        }
    };
    let mut labels = tx.prepare("SELECT * FROM labels")?;
    let mut rows = labels.query([])?;
    while let Some(row) = rows.next()? {
        let fields = Fields::new(row, "workspace");
        of_row(&fields, &mut |workspace| {
            let (key, value) = parse_label(&fields)?;
            workspace.labels.insert(key, value);
            Ok(())
        });
    }
    let mut secrets = tx.prepare("SELECT * FROM secrets ORDER BY name")?;
    let mut rows = secrets.query([])?;
    while let Some(row) = rows.next()? {
        let fields = Fields::new(row, "workspace");
        of_row(&fields, &mut |workspace| {
            workspace.secrets.push(parse_secret(&fields)?);
            Ok(())
        });
    }
    let mut trusted = tx.prepare("SELECT workspace, sources FROM authorities")?;
    let mut rows = trusted.query([])?;
    while let Some(row) = rows.next()? {
        let fields = Fields::new(row, "workspace");
        of_row(&fields, &mut |workspace| {
            workspace.authorities = authorities::sources(&fields)?;
            Ok(())
        });
    }
    Ok(list)
}

/// Everything but labels, secrets and authorities, which are in tables of their own.
fn parse(fields: &Fields<'_>) -> Result<Workspace, Damaged> {
    let image: String = fields.get("image")?;
    let network_rules: String = fields.get("network_rules")?;
    let origin: Option<String> = fields.get("seed_origin")?;
    Ok(Workspace {
        id: fields.get("id")?,
        name: fields.get("name")?,
        labels: BTreeMap::new(),
        environment: fields.get("environment")?,
        environment_version: fields.get("environment_version")?,
        base_key: fields.get("base_key")?,
        base_rootfs: fields.path("base_rootfs")?,
        kernel: fields.optional_path("kernel")?,
        vcpu_count: fields.count("vcpu_count")?,
        mem_mib: fields.count("mem_mib")?,
        disk_mib: fields.optional_count("disk_mib")?,
        ttl_seconds: fields.count("ttl_seconds")?,
        network_policy: fields.get("network_policy")?,
        network_rules: serde_json::from_str(&network_rules)
            .map_err(|error| fields.damaged("network_rules", error))?,
        uses_host_proxy: fields.get("uses_host_proxy")?,
        authorities: Vec::new(),
        image: serde_json::from_str(&image).map_err(|error| fields.damaged("image", error))?,
        seed: Seed {
            mode: fields.get("seed_mode")?,
            seed_path: fields.optional_path("seed_path")?,
            destination: fields.get("seed_destination")?,
            entry_count: fields.count("seed_entry_count")?,
            bytes_written: fields.count("seed_bytes_written")?,
            origin: origin
                .map(|text| serde_json::from_str(&text).map_err(|error| fields.damaged("seed_origin", error)))
                .transpose()?,
        },
        secrets: Vec::new(),
        top_layer: fields.get("top_layer")?,
        state: fields.get("state")?,
        stop_reason: fields.get("stop_reason")?,
        created_at: fields.get("created_at")?,
        last_activity_at: fields.get("last_activity_at")?,
        expires_at: fields.get("expires_at")?,
        reset_count: fields.count("reset_count")?,
        last_reset_at: fields.get("last_reset_at")?,
        next_sequence: fields.count("next_sequence")?,
    })
}

fn parse_label(fields: &Fields<'_>) -> Result<(String, String), Damaged> {
    Ok((fields.get("key")?, fields.get("value")?))
}

fn parse_secret(fields: &Fields<'_>) -> Result<SecretRecord, Damaged> {
    Ok(SecretRecord { name: fields.get("name")?, source_kind: fields.get("source_kind")? })
}
