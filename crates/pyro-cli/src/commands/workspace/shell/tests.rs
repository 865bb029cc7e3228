use super::*;
use clap::Parser;
use pyro_core::workspace::ShellWait;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    shell: Shell,
}

fn parses(arguments: &[&str]) -> bool {
    Line::try_parse_from([&["shell"], arguments].concat()).is_ok()
}

#[test]
fn the_transcripts_command_lines_are_taken() {
    for arguments in [
        &["open", "WS", "--secret-env", "API_TOKEN"][..],
        &["open", "WS", "--cwd", "/workspace", "--cols", "120", "--rows", "30", "--id-only"],
        &["write", "WS", "SH", "--input", "pwd"],
        &["write", "WS", "SH", "--input", "-n", "--no-newline", "--json"],
        &["write", "--input", "pwd", "WS", "SH"],
        &["read", "WS", "SH"],
        &[
            "read",
            "WS",
            "SH",
            "--cursor",
            "0",
            "--max-chars",
            "65536",
            "--plain",
            "--wait-for-idle-ms",
            "300",
        ],
        &["read", "WS", "SH", "--wait-for-prompt"],
        &["signal", "WS", "SH", "--signal", "hup"],
        &["signal", "WS", "SH", "--signal", "SIGKILL"],
        &["resize", "WS", "SH", "--cols", "80", "--rows", "24"],
        &["attach", "WS", "SH", "--detach-keys", "ctrl-a,d"],
        &["list", "WS"],
        &["close", "WS", "SH"],
    ] {
        assert!(parses(arguments), "{arguments:?}");
    }
}

#[test]
fn what_does_not_fit_together_is_a_usage_error() {
    for arguments in [
        &[][..],
        &["open"],
        &["open", "WS", "--json", "--id-only"],
        &["open", "WS", "--cols", "-1"],
        &["open", "WS", "--cols", "wide"],
        &["read", "WS"],
        &["read", "WS", "SH", "--cursor", "-1"],
        &["read", "WS", "SH", "--wait-for-prompt", "--wait-for", "x"],
        &["read", "WS", "SH", "--wait-for-idle-ms", "5", "--wait-for-prompt"],
        &["write", "WS", "SH"],
        &["write", "WS", "SH", "--input", "x", "--stdin"],
        &["resize", "WS", "SH", "--cols", "80"],
        &["signal", "WS", "SH", "--signal", "STOP"],
        &["attach", "WS", "SH", "--detach-keys", "ctrl-1"],
        &["close", "WS"],
    ] {
        assert!(!parses(arguments), "{arguments:?}");
    }
}

#[test]
fn a_pattern_stands_between_slashes() {
    assert_eq!(read::wait_for("/^ok$/"), ShellWait::Pattern("^ok$".to_owned()));
    assert_eq!(read::wait_for("/etc"), ShellWait::Text("/etc".to_owned()));
    assert_eq!(read::wait_for("/"), ShellWait::Text("/".to_owned()));
}
