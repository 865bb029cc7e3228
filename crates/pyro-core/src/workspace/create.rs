//! Making a workspace: from an environment, or from another workspace's snapshot.

use super::layers::{NewLayer, random};
use super::origin::{ForkWorkspace, Origin};
use super::secrets::{self, SecretSpec, SecretText};
use super::{Pyro, WORKSPACE_PATH, WorkspaceError, WorkspaceView, garbage, now};
use crate::authorities::Authorities;
use crate::environments::{self, Progress};
use crate::faults::FaultPoint;
use crate::limits;
use crate::machine::{EngineChoice, Link, MachineError, MachineRequest, unexpected};
use crate::network::NetworkRules;
use crate::places::{FileLock, Hold, create_private_dir};
use crate::store::{
    self, Departure, NetworkPolicy, NewWorkspace, SecretRecord, Seed, SeedMode, SeedOrigin, WorkspaceId,
    WorkspaceState, names,
};
use crate::supervisor::protocol::{Answer, Request};
use crate::transfer::{self, SeedFilter, SeedSource};
use pyro_agent::wire::Operation;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// A workspace to make.
#[derive(Clone, Debug)]
pub struct CreateWorkspace {
    /// The environment; pulled when it is not installed. From a snapshot it is that one's; then empty will do.
    pub environment: String,
    /// Virtual CPUs, see [`limits::VCPU_COUNT`].
    pub vcpu_count: u64,
    /// Memory, up to what the host has; see [`limits::MEM_MIB`].
    pub mem_mib: u64,
    /// Bound on what the guest may write to its disk, see [`limits::DISK_MIB`].
    pub disk_mib: Option<u64>,
    /// Seconds without activity after which it is deleted, see [`limits::TTL_SECONDS`]; 0 is never.
    pub ttl_seconds: u64,
    /// `off`, `egress` or `egress+published-ports`.
    pub network_policy: String,
    /// What refines that.
    pub network_rules: NetworkRules,
    /// Whether connections to names go through the host's proxy.
    pub uses_host_proxy: bool,
    /// Certificate authorities that the guest trusts beside its image's own.
    pub authorities: Authorities,
    /// A directory or an archive to begin with.
    pub seed_path: Option<PathBuf>,
    /// What of that directory.
    pub seed_filter: SeedFilter,
    /// Where that is from, for the records, where more is known than the path.
    pub seed_origin: Option<SeedOrigin>,
    /// Secrets, handed to the guest in memory alone.
    pub secrets: Vec<SecretSpec>,
    /// What to call it.
    pub name: Option<String>,
    /// Labels; of two with one key the last counts.
    pub labels: Vec<(String, String)>,
    /// Another workspace and one of its snapshots, to begin with that one's disk.
    pub from_snapshot: Option<(String, String)>,
    /// The engine; `None` takes the configured one.
    pub engine: Option<EngineChoice>,
}

impl CreateWorkspace {
    /// A workspace of `environment` with everything else at its default.
    pub fn new(environment: &str) -> Self {
        let machine = MachineRequest::default();
        Self {
            environment: environment.to_owned(),
            vcpu_count: machine.vcpu_count,
            mem_mib: machine.mem_mib,
            disk_mib: None,
            ttl_seconds: machine.ttl_seconds,
            network_policy: NetworkPolicy::Off.to_string(),
            network_rules: NetworkRules::default(),
            uses_host_proxy: false,
            authorities: Authorities::default(),
            seed_path: None,
            seed_filter: SeedFilter::All,
            seed_origin: None,
            secrets: Vec::new(),
            name: None,
            labels: Vec::new(),
            from_snapshot: None,
            engine: None,
        }
    }

    fn machine(&self) -> MachineRequest {
        MachineRequest {
            vcpu_count: self.vcpu_count,
            mem_mib: self.mem_mib,
            // The supervisor goes by the records; this is checked and not used.
            ttl_seconds: *limits::TTL_SECONDS.start(),
            disk_mib: self.disk_mib,
            engine: self.engine,
            // Of the records, too.
            network: None,
            uses_host_proxy: false,
            authorities: Authorities::default(),
        }
    }
}

