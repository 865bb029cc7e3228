use crate::cli::{block_on, config, with_pyro};
use crate::output::{self, Format, PullProgress};
use crate::readiness::{Basis, Network, Proof, Readiness, ReadinessError, Timings};
use clap::Args;
use pyro_core::exec::{ExecEvent, ExecRequest};
use pyro_core::workspace::{
    Captured, CreateProgress, CreateWorkspace, Pyro, WorkspaceCommand, WorkspaceError,
};
use pyro_core::{Blame, Config, Explain, Problem, environments};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What the loop runs; every environment that can be worked in has it.
const PROOF_COMMAND: &str = "true";
/// It does nothing; a guest whose CPUs are emulated on a busy host may take its time for that.
const PROOF_DEADLINE: Duration = Duration::from_secs(60);

/// Make an environment ready, and prove that work with it goes round on this host.
///
/// Pulls the environment where it is not installed, then goes with one throw-away workspace through what a day's
/// work is: create, exec, reset, delete. What was proved is remembered, so that the next time nothing is done until
/// the environment, the guest bundle or pyro is another one. `pyro doctor --environment` tells how it stands.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro prepare
  pyro prepare debian:12-build --network
  pyro prepare --force --json")]
pub(crate) struct Prepare {
    /// An environment of the catalog, or an OCI image.
    #[arg(default_value = "debian:12")]
    environment: String,
    /// Prove it with a workspace that has a network.
    #[arg(long)]
    network: bool,
    /// Prove it again, also where that was done.
    #[arg(long)]
    force: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Why the loop did not go round.
#[derive(Debug, thiserror::Error)]
enum LoopError {
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error("`{PROOF_COMMAND}` in the guest ended with exit code {0}")]
    Command(i32),
}

impl Explain for LoopError {
    fn explain(&self) -> Problem {
        match self {
            Self::Workspace(error) => error.explain(),
            Self::Command(_) => Problem::new("prepare_failed", Blame::Guest, self)
                .with_hint("the image must have the programs that its commands run"),
        }
    }
}

impl Prepare {
    pub(crate) fn run(self) -> ExitCode {
        let format = Format::from_flag(self.json);
        match self.prepare(format) {
            Ok(()) => ExitCode::SUCCESS,
            Err(code) => code,
        }
    }

    fn prepare(&self, format: Format) -> Result<(), ExitCode> {
        let told = |error: ReadinessError| output::problem(&error.explain(), format);
        let config = config(format)?;
        let network = if self.network { Network::Egress } else { Network::Off };
        let readiness = Readiness::of(&config, &self.environment).map_err(told)?;
        if let Some(proof) = readiness.proof.as_ref().filter(|_| readiness.covers(network) && !self.force) {
            tell(proof, &readiness.manifest.to_string_lossy(), true, format);
            return Ok(());
        }
        let pull_ms = self.pull(&config, format)?;
        let timings = Timings { pull_ms, ..self.go_round(network, format)? };
        let basis = Basis::now(&config, &self.environment).map_err(told)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let proof = Proof::new(basis, network, timings, now);
        let manifest = proof.keep(&config).map_err(told)?;
        tell(&proof, &manifest.to_string_lossy(), false, format);
        Ok(())
    }

    fn pull(&self, config: &Config, format: Format) -> Result<u64, ExitCode> {
        phase("pull", format);
        let begun = Instant::now();
        let pulled = block_on(format, async {
            let progress = Arc::new(PullProgress::new(format));
            tokio::select! {
                pulled = environments::ensure(config, &self.environment, progress) => Some(pulled),
                _ = tokio::signal::ctrl_c() => None,
            }
        })?;
        match pulled {
            Some(Ok(_)) => Ok(millis(begun)),
            Some(Err(error)) => Err(output::problem(&error.explain(), format)),
            None => Err(ExitCode::from(130)),
        }
    }

