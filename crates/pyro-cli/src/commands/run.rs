mod session;
mod terminal;

use crate::output::{self, Format};
use clap::Args;
use pyro_core::exec::ExecRequest;
use pyro_core::limits;
use pyro_core::machine::{EngineChoice, MachineRequest};
use pyro_core::{Blame, Explain, Problem};
pub(crate) use session::{Plan, run_plan};
use std::process::ExitCode;
use std::time::Duration;

/// Run one command in a fresh machine, then delete the machine.
///
/// The command's output goes to standard output and standard error as it comes, and its exit code is
/// pyro's. What the command writes to its disk is gone afterwards.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro run debian:12 -- git --version
  pyro run debian:12 --mem-mib 2048 --env CI=1 -- sh -lc 'echo $CI | tee /tmp/x'
  echo hello | pyro run debian:12 --stdin -- cat
  pyro run -t debian:12 -- bash")]
pub(crate) struct Run {
    /// An environment of the catalog (`pyro env list`), or an OCI image: REGISTRY/NAME:TAG, oci:DIRECTORY.
    environment: String,
    /// Virtual CPUs, 1 to 8.
    #[arg(long, default_value_t = 1, value_name = "N")]
    vcpu_count: u64,
    /// Memory in MiB, 256 to 32768.
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    mem_mib: u64,
    /// Kill the command after this many seconds; pyro then exits with 124.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    timeout_seconds: u64,
    /// Delete the machine after this many seconds whatever happens, 60 to 3600.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    ttl_seconds: u64,
    /// What the command may write to the machine's disk, in MiB.
    #[arg(long, value_name = "MIB")]
    disk_mib: Option<u64>,
    /// Outbound network access. Not available in this version.
    #[arg(long)]
    network: bool,
    /// What runs the virtual CPUs: KVM where guests can run on it, or emulation.
    #[arg(long, value_parser = parse_engine, value_name = "auto|kvm|emulated")]
    engine: Option<EngineChoice>,
    /// Set a variable for the command; repeatable.
    #[arg(long, value_parser = parse_variable, value_name = "KEY=VALUE")]
    env: Vec<(String, String)>,
    /// Directory to run the command in; it must exist in the environment.
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Send pyro's standard input to the command.
    #[arg(long)]
    stdin: bool,
    /// Run TEXT by a login shell instead of a command after `--`.
    #[arg(long, value_name = "TEXT", conflicts_with = "command")]
    shell: Option<String>,
    /// Run the command in a terminal; standard input is sent to it.
    #[arg(short, long, conflicts_with = "json")]
    tty: bool,
    /// Print one JSON object when the command has ended.
    #[arg(long, conflicts_with = "stdin")]
    json: bool,
    /// The command and its arguments, executed as they are.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// What is wrong with the arguments beyond their syntax.
#[derive(Debug, thiserror::Error)]
enum RunArgumentError {
    #[error("command is required after `--`")]
    NoCommand,
    #[error("guest networking is not available in this version of pyro")]
    Network,
    #[error("a terminal was asked for, but standard input is not one")]
    NoTerminal,
    #[error(transparent)]
    OutOfRange(#[from] limits::OutOfRange),
}

impl Explain for RunArgumentError {
    fn explain(&self) -> Problem {
        match self {
            Self::NoCommand => Problem::new("command_required", Blame::Caller, self)
                .with_hint("for example: pyro run debian:12 -- git --version"),
            Self::Network => Problem::new("network_unavailable", Blame::Caller, self)
                .with_hint("leave out --network; the machine then has no network interface"),
            Self::NoTerminal => Problem::new("no_terminal", Blame::Caller, self)
                .with_hint("leave out -t; --stdin sends standard input without a terminal"),
            Self::OutOfRange(error) => error.explain(),
        }
    }
}

impl Run {
    pub(crate) fn run(self) -> ExitCode {
        let format = Format::from_flag(self.json);
        match self.plan(format) {
            Ok(plan) => run_plan(plan),
            Err(error) => output::problem(&error.explain(), format),
        }
    }

    fn plan(self, format: Format) -> Result<Plan, RunArgumentError> {
        let timeout = limits::check("timeout_seconds", self.timeout_seconds, &limits::TIMEOUT_SECONDS)?;
        let machine = MachineRequest {
            vcpu_count: self.vcpu_count,
            mem_mib: self.mem_mib,
            ttl_seconds: self.ttl_seconds,
            disk_mib: self.disk_mib,
            engine: self.engine,
        };
        machine.check()?;
        if self.network {
            return Err(RunArgumentError::Network);
        }
        let tty = match self.tty {
            true => Some(terminal::size().ok_or(RunArgumentError::NoTerminal)?),
            false => None,
        };
        let shown_command;
        let base = match self.shell {
            Some(text) => {
                let request = ExecRequest::shell(&text);
                shown_command = text;
                request
            }
            None if self.command.is_empty() => return Err(RunArgumentError::NoCommand),
            None => {
                shown_command = output::shell_words(&self.command);
                ExecRequest::new(self.command)
            }
        };
        let exec = ExecRequest {
            env: self.env,
            cwd: self.cwd,
            stdin: self.stdin || self.tty,
            tty,
            timeout: Some(Duration::from_secs(timeout)),
            ..base
        };
        Ok(Plan { environment: self.environment, shown_command, machine, exec, format })
    }
}

fn parse_engine(text: &str) -> Result<EngineChoice, String> {
    match text {
        "auto" => Ok(EngineChoice::Auto),
        "kvm" => Ok(EngineChoice::Kvm),
        "emulated" => Ok(EngineChoice::Emulated),
        other => Err(format!("`{other}` is not auto, kvm or emulated")),
    }
}

/// `KEY=VALUE` with a name that environ(7) allows.
fn parse_variable(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not KEY=VALUE"))?;
    if key.is_empty() || key.contains('\0') || value.contains('\0') {
        return Err(format!("`{text}` does not name a variable"));
    }
    Ok((key.to_owned(), value.to_owned()))
}