/// What a creation is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreatePhase {
    /// Find or pull the environment.
    Environment,
    /// Boot the machine.
    Boot,
    /// Fill `/workspace`.
    Seed,
    /// Seal the disk as the baseline.
    Baseline,
}

impl CreatePhase {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Environment => "environment",
            Self::Boot => "boot",
            Self::Seed => "seed",
            Self::Baseline => "baseline",
        }
    }
}

/// How far a creation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateProgress {
    /// What it is about to do.
    Phase(CreatePhase),
    /// Bytes of the seed that have gone over so far, names and all.
    Seeded(u64),
}

/// A request whose every value has been checked.
pub(super) struct Checked {
    machine: MachineRequest,
    ttl_seconds: u64,
    network_policy: NetworkPolicy,
    network_rules: NetworkRules,
    uses_host_proxy: bool,
    authorities: Authorities,
    name: Option<String>,
    labels: BTreeMap<String, String>,
    secrets: Vec<(String, SecretText)>,
    secret_records: Vec<SecretRecord>,
    seed: Option<SeedSource>,
    seed_origin: Option<SeedOrigin>,
}

impl Checked {
    async fn new(request: &CreateWorkspace) -> Result<Self, WorkspaceError> {
        let machine = request.machine();
        machine.check()?;
        if request.ttl_seconds != 0 {
            limits::check("ttl_seconds", request.ttl_seconds, &limits::WORKSPACE_TTL_SECONDS)?;
        }
        let labels = request.labels.iter().map(|(key, value)| names::label(key, value));
        let names = names::secret_names(request.secrets.iter().map(|secret| secret.name.as_str()))?;
        let values = request.secrets.iter().map(SecretSpec::load).collect::<Result<Vec<_>, _>>()?;
        let network_policy = NetworkPolicy::parse(&request.network_policy)?;
        request.network_rules.check(network_policy)?;
        let kinds = request.secrets.iter().map(|secret| secret.value.kind());
        Ok(Self {
            machine,
            ttl_seconds: request.ttl_seconds,
            network_policy,
            network_rules: request.network_rules.clone(),
            uses_host_proxy: request.uses_host_proxy,
            authorities: request.authorities.clone(),
            name: request.name.as_deref().map(names::workspace_name).transpose()?,
            labels: labels.collect::<Result<_, _>>()?,
            secret_records: names
                .iter()
                .zip(kinds)
                .map(|(name, source_kind)| SecretRecord { name: name.clone(), source_kind })
                .collect(),
            secrets: names.into_iter().zip(values).collect(),
            seed: match &request.seed_path {
                Some(path) => Some(SeedSource::open(path, request.seed_filter).await?),
                None => None,
            },
            seed_origin: request.seed_origin.clone(),
        })
    }

    /// What a fork takes over from its source.
    pub(super) fn like(
        source: &store::Workspace,
        request: &ForkWorkspace,
        secrets: Vec<(String, SecretText)>,
        authorities: Authorities,
    ) -> Result<Self, WorkspaceError> {
        let labels = request.labels.iter().map(|(key, value)| names::label(key, value));
        Ok(Self {
            machine: MachineRequest {
                vcpu_count: source.vcpu_count,
                mem_mib: source.mem_mib,
                disk_mib: source.disk_mib,
                ..MachineRequest::default()
            },
            ttl_seconds: source.ttl_seconds,
            network_policy: source.network_policy,
            network_rules: source.network_rules.clone(),
            uses_host_proxy: source.uses_host_proxy,
            authorities,
            name: request.name.as_deref().map(names::workspace_name).transpose()?,
            labels: labels.collect::<Result<_, _>>()?,
            secrets,
            secret_records: source.secrets.clone(),
            seed: None,
            seed_origin: None,
        })
    }
}

