//! `cargo xtask smoke`: the guest suite alone, or one story of it.

pub(crate) mod kvm;

use anyhow::{Result, bail};

use crate::{lab, test};

/// The tests that boot real guests, and nothing else
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    scenario: Option<Scenario>,
    /// What runs the guests' processors: `kvm` is this host's where that works, else the lab's
    #[arg(long, value_enum, default_value_t = Engine::Emulated)]
    engine: Engine,
    #[command(flatten)]
    size: lab::SizeArguments,
    /// In the lab: how many minutes a binary of tests may run
    #[arg(long, value_name = "MINUTES", default_value_t = 30)]
    limit: u64,
    /// With `--engine kvm`: instead of the suite, boot so many machines one after the other
    #[arg(long, value_name = "N", conflicts_with = "filters")]
    boots: Option<u32>,
    /// Only tests whose names contain one of these
    filters: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Engine {
    Emulated,
    Kvm,
}

/// What a user does from beginning to end, with the built pyro and real guests. Each prints a line a step and ends with
/// `N passed, N failed, N skipped`.
#[derive(clap::Subcommand)]
enum Scenario {
    /// A service whose port is published: a server in the guest, reached with curl, and every way in which the port is
    /// free again
    PublishedPorts,
    /// What agents use pyro for, through `pyro mcp serve` and the official Python SDK
    UseCases {
        /// Only these
        #[arg(value_enum)]
        names: Vec<UseCase>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum UseCase {
    ColdStartValidation,
    ReproFixLoop,
    ParallelWorkspaces,
    UntrustedInspection,
    ReviewEval,
}

impl UseCase {
    /// In the name of its test.
    fn as_str(self) -> &'static str {
        match self {
            Self::ColdStartValidation => "use_case_cold_start_validation",
            Self::ReproFixLoop => "use_case_repro_fix_loop",
            Self::ParallelWorkspaces => "use_case_parallel_workspaces",
            Self::UntrustedInspection => "use_case_untrusted_inspection",
            Self::ReviewEval => "use_case_review_eval",
        }
    }
}

/// Without a scenario and on the emulated engine the same as `cargo xtask test --ring 3`.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.scenario {
        None if arguments.engine == Engine::Kvm => kvm::run(arguments),
        None if arguments.boots.is_some() => bail!("--boots needs --engine kvm"),
        None => test::run(&test::Arguments::guests(&arguments.filters)),
        Some(Scenario::PublishedPorts) => test::run_guest_test("guest_ports", &[]),
        Some(Scenario::UseCases { names }) if names.is_empty() => {
            test::run_guest_test("guest_clients", &["use_case_".to_owned()])
        }
        Some(Scenario::UseCases { names }) => {
            let tests: Vec<String> = names.iter().map(|name| name.as_str().to_owned()).collect();
            test::run_guest_test("guest_clients", &tests)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn scenarios_are_told_from_filters() {
        let parse = |words: &[&str]| Line::try_parse_from([&["smoke"], words].concat()).unwrap().arguments;
        assert!(parse(&[]).scenario.is_none());
        assert!(matches!(parse(&["published-ports"]).scenario, Some(Scenario::PublishedPorts)));
        let cases = parse(&["use-cases", "repro-fix-loop", "review-eval"]).scenario;
        let wanted = [UseCase::ReproFixLoop, UseCase::ReviewEval];
        assert!(matches!(cases, Some(Scenario::UseCases { names }) if names == wanted));
        let filtered = parse(&["ports", "network"]);
        assert!(filtered.scenario.is_none());
        assert_eq!(filtered.filters, ["ports", "network"]);
        assert_eq!(filtered.engine, Engine::Emulated);
        let native = parse(&["--engine", "kvm", "--smp", "2", "boots"]);
        assert_eq!((native.engine, native.filters), (Engine::Kvm, vec!["boots".to_owned()]));
    }
}
