mod plan;

use super::command_line::{CommandLine, CommandLineError};
use crate::commands::company::{AuthorityArgs, AuthorityArgumentError, ProxyArgs};
use crate::commands::engine::parse_engine;
use crate::commands::network::{LimitArgs, NETWORK_POLICIES, RuleArgs, RuleArgumentError};
use crate::output::{self, Format};
use clap::Args;
pub(crate) use plan::{Observe, Plan, run_plan};
use pyro_core::machine::{EngineChoice, MachineError, MachineRequest};
use pyro_core::network::{self, Policy};
use pyro_core::store::{NetworkPolicy, UnknownWord};
use pyro_core::{Explain, Problem};
use std::process::ExitCode;

const EXAMPLE: &str = "pyro run debian:12 -- git --version";

/// Run one command in a fresh machine, then delete the machine.
///
/// The command's output goes to standard output and standard error as it comes, and its exit code is
/// pyro's. What the command writes to its disk is gone afterwards.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro run debian:12 -- git --version
  pyro run debian:12 --mem-mib 2048 --env CI=1 -- sh -lc 'echo $CI | tee /tmp/x'
  echo hello | pyro run debian:12 --stdin -- cat
  pyro run -t debian:12 -- bash
  pyro run debian:12 --network --allow-only '*.debian.org:80' -- apt-get update
  pyro run debian:12 --network --host-ca --host-proxy -- git clone https://git.example.com/project
  pyro run debian:12 --network --observe -- git clone https://git.example.com/project")]
pub(crate) struct Run {
    /// An environment of the catalog (`pyro env list`), or an OCI image: REGISTRY/NAME:TAG, oci:DIRECTORY.
    environment: String,
    /// Virtual CPUs, 1 to 32.
    #[arg(long, default_value_t = 1, value_name = "N")]
    vcpu_count: u64,
    /// Memory in MiB, 256 to what this host has.
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    mem_mib: u64,
    /// Delete the machine after this many seconds whatever happens, 60 to 3600.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    ttl_seconds: u64,
    /// What the command may write to the machine's disk, in MiB.
    #[arg(long, value_name = "MIB")]
    disk_mib: Option<u64>,
    /// Give the machine a network that reaches the public internet. Without it, it has no interface.
    ///
    /// Addresses that are not public, the host's own among them, need a rule each: --allow. POLICY is egress, the
    /// default, or off.
    #[arg(
        long,
        value_name = "POLICY",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "egress",
        value_parser = NETWORK_POLICIES,
        ignore_case = true
    )]
    network: Option<String>,
    #[command(flatten)]
    rules: RuleArgs,
    #[command(flatten)]
    limit: LimitArgs,
    #[command(flatten)]
    proxy: ProxyArgs,
    #[command(flatten)]
    authorities: AuthorityArgs,
    /// Say afterwards what was reached, as the rules that open it and nothing else.
    #[arg(long, requires = "network")]
    observe: bool,
    /// What runs the virtual CPUs: KVM where guests can run on it, or emulation.
    #[arg(long, value_parser = parse_engine, value_name = "auto|kvm|emulated")]
    engine: Option<EngineChoice>,
    /// Print one JSON object when the command has ended.
    #[arg(long, conflicts_with = "stdin")]
    json: bool,
    #[command(flatten)]
    command_line: CommandLine,
}

/// What is wrong with the arguments beyond their syntax.
#[derive(Debug, thiserror::Error)]
enum RunArgumentError {
    #[error(transparent)]
    Policy(#[from] UnknownWord),
    #[error(transparent)]
    Rules(#[from] RuleArgumentError),
    #[error(transparent)]
    Authorities(#[from] AuthorityArgumentError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Command(#[from] CommandLineError),
}

impl Explain for RunArgumentError {
    fn explain(&self) -> Problem {
        match self {
            Self::Policy(error) => error.explain(),
            Self::Rules(error) => error.explain(),
            Self::Authorities(error) => error.explain(),
            Self::Machine(error) => error.explain(),
            Self::Command(error) => error.explain(),
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
        let machine = MachineRequest {
            vcpu_count: self.vcpu_count,
            mem_mib: self.mem_mib,
            ttl_seconds: self.ttl_seconds,
            disk_mib: self.disk_mib,
            engine: self.engine,
            network: self.policy()?,
            uses_host_proxy: self.proxy.host_proxy,
            authorities: self.authorities.read()?,
        };
        machine.check()?;
        let command = self.command_line.check(EXAMPLE)?;
        Ok(Plan {
            environment: self.environment,
            shown_command: command.shown,
            machine,
            exec: command.exec,
            observe: if self.observe { Observe::Contacts } else { Observe::Nothing },
            format,
        })
    }

    fn policy(&self) -> Result<Option<Policy>, RunArgumentError> {
        let policy = self.network.as_deref().map_or(Ok(NetworkPolicy::Off), NetworkPolicy::parse)?;
        let rules = self.limit.with(self.rules.rules()?);
        rules.check(policy).map_err(RuleArgumentError::from)?;
        Ok(match policy {
            NetworkPolicy::Off => None,
            NetworkPolicy::Egress | NetworkPolicy::EgressAndPublishedPorts => {
                Some(network::enforced(policy, &rules))
            }
        })
    }
}
