use super::arguments::{self, ArgumentError, Filter, host_path};
use super::show;
use crate::cli::with_pyro;
use crate::commands::company::{AuthorityArgs, ProxyArgs};
use crate::commands::engine::parse_engine;
use crate::commands::network::{LimitArgs, NETWORK_POLICIES, RuleArgs};
use crate::output::{self, Format, PullProgress, TreeProgress};
use crate::settings;
use clap::Args;
use pyro_core::Explain;
use pyro_core::machine::EngineChoice;
use pyro_core::workspace::{CreatePhase, CreateProgress, CreateWorkspace};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Make a workspace: a machine that is kept, with a /workspace directory to work in.
///
/// What /workspace begins with is its baseline, which `workspace diff` compares with and `workspace reset`
/// goes back to.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro workspace create debian:12 --seed-path ./repo
  pyro workspace create debian:12 --name fix --label task=42 --ttl-seconds 0
  API_TOKEN=... pyro workspace create debian:12 --secret API_TOKEN
  ID=$(pyro workspace create debian:12 --id-only)
  pyro workspace create debian:12 --network-policy egress --allow 10.0.0.5:5432
  pyro workspace create debian:12 --network-policy egress --allow-only '*.debian.org:80'
  pyro workspace create debian:12 --network-policy egress --egress-limit 500M
  pyro workspace create debian:12 --network-policy egress --host-proxy --ca-file company.pem
  pyro workspace create --from-snapshot fix:checkpoint")]
pub(super) struct Create {
    /// An environment of the catalog (`pyro env list`), or an OCI image: REGISTRY/NAME:TAG, oci:DIRECTORY.
    ///
    /// A workspace from a snapshot has the environment of the snapshot's.
    #[arg(required_unless_present = "from_snapshot")]
    environment: Option<String>,
    /// Begin with a directory of the host, or with a .tar, .tar.gz, .tgz or .tar.zst archive.
    #[arg(long, value_name = "PATH")]
    seed_path: Option<PathBuf>,
    /// What to take of a seed directory.
    #[arg(long, value_enum, default_value_t = Filter::All, requires = "seed_path")]
    seed_filter: Filter,
    /// Begin with the whole disk of another workspace's snapshot.
    #[arg(long, value_name = "WORKSPACE:SNAPSHOT", conflicts_with = "seed_path")]
    from_snapshot: Option<String>,
    /// What the guest may reach: nothing, or the public internet; with published ports, services can be reached
    /// from the host, too.
    ///
    /// Addresses that are not public, the host's own among them, need a rule each: --allow.
    #[arg(long, default_value = "off", value_parser = NETWORK_POLICIES, ignore_case = true)]
    network_policy: String,
    #[command(flatten)]
    rules: RuleArgs,
    #[command(flatten)]
    limit: LimitArgs,
    #[command(flatten)]
    proxy: ProxyArgs,
    #[command(flatten)]
    authorities: AuthorityArgs,
    /// Give the guest a secret, by value or (NAME alone) from pyro's environment; repeatable.
    #[arg(long, value_name = "NAME[=VALUE]")]
    secret: Vec<String>,
    /// Give the guest a secret from a file; repeatable.
    #[arg(long, value_name = "NAME=PATH")]
    secret_file: Vec<String>,
    /// A name to address it by.
    #[arg(long)]
    name: Option<String>,
    /// Attach a label; repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Delete it after this many seconds without activity; 0 keeps it.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    ttl_seconds: u64,
    /// Virtual CPUs, 1 to 32.
    #[arg(long, default_value_t = 1, value_name = "N")]
    vcpu_count: u64,
    /// Memory in MiB, 256 to what this host has.
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    mem_mib: u64,
    /// What the guest may write to its disk, in MiB.
    #[arg(long, value_name = "MIB")]
    disk_mib: Option<u64>,
    /// What runs the virtual CPUs: KVM where guests can run on it, or emulation.
    #[arg(long, value_parser = parse_engine, value_name = "auto|kvm|emulated")]
    engine: Option<EngineChoice>,
    /// Print the new workspace's id alone.
    #[arg(long, conflicts_with = "json")]
    id_only: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Create {
    pub(super) fn run(self) -> ExitCode {
        let format = Format::from_flag(self.json);
        let id_only = self.id_only;
        let request = match self.request() {
            Ok(request) => request,
            Err(error) => return output::problem(&error.explain(), format),
        };
        // A caller that reads an id or an object wants no lines beside it.
        let talk = if id_only { Format::Json } else { format };
        let created = with_pyro(format, async |pyro| {
            let seeded = TreeProgress::new(talk, "seeding");
            let told = |progress: CreateProgress| match progress {
                CreateProgress::Phase(phase) => {
                    if phase == CreatePhase::Baseline {
                        seeded.clear();
                    }
                    if talk == Format::Human {
                        output::note(format_args!("[workspace-create] phase={}", phase.as_str()));
                    }
                }
                CreateProgress::Seeded(bytes) => seeded.moved(bytes),
            };
            pyro.create(&request, Arc::new(PullProgress::new(talk)), &told).await
        });
        let created = match created {
            Ok(created) => created,
            Err(code) => return code,
        };
        match (id_only, format) {
            (true, _) => output::line(&created.workspace_id),
            (false, Format::Json) => output::json(&created),
            (false, Format::Human) => output::line(show::workspace("Workspace ID", &created)),
        }
        ExitCode::SUCCESS
    }

    fn request(self) -> Result<CreateWorkspace, ArgumentError> {
        Ok(CreateWorkspace {
            environment: self.environment.unwrap_or_default(),
            vcpu_count: self.vcpu_count,
            mem_mib: self.mem_mib,
            disk_mib: self.disk_mib,
            ttl_seconds: self.ttl_seconds,
            network_policy: self.network_policy,
            network_rules: self.limit.with(self.rules.rules()?),
            uses_host_proxy: self.proxy.host_proxy,
            authorities: self.authorities.read()?,
            seed_path: self.seed_path.as_deref().map(host_path),
            seed_filter: self.seed_filter.into(),
            seed_origin: None,
            secrets: arguments::secrets(&self.secret, &self.secret_file, &settings::variable)?,
            name: self.name,
            labels: arguments::labels(&self.label)?,
            from_snapshot: self.from_snapshot.as_deref().map(arguments::snapshot_address).transpose()?,
            engine: self.engine,
        })
    }
}
