//! `docs/cli.md`, made from the definitions of the commands, and the test that keeps it true.

use crate::cli::Cli;
use clap::builder::StyledStr;
use clap::{Arg, ArgAction, Command, CommandFactory};
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// The variable that has the test write the page instead of comparing it.
const UPDATE: &str = "PYRO_UPDATE_REFERENCE";

const HEAD: &str = "# Command line reference

Made from the program's own definitions, which `--help` shows as well; a test keeps it equal. Do not edit it: change the command
and run `PYRO_UPDATE_REFERENCE=1 cargo test -p pyro-cli --bin pyro reference`.

Options may stand before and after what a command takes, up to `--`. `-h` shows a summary, `--help` everything;
`pyro man DIR` writes all of it as man pages. What names, exit codes and JSON can be relied on: [public-contract.md](public-contract.md).
";

/// The whole page.
fn page() -> String {
    let mut root = Cli::command();
    root.build();
    let mut commands = Vec::new();
    collect(&root, &mut commands);
    let mut page = HEAD.to_owned();
    page.push_str("\n| command | what it does |\n| --- | --- |\n");
    for command in &commands {
        let name = full_name(command);
        let about = text(command.get_about().unwrap_or_default());
        let _ = writeln!(page, "| [`{name}`](#{}) | {} |", name.replace(' ', "-"), about.replace('|', "\\|"));
    }
    for command in commands {
        section(command, &mut page);
    }
    page
}

/// The command and all below it that are shown, in the order of `--help`.
fn collect<'a>(command: &'a Command, into: &mut Vec<&'a Command>) {
    into.push(command);
    for child in shown_children(command) {
        collect(child, into);
    }
}

fn shown_children(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|child| !child.is_hide_set() && child.get_name() != "help")
}

fn full_name(command: &Command) -> String {
    command.get_bin_name().unwrap_or(command.get_name()).to_owned()
}

fn section(command: &Command, page: &mut String) {
    let _ = write!(page, "\n## {}\n\n", full_name(command));
    let about = command.get_long_about().or(command.get_about());
    page.push_str(&paragraphs(about.unwrap_or_default()).join("\n\n"));
    let usage = command.clone().render_usage().to_string();
    let usage: Vec<&str> = usage
        .lines()
        .map(|line| line.trim_start_matches("Usage:").trim())
        .filter(|l| !l.is_empty())
        .collect();
    let _ = write!(page, "\n\n```text\n{}\n```\n", usage.join("\n"));
    let mut list = command.get_arguments().filter(|argument| !is_help(argument)).peekable();
    if list.peek().is_some() {
        page.push('\n');
    }
    for argument in list.filter(|argument| !argument.is_hide_set()) {
        let _ = writeln!(page, "- `{}`: {}", heading(argument), explanation(argument));
    }
    if let Some(after) = command.get_after_long_help().or(command.get_after_help()) {
        examples(&after.to_string(), page);
    }
}

fn is_help(argument: &Arg) -> bool {
    matches!(
        argument.get_action(),
        ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
    )
}

/// `-t, --tty`, `--name <NAME>`, `<WORKSPACE>`: as `--help` heads it.
fn heading(argument: &Arg) -> String {
    let long = argument.to_string();
    match (argument.get_short(), argument.get_long()) {
        (Some(short), Some(_)) => format!("-{short}, {long}"),
        _ => long,
    }
}

/// Everything that is said of an argument, in one paragraph.
fn explanation(argument: &Arg) -> String {
    let help = argument.get_long_help().or(argument.get_help()).unwrap_or_default();
    let mut sentences = paragraphs(help);
    let values: Vec<_> = argument.get_possible_values().into_iter().filter(|v| !v.is_hide_set()).collect();
    if argument.get_action().takes_values() && !values.is_empty() {
        let told = values.iter().map(|value| match value.get_help() {
            Some(help) => format!("`{}` ({})", value.get_name(), lower_first(&text(help))),
            None => format!("`{}`", value.get_name()),
        });
        sentences.push(format!("One of {}.", told.collect::<Vec<_>>().join(", ")));
    }
    let defaults: Vec<_> =
        argument.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    if argument.get_action().takes_values() && !defaults.is_empty() && !argument.is_hide_default_value_set() {
        sentences.push(format!("Default: `{}`.", defaults.join(" ")));
    }
    let ended = sentences.iter().map(|said| match said.ends_with(['.', ':', '!', '?', ']']) {
        true => said.clone(),
        false => format!("{said}."),
    });
    ended.collect::<Vec<_>>().join(" ")
}

/// What stands after the options: `Examples:` and indented lines, which are commands.
fn examples(after: &str, page: &mut String) {
    let mut in_block = false;
    for line in after.lines() {
        match (line.strip_prefix("  "), in_block) {
            (Some(_), false) => page.push_str("\n```bash\n"),
            (None, true) => page.push_str("```\n"),
            _ => {}
        }
        in_block = line.starts_with("  ");
        match line.strip_prefix("  ") {
            Some(code) => page.push_str(code),
            None if line.is_empty() || line == "Example:" || line == "Examples:" => continue,
            None => page.push_str(&format!("\n{}", escaped(line))),
        }
        page.push('\n');
    }
    if in_block {
        page.push_str("```\n");
    }
}

fn paragraphs(help: &StyledStr) -> Vec<String> {
    let help = help.to_string();
    help.split("\n\n")
        .map(|paragraph| escaped(&paragraph.split_whitespace().collect::<Vec<_>>().join(" ")))
        .collect()
}

fn text(help: &StyledStr) -> String {
    paragraphs(help).join(" ")
}

fn lower_first(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, |first| first.to_lowercase().chain(rest).collect())
}

/// `text` with what Markdown would take for its own marked, but within backticks.
fn escaped(text: &str) -> String {
    let mut in_code = false;
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        in_code ^= letter == '`';
        if !in_code && matches!(letter, '*' | '<') {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

#[test]
fn the_reference_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let made = page();
    if std::env::var_os(UPDATE).is_some() {
        return fs::write(&path, made).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let differing = kept.lines().zip(made.lines()).position(|(kept, made)| kept != made);
    assert!(
        kept == made,
        "docs/cli.md is not what the commands say (line {}); run: \
         {UPDATE}=1 cargo test -p pyro-cli --bin pyro reference",
        differing.map_or(kept.lines().count().min(made.lines().count()), |line| line) + 1
    );
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    clap_mangen::generate_to(Cli::command(), dir.path()).unwrap();
    let mut root = Cli::command();
    root.build();
    let mut commands = Vec::new();
    collect(&root, &mut commands);
    assert!(commands.len() > 60, "only {} commands were found", commands.len());
    for command in commands {
        let file = dir.path().join(format!("{}.1", full_name(command).replace(' ', "-")));
        let page = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(page.contains(".SH SYNOPSIS"), "{page}");
    }
}

#[test]
fn text_is_escaped_outside_of_code() {
    assert_eq!(escaped("*.DOMAIN or `*.x`, <A>"), "\\*.DOMAIN or `*.x`, \\<A>");
}

#[test]
fn examples_become_blocks() {
    let mut page = String::new();
    examples("More of it:\n  pyro x\n\nExamples:\n  pyro y", &mut page);
    assert_eq!(page, "\nMore of it:\n\n```bash\npyro x\n```\n\n```bash\npyro y\n```\n");
}
