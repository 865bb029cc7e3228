use super::arguments::{self, ArgumentError};
use super::{Addressed, show};
use crate::cli::answer;
use crate::commands::company::AuthorityArgs;
use crate::commands::network::{self, LimitArgs, NETWORK_POLICIES, RuleArgs, RuleArgumentError};
use crate::output;
use clap::Args;
use pyro_core::Explain;
use pyro_core::authorities::Authorities;
use pyro_core::network::{NetworkUpdate, RuleRemoval};
use pyro_core::store::NetworkPolicy;
use pyro_core::workspace::UpdateWorkspace;
use std::process::ExitCode;

/// Change a workspace's name or labels, or what its guest may reach.
///
/// What a new network policy closes is closed at once, also for connections that are open. A machine that runs
/// gets an interface, or loses it, when it is started the next time; the answer says so. Certificate authorities replace
/// those that were given before, for commands that begin from then on.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro workspace update fix --label state=done --clear-label task
  pyro workspace update fix --name fixed
  pyro workspace update fix --deny '*.example.com'
  pyro workspace update fix --egress-limit 2G
  pyro workspace update fix --ca-file company.pem
  pyro workspace update fix --network-policy egress --clear-rules --allow-only api.example.com:443")]
pub(super) struct Update {
    #[command(flatten)]
    target: Addressed,
    /// Its new name.
    #[arg(long)]
    name: Option<String>,
    /// Take its name away.
    #[arg(long)]
    clear_name: bool,
    /// Set a label; repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Remove a label; repeatable.
    #[arg(long, value_name = "KEY")]
    clear_label: Vec<String>,
    /// What the guest may reach from now on; its rules stay.
    #[arg(long, value_parser = NETWORK_POLICIES, ignore_case = true)]
    network_policy: Option<String>,
    #[command(flatten)]
    rules: RuleArgs,
    /// Remove a network rule, whatever it does; repeatable.
    #[arg(long, value_name = "RULE")]
    clear_rule: Vec<String>,
    /// Remove all network rules, before others are added.
    #[arg(long, conflicts_with = "clear_rule")]
    clear_rules: bool,
    #[command(flatten)]
    limit: LimitArgs,
    /// Let any number of bytes pass.
    #[arg(long, conflicts_with = "egress_limit")]
    clear_egress_limit: bool,
    /// Let connections to names go through this host's proxy, from the machine's next start on.
    #[arg(long)]
    host_proxy: bool,
    /// Let them go past it again, from the machine's next start on.
    #[arg(long, conflicts_with = "host_proxy")]
    no_host_proxy: bool,
    #[command(flatten)]
    authorities: AuthorityArgs,
    /// Take away the certificate authorities that the guest was given.
    #[arg(long, conflicts_with_all = ["host_ca", "ca_file"])]
    clear_ca: bool,
}

impl Update {
    pub(super) fn run(self) -> ExitCode {
        let format = self.target.output.format();
        let change = match self.change() {
            Ok(change) => change,
            Err(error) => return output::problem(&error.explain(), format),
        };
        answer(
            format,
            async |pyro| pyro.update(&self.target.workspace, &change).await,
            |updated| output::line(show::updated(updated)),
        )
    }

    fn change(&self) -> Result<UpdateWorkspace, ArgumentError> {
        Ok(UpdateWorkspace {
            name: self.name.clone(),
            clear_name: self.clear_name,
            labels: arguments::labels(&self.label)?,
            clear_labels: arguments::label_keys(&self.clear_label)?,
            network: self.network()?,
            uses_host_proxy: (self.host_proxy || self.no_host_proxy).then_some(self.host_proxy),
            authorities: match (self.clear_ca, self.authorities.is_empty()) {
                (true, _) => Some(Authorities::default()),
                (false, true) => None,
                (false, false) => Some(self.authorities.read()?),
            },
        })
    }

    fn network(&self) -> Result<NetworkUpdate, ArgumentError> {
        let policy = self.network_policy.as_deref().map(NetworkPolicy::parse).transpose();
        let gone = network::parse_rules("--clear-rule", &self.clear_rule).map_err(RuleArgumentError::from)?;
        Ok(NetworkUpdate {
            policy: policy.expect("clap lets only policies in"),
            removal: match (self.clear_rules, gone.is_empty()) {
                (true, _) => RuleRemoval::All,
                (false, true) => RuleRemoval::Keep,
                (false, false) => RuleRemoval::Some(gone),
            },
            clear_egress_limit: self.clear_egress_limit,
            add: self.limit.with(self.rules.rules()?),
        })
    }
}
