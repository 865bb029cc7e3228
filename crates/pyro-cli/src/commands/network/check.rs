use super::{NETWORK_POLICIES, RuleArgs, RuleArgumentError};
use crate::commands::company::ProxyArgs;
use crate::output::{self, Format, printable};
use crate::settings;
use clap::{Args, Subcommand};
use pyro_core::network::{self, CheckError, HostProxyError, NetworkCheck, NetworkRules};
use pyro_core::store::NetworkPolicy;
use pyro_core::{Explain, Problem};
use std::process::ExitCode;

/// Exit code for a destination that is denied.
const EXIT_DENIED: u8 = 1;

/// What network policies say, before anything runs.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true, after_help = "Example:\n  pyro network check https://example.com/")]
pub(crate) struct Network {
    #[command(subcommand)]
    command: NetworkCommand,
}

#[derive(Debug, Subcommand)]
enum NetworkCommand {
    Check(Check),
}

impl Network {
    pub(crate) fn run(self) -> ExitCode {
        match self.command {
            NetworkCommand::Check(command) => command.run(),
        }
    }
}

/// Tell whether a policy lets a guest reach something, by which rule, and what would allow it.
///
/// A name that the guest may ask for is looked up as this host does; nothing else is sent. The exit code is 0 where
/// it is allowed and 1 where it is denied.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro network check https://example.com/
  pyro network check --allow-only '*.example.com:443' https://api.example.com/
  pyro network check --host-proxy https://example.com/
  pyro network check --allow 10.0.0.0/8 10.0.0.5:5432")]
struct Check {
    /// A URL, or HOST:PORT, or udp://HOST:PORT.
    destination: String,
    /// The policy.
    #[arg(long, default_value = "egress", value_parser = NETWORK_POLICIES, ignore_case = true)]
    network_policy: String,
    #[command(flatten)]
    rules: RuleArgs,
    #[command(flatten)]
    proxy: ProxyArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Policy(#[from] pyro_core::store::UnknownWord),
    #[error(transparent)]
    Rules(#[from] RuleArgumentError),
    #[error(transparent)]
    Settings(#[from] settings::SettingsError),
    #[error(transparent)]
    Proxy(#[from] HostProxyError),
    #[error(transparent)]
    Destination(#[from] CheckError),
}

impl Explain for Refused {
    fn explain(&self) -> Problem {
        match self {
            Self::Policy(error) => error.explain(),
            Self::Rules(error) => error.explain(),
            Self::Settings(error) => error.explain(),
            Self::Proxy(error) => error.explain(),
            Self::Destination(error) => error.explain(),
        }
    }
}

impl Check {
    fn run(self) -> ExitCode {
        let format = Format::from_flag(self.json);
        match self.check() {
            Ok(check) => tell_check(&check, format),
            Err(error) => output::problem(&error.explain(), format),
        }
    }

    fn check(&self) -> Result<NetworkCheck, Refused> {
        let policy = NetworkPolicy::parse(&self.network_policy)?;
        let rules: NetworkRules = self.rules.rules()?;
        rules.check(policy).map_err(RuleArgumentError::from)?;
        let proxy = match self.proxy.host_proxy {
            true => Some(settings::load()?.host_proxy.parse()?),
            false => None,
        };
        Ok(network::check(&network::enforced(policy, &rules), proxy.as_ref(), &self.destination)?)
    }
}

/// Shows what a policy says; the exit code tells it, too.
pub(crate) fn tell_check(check: &NetworkCheck, format: Format) -> ExitCode {
    match format {
        Format::Json => output::json(check),
        Format::Human => output::line(check_text(check)),
    }
    if check.allowed { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DENIED) }
}

fn check_text(check: &NetworkCheck) -> String {
    let mut lines = vec![format!("{}: {}", printable(&check.destination), printable(&check.reason))];
    if let Some(proxy) = &check.proxy {
        lines.push(format!("  through the host's proxy {}, which finds the address", printable(proxy)));
    }
    for address in &check.addresses {
        lines.push(format!("  {}: {}", address.address, printable(&address.reason)));
    }
    if let Some(rule) = &check.allow_with {
        lines.push(format!("allow with: --allow {rule}"));
    }
    lines.join("\n")
}