impl Pyro {
    /// Makes a workspace, boots it, fills it, and seals its baseline. `told` learns what comes next.
    ///
    /// When it fails nothing of the workspace stays. Where the future is dropped or its process dies, the
    /// machine ends at once, and the next [`Pyro::open`] removes the rest.
    ///
    /// ```no_run
    /// # use pyro_core::workspace::{CreateWorkspace, Pyro, WorkspaceError};
    /// # async fn example(pyro: &Pyro) -> Result<(), WorkspaceError> {
    /// let request = CreateWorkspace {
    ///     seed_path: Some("./repo".into()),
    ///     name: Some("fix".to_owned()),
    ///     ..CreateWorkspace::new("debian:12")
    /// };
    /// let silent = std::sync::Arc::new(pyro_core::environments::Silent);
    /// let made = pyro.create(&request, silent, &|step| println!("{step:?}")).await?;
    /// println!("{}", made.workspace_id);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn create(
        &self,
        request: &CreateWorkspace,
        progress: Arc<dyn Progress>,
        told: &(dyn Fn(CreateProgress) + Sync),
    ) -> Result<WorkspaceView, WorkspaceError> {
        let checked = Checked::new(request).await?;
        if checked.uses_host_proxy {
            // Before anything is made.
            self.config.host_proxy.parse().map_err(MachineError::from)?;
        }
        told(CreateProgress::Phase(CreatePhase::Environment));
        let origin = match &request.from_snapshot {
            None => {
                environments::check(&request.environment)?;
                let installed = environments::ensure(&self.config, &request.environment, progress).await?;
                self.origin_of(&installed)?
            }
            Some((address, snapshot)) => {
                let source = self.store.get(self.resolve(address)?)?;
                let wanted = &request.environment;
                if !wanted.is_empty() && *wanted != source.environment {
                    return Err(WorkspaceError::OtherEnvironment {
                        wanted: wanted.clone(),
                        present: source.environment,
                    });
                }
                self.origin_in(&source, snapshot)?
            }
        };
        self.make(origin, checked, told).await
    }

    /// Makes a workspace of checked values.
    pub(super) async fn make(
        &self,
        origin: Origin,
        mut checked: Checked,
        told: &(dyn Fn(CreateProgress) + Sync),
    ) -> Result<WorkspaceView, WorkspaceError> {
        let id = WorkspaceId::from_bytes(random().map_err(WorkspaceError::state("draw", "an id"))?);
        let dir = self.places.workspace(id);
        create_private_dir(&dir).map_err(WorkspaceError::state("make", dir))?;
        let held = self.operate(id).await?;
        self.places.reach(FaultPoint::CreateDirectory);
        let engine = checked.machine.engine;
        let seed = checked.seed.take();
        let made = async {
            self.put_on_record(id, origin, checked, seed.as_ref())?;
            told(CreateProgress::Phase(CreatePhase::Boot));
            let link = self.boot(id, engine, true).await?;
            self.places.reach(FaultPoint::CreateBooted);
            self.fill(id, &link, seed, told).await
        };
        if let Err(error) = made.await {
            // The machine ends with its client; the rest can only be removed after it.
            let path = self.places.machine_lock(id);
            let gone = FileLock::take_within(&path, Hold::Shared, limits::MACHINE_LOCK_DEADLINE).await;
            if matches!(gone, Ok(Some(_))) {
                // It may be complete, with only the answer lost. Fails where there is no record yet.
                let from = [WorkspaceState::Creating, WorkspaceState::Started, WorkspaceState::Stopped];
                let reason = Departure::Abandoned;
                let _ =
                    self.store.set_state(id, &from, WorkspaceState::Deleting, Some(reason.as_str()), now());
                garbage::remove(&self.store, &self.places, id, reason)?;
            }
            return Err(error);
        }
        drop(held);
        self.view(id)
    }

    /// Makes the workspace's files and its record. The base stays kept meanwhile.
    fn put_on_record(
        &self,
        id: WorkspaceId,
        origin: Origin,
        checked: Checked,
        seed: Option<&SeedSource>,
    ) -> Result<(), WorkspaceError> {
        let layers = match origin.parent {
            Some(parent) => self.store.chain(parent)?,
            None => Vec::new(),
        };
        let parents: Vec<PathBuf> = layers.iter().map(|layer| self.places.layer(layer.id)).collect();
        let kept = self.places.base_image(&origin.base_key);
        let base = if kept.exists() { kept } else { origin.base_rootfs.clone() };
        let layer = NewLayer::make_delta(&self.store, &self.places, &base, &parents)
            .map_err(WorkspaceError::state("make a layer in", self.places.layers()))?;
        self.places.reach(FaultPoint::CreateLayer);
        let new = NewWorkspace {
            id,
            seed: seed_of(seed, checked.seed_origin, &origin),
            name: checked.name,
            labels: checked.labels,
            environment: origin.environment,
            environment_version: origin.environment_version,
            base_key: origin.base_key,
            base_rootfs: origin.base_rootfs,
            kernel: origin.kernel,
            vcpu_count: checked.machine.vcpu_count,
            mem_mib: checked.machine.mem_mib,
            disk_mib: checked.machine.disk_mib,
            ttl_seconds: checked.ttl_seconds,
            network_policy: checked.network_policy,
            network_rules: checked.network_rules,
            uses_host_proxy: checked.uses_host_proxy,
            authorities: checked.authorities,
            image: origin.image,
            secrets: checked.secret_records,
            parent: origin.parent,
            top_layer: layer.id(),
        };
        self.store.begin_create(&new, now())?;
        layer.keep();
        self.places.reach(FaultPoint::CreateRecorded);
        // From here on whoever finds it abandoned removes them with it.
        secrets::write_all(&self.places, id, &checked.secrets)
            .map_err(WorkspaceError::state("write secrets in", self.places.secrets(id)))?;
        self.places.reach(FaultPoint::CreateSecrets);
        Ok(())
    }

    /// Fills the tree and seals it as the baseline; from then on the workspace is there for everybody.
    async fn fill(
        &self,
        id: WorkspaceId,
        link: &Link,
        seed: Option<SeedSource>,
        told: &(dyn Fn(CreateProgress) + Sync),
    ) -> Result<(), WorkspaceError> {
        let workspace = self.store.get(id)?;
        let mut counts = transfer::TreeStats::default();
        if let Some(seed) = seed {
            told(CreateProgress::Phase(CreatePhase::Seed));
            let stream = link.agent().await?;
            // Nobody works in the tree yet, and a failure removes all of it.
            let operation = Operation::TreeIn { path: WORKSPACE_PATH.to_owned() };
            counts =
                transfer::push(stream, operation, seed, |bytes| told(CreateProgress::Seeded(bytes))).await?;
        }
        self.places.reach(FaultPoint::CreateSeeded);
        told(CreateProgress::Phase(CreatePhase::Baseline));
        // Nobody merges away what becomes the baseline.
        let _keeping = self.keep_layers()?;
        let chain = self.store.chain(workspace.top_layer)?;
        let parent = chain.iter().rev().nth(1).map(|layer| layer.id.to_string());
        let finish = Request::FinishCreate {
            entry_count: counts.entry_count,
            bytes_written: counts.bytes_written,
            // A copy begins where its source was sealed, unless something was put on top.
            baseline: parent.filter(|_| workspace.seed.mode == SeedMode::Snapshot),
        };
        match link.ask(&finish, limits::SEAL_DEADLINE * 2).await? {
            Answer::Done => {
                self.places.reach(FaultPoint::CreateFinished);
                Ok(())
            }
            other => Err(unexpected(other).into()),
        }
    }
}

fn seed_of(seed: Option<&SeedSource>, seed_origin: Option<SeedOrigin>, origin: &Origin) -> Seed {
    let (mode, seed_path) = match (seed, &origin.source) {
        (Some(seed), _) if seed.mode() == transfer::SeedMode::TarArchive => {
            (SeedMode::TarArchive, Some(seed.path().to_owned()))
        }
        (Some(seed), _) => (SeedMode::Directory, Some(seed.path().to_owned())),
        (None, Some(source)) => (SeedMode::Snapshot, Some(PathBuf::from(source))),
        (None, None) => (SeedMode::Empty, None),
    };
    Seed {
        mode,
        seed_path,
        destination: WORKSPACE_PATH.to_owned(),
        entry_count: 0,
        bytes_written: 0,
        origin: seed_origin,
    }
}