    /// Goes round once. However that ends, the workspace is gone afterwards.
    fn go_round(&self, network: Network, format: Format) -> Result<Timings, ExitCode> {
        let made = RefCell::new(None);
        let gone = with_pyro(format, async |pyro| {
            Ok(go_round(pyro, &self.environment, network, &made, format).await)
        });
        let failed = match gone {
            Ok(Ok(timings)) => return Ok(timings),
            Ok(Err(error)) => output::problem(&error.explain(), format),
            Err(code) => code,
        };
        if let Some(id) = made.take() {
            // Where this fails too, its time to live ends it; the first failure is what is told.
            let _ = with_pyro(Format::Human, async |pyro| Ok(pyro.delete(&id).await.is_ok()));
        }
        Err(failed)
    }
}

async fn go_round(
    pyro: &Pyro,
    environment: &str,
    network: Network,
    made: &RefCell<Option<String>>,
    format: Format,
) -> Result<Timings, LoopError> {
    let mut timings = Timings::default();
    let policy = match network {
        Network::Off => "off",
        Network::Egress => "egress",
    };
    let request = CreateWorkspace { network_policy: policy.to_owned(), ..CreateWorkspace::new(environment) };
    phase("create", format);
    let begun = Instant::now();
    let silent = |_: CreateProgress| {};
    let created = pyro.create(&request, Arc::new(PullProgress::new(Format::Json)), &silent).await?;
    timings.create_ms = millis(begun);
    let id = created.workspace_id;
    made.replace(Some(id.clone()));

    phase("exec", format);
    let begun = Instant::now();
    execute(pyro, &id).await?;
    timings.exec_ms = millis(begun);

    phase("reset", format);
    let begun = Instant::now();
    pyro.reset(&id, "baseline").await?;
    timings.reset_ms = millis(begun);
    // A reset that leaves a machine in which nothing runs is none.
    execute(pyro, &id).await?;

    phase("delete", format);
    let begun = Instant::now();
    pyro.delete(&id).await?;
    timings.delete_ms = millis(begun);
    made.take();
    Ok(timings)
}

async fn execute(pyro: &Pyro, workspace: &str) -> Result<(), LoopError> {
    let exec =
        ExecRequest { timeout: Some(PROOF_DEADLINE), ..ExecRequest::new(vec![PROOF_COMMAND.to_owned()]) };
    let command = WorkspaceCommand { exec, shown_command: PROOF_COMMAND.to_owned() };
    let (running, _input, mut output) = pyro.exec(workspace, &command).await?;
    let exit = loop {
        match output.next().await {
            Ok(ExecEvent::Exited(exit)) => break exit,
            Ok(ExecEvent::Stdout(_) | ExecEvent::Stderr(_)) => {}
            Err(_) => return Err(running.why_disconnected().await.into()),
        }
    };
    let status = exit.status();
    running.finish(&exit, Captured::default()).await?;
    if status == 0 { Ok(()) } else { Err(LoopError::Command(status)) }
}

fn phase(name: &str, format: Format) {
    if format == Format::Human {
        output::note(format_args!("[prepare] phase={name}"));
    }
}

fn millis(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn tell(proof: &Proof, manifest: &str, was_warm: bool, format: Format) {
    let timings = &proof.timings;
    match format {
        Format::Json => {
            let mut told = serde_json::to_value(proof).expect("a proof has string keys");
            told["state"] = json!("warm");
            told["already_warm"] = Value::Bool(was_warm);
            told["manifest"] = json!(manifest);
            output::json(&told);
        }
        Format::Human => {
            let environment = output::printable(&proof.basis.environment);
            output::line(format_args!(
                "Environment {environment}: warm{}",
                if was_warm { " already" } else { "" }
            ));
            output::line(format_args!(
                "[prepare] pull_ms={} create_ms={} exec_ms={} reset_ms={} delete_ms={} network={}",
                timings.pull_ms,
                timings.create_ms,
                timings.exec_ms,
                timings.reset_ms,
                timings.delete_ms,
                output::yes_no(proof.network)
            ));
        }
    }
}
