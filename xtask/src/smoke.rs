//! `cargo xtask smoke`: the guest suite alone, or one story of it.

use anyhow::Result;

use crate::test;

/// The tests that boot real guests, and nothing else
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    scenario: Option<Scenario>,
    /// Only tests whose names contain one of these
    filters: Vec<String>,
}

/// What a user does from beginning to end, with the built pyro and real guests. Each prints a line a step and ends with
/// `N passed, N failed, N skipped`.
#[derive(clap::Subcommand)]
enum Scenario {
    /// A service whose port is published: a server in the guest, reached with curl, and every way in which the port is
    /// free again
    PublishedPorts,
}

/// Without a scenario the same as `cargo xtask test --ring 3`.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match arguments.scenario {
        None => test::run(&test::Arguments::guests(&arguments.filters)),
        Some(Scenario::PublishedPorts) => test::run_guest_test("guest_ports"),
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
        let filtered = parse(&["ports", "network"]);
        assert!(filtered.scenario.is_none());
        assert_eq!(filtered.filters, ["ports", "network"]);
    }
}
