//! What a guest may reach, as arguments say it, and what is said of it.

pub(crate) mod check;

use super::byte_size::parse_byte_size;
use crate::output::{self, printable};
use clap::Args;
use pyro_core::network::{self, NetworkContacts, NetworkDenial, NetworkError, NetworkRules};
use pyro_core::{Blame, Explain, Problem};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The policies, as callers write them.
pub(crate) const NETWORK_POLICIES: [&str; 3] = ["off", "egress", "egress+published-ports"];

/// What is read of a file of rules: one byte more than one may have.
const MOST_RULE_BYTES: u64 = (256 << 10) + 1;

// Rules, wherever a policy can be given. A doc comment here would replace the commands' help.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RuleArgs {
    /// Open more than the public internet: HOST, HOST:PORTS or PROTOCOL://HOST:PORTS, where HOST is a DOMAIN,
    /// *.DOMAIN, an ADDRESS or a RANGE; repeatable.
    ///
    /// An address that is not public, like a company's server, is reached only by a rule for it; the host's own
    /// loopback is at the guest's gateway, 198.19.255.1. For example: --allow 10.0.0.5:5432
    #[arg(long, value_name = "RULE")]
    allow: Vec<String>,
    /// Open this, and nothing without a rule, the public internet neither; repeatable.
    ///
    /// Connections must then be for the name that opened them. For example: --allow-only '*.example.com:443'
    #[arg(long, value_name = "RULE")]
    allow_only: Vec<String>,
    /// Close this, unless a narrower rule opens it; repeatable.
    #[arg(long, value_name = "RULE")]
    deny: Vec<String>,
    /// Take rules from a TOML file: allow = [...], allow-only = [...], deny = [...].
    #[arg(long, value_name = "FILE")]
    network_rules: Option<PathBuf>,
}

// The limit, wherever a machine can get one. A doc comment here would replace the commands' help.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct LimitArgs {
    /// Let nothing pass any more when as many bytes have, in both directions together, since the machine's start;
    /// with K, M, G, KiB, MiB or GiB behind the number, all powers of 1024.
    ///
    /// What counts is the payload of connections, datagrams and questions for names. For example:
    /// --egress-limit 500M
    #[arg(long, value_name = "BYTES", value_parser = parse_byte_size)]
    egress_limit: Option<u64>,
}

impl LimitArgs {
    /// `rules` with the limit.
    pub(crate) fn with(self, rules: NetworkRules) -> NetworkRules {
        NetworkRules { egress_limit_bytes: self.egress_limit, ..rules }
    }
}

/// What is wrong with rules as arguments.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuleArgumentError {
    #[error(transparent)]
    Rules(#[from] NetworkError),
    #[error("cannot read the file of network rules '{}'", .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the file of network rules '{}' is not UTF-8 text", .0.display())]
    NotText(PathBuf),
}

impl Explain for RuleArgumentError {
    fn explain(&self) -> Problem {
        match self {
            Self::Rules(error) => error.explain(),
            Self::File { .. } | Self::NotText(_) => Problem::new("unreadable_file", Blame::Caller, self),
        }
    }
}

impl RuleArgs {
    /// All rules, those of the file first.
    pub(crate) fn rules(&self) -> Result<NetworkRules, RuleArgumentError> {
        let mut rules = match &self.network_rules {
            Some(path) => NetworkRules::parse_file(&read(path)?)?,
            None => NetworkRules::default(),
        };
        rules.extend(NetworkRules {
            allow: parse_rules("--allow", &self.allow)?,
            allow_only: parse_rules("--allow-only", &self.allow_only)?,
            deny: parse_rules("--deny", &self.deny)?,
            egress_limit_bytes: None,
        });
        Ok(rules)
    }
}

/// Each of `texts` as a rule.
pub(crate) fn parse_rules(
    option: &'static str,
    texts: &[String],
) -> Result<Vec<network::Rule>, NetworkError> {
    texts.iter().map(|text| network::parse_rule(option, text)).collect()
}

fn read(path: &Path) -> Result<String, RuleArgumentError> {
    let failed = |source| RuleArgumentError::File { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(MOST_RULE_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    String::from_utf8(bytes).map_err(|_| RuleArgumentError::NotText(path.to_owned()))
}

/// Rules in one line; nothing where there are none.
pub(crate) fn rules_text(rules: &NetworkRules) -> String {
    let lists = [("--allow", &rules.allow), ("--allow-only", &rules.allow_only), ("--deny", &rules.deny)];
    let one = |(option, rules): (&str, &Vec<network::Rule>)| {
        rules.iter().map(move |rule| format!("{option} {rule}")).collect::<Vec<_>>()
    };
    lists.into_iter().flat_map(one).collect::<Vec<_>>().join(" ")
}

/// Says what was denied while a command ran, one line each.
pub(crate) fn tell_denials(denials: &[NetworkDenial], truncated: bool) {
    for denial in denials {
        output::note(format_args!("[network] {}", printable(&denial.to_string())));
    }
    if truncated {
        output::note("[network] more was denied than is told here");
    }
}

/// Says what was reached, as arguments that allow it and nothing else.
pub(crate) fn tell_contacts(contacts: &NetworkContacts) {
    let rules: Vec<String> = contacts.rules.iter().map(|rule| format!("--allow-only {rule}")).collect();
    match rules.is_empty() {
        true => output::note("[network] nothing was reached"),
        false => output::note(format_args!("[network] reached: {}", rules.join(" "))),
    }
    if contacts.truncated {
        output::note("[network] more was reached than is told here");
    }
}
