use super::*;
use clap::Parser;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    exec: Exec,
}

fn parsed(arguments: &[&str]) -> Parsed {
    Line::try_parse_from([&["exec"], arguments].concat()).unwrap().exec.0
}

/// The workspace that a command is run in; `None` where it is a subcommand.
fn runs_in(arguments: &[&str]) -> Option<String> {
    match parsed(arguments) {
        Parsed::Execution(execution) => Some(execution.target.workspace),
        Parsed::OfCommands(_) => None,
    }
}

#[test]
fn a_first_word_that_is_no_subcommand_is_a_workspace() {
    assert_eq!(runs_in(&["fix", "--", "list"]).as_deref(), Some("fix"));
    assert_eq!(runs_in(&["lis", "--", "true"]).as_deref(), Some("lis"));
    assert_eq!(runs_in(&["help", "--", "true"]).as_deref(), Some("help"));
    assert_eq!(runs_in(&["fix", "--detach", "--shell", "list"]).as_deref(), Some("fix"));
    for arguments in [
        &["list", "fix"][..],
        &["wait", "fix", "3"],
        &["kill", "fix", "3", "--signal", "sigint"],
        &["logs", "fix", "3", "--follow"],
    ] {
        assert_eq!(runs_in(arguments), None, "{arguments:?}");
    }
    // Options of an execution before it tell that it is none.
    assert_eq!(runs_in(&["--json", "list", "--", "true"]).as_deref(), Some("list"));
}

#[test]
fn what_does_not_fit_together_is_a_usage_error() {
    for arguments in [
        &[][..],
        &["list"],
        &["wait", "fix"],
        &["wait", "fix", "first"],
        &["kill", "fix", "3", "--signal", "STOP"],
        &["logs", "fix", "3", "--follow", "--json"],
        &["fix", "--detach", "--stdin", "--", "true"],
        &["fix", "-d", "-t", "--", "true"],
    ] {
        assert!(Line::try_parse_from([&["exec"], arguments].concat()).is_err(), "{arguments:?}");
    }
}

#[test]
fn only_a_detached_command_has_no_limit_of_time_by_itself() {
    let seconds = |arguments: &[&str]| {
        let Parsed::Execution(execution) = parsed(&[&["fix"], arguments, &["--", "true"]].concat()) else {
            panic!("a subcommand");
        };
        execution.command().unwrap().exec.timeout.map(|time| time.as_secs())
    };
    assert_eq!(seconds(&[]), Some(30));
    assert_eq!(seconds(&["--detach"]), None);
    assert_eq!(seconds(&["--detach", "--timeout-seconds", "7"]), Some(7));
}
