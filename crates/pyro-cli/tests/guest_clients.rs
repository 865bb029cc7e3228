//! The MCP server as clients see it that others wrote: the official SDKs of Python and TypeScript, and the Inspector's
//! command line. Their scripts are in `xtask/clients`; `cargo xtask test` installs them.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use support::host::Host;
use support::{Ran, guest_available};

const TOKEN: &str = "a-token-of-some-length";

/// The directory with the clients; where there is none, says so and (under `PYRO_REQUIRE=mcp-clients`) fails.
fn clients() -> Option<PathBuf> {
    if let Some(directory) = std::env::var_os("PYRO_TEST_CLIENTS") {
        return Some(directory.into());
    }
    let reason = std::env::var("PYRO_TEST_NO_CLIENTS")
        .unwrap_or_else(|_| "PYRO_TEST_CLIENTS is not set; `cargo xtask test` makes the clients".to_owned());
    let required = std::env::var("PYRO_REQUIRE");
    let is_required = required.is_ok_and(|list| list.split(',').any(|word| word == "mcp-clients"));
    assert!(!is_required, "the MCP clients are required here, but: {reason}");
    println!("skipped ({reason})");
    None
}

fn script(name: &str) -> OsString {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../xtask/clients").join(name).into()
}

/// A host with what its clients need, or nothing where they cannot run.
struct Bench {
    host: Host,
    clients: PathBuf,
}

impl Bench {
    fn new() -> Option<Self> {
        let clients = clients()?;
        guest_available().then(|| Self { host: Host::new(), clients })
    }

    fn command(&self, program: impl Into<PathBuf>) -> Command {
        let mut command = Command::new(program.into());
        command
            .env("PYRO", env!("CARGO_BIN_EXE_pyro"))
            .env("PYRO_STATE_DIR", self.host.pyro.state.path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(self.host.files.path())
            .stdin(Stdio::null());
        command
    }

    fn python(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = self.command(self.clients.join("venv/bin/python"));
        command.arg(script(name)).args(arguments);
        command
    }

    fn node(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("node");
        command.arg(script("protocol.mjs")).arg(&self.clients).args(arguments);
        command
    }

    /// The answer to one method of the Inspector, over the transport that `target` names.
    fn inspector(&self, target: &[&str], arguments: &[&str]) -> Value {
        let mut command = self.command(self.clients.join("node_modules/.bin/mcp-inspector"));
        command.args(["--cli"]).args(target).args(arguments);
        let ran = Ran::from(command.output().unwrap());
        assert_eq!(ran.code, Some(0), "{arguments:?}: {ran:?}");
        serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"))
    }

    fn assert_no_workspace_left(&self) {
        assert_eq!(self.host.json(&["list"])["count"], 0);
    }
}

/// Shows what a script says, which must succeed.
fn passes(mut command: Command) {
    let ran = Ran::from(command.output().unwrap());
    print!("{}", ran.stdout);
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
}

fn use_case(name: &str) {
    let Some(bench) = Bench::new() else { return };
    passes(bench.python("use_cases.py", &[name]));
    bench.assert_no_workspace_left();
}

#[test]
fn use_case_cold_start_validation() {
    use_case("cold-start-validation");
}

#[test]
fn use_case_repro_fix_loop() {
    use_case("repro-fix-loop");
}

#[test]
fn use_case_parallel_workspaces() {
    use_case("parallel-workspaces");
}

#[test]
fn use_case_untrusted_inspection() {
    use_case("untrusted-inspection");
}

#[test]
fn use_case_review_eval() {
    use_case("review-eval");
}

#[test]
fn a_scenario_that_fails_says_so_and_leaves_nothing() {
    let Some(bench) = Bench::new() else { return };
    let ran =
        Ran::from(bench.python("use_cases.py", &["cold-start-validation", "--break"]).output().unwrap());
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(ran.stdout, "cold-start-validation: failed: Mismatch: broken on purpose\n");
    bench.assert_no_workspace_left();
}

/// A server over HTTP, and what its clients are to know of it.
struct Served {
    child: Child,
    url: String,
}

impl Served {
    fn start(bench: &Bench, profile: &str) -> Self {
        bench.host.write("token", TOKEN);
        let token = bench.host.path("token");
        let words = ["mcp", "serve", "--http", "127.0.0.1:0", "--token-file", &token, "--profile", profile];
        let mut command = bench.host.pyro.command(&words);
        let mut child = command.current_dir(bench.host.files.path()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("[mcp] url=").unwrap_or_else(|| panic!("{line}")).to_owned();
        Self { child, url }
    }

    fn told(&self, mut command: Command) -> Command {
        command.env("PYRO_URL", &self.url).env("PYRO_TOKEN", TOKEN);
        command
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let _ = self.child.wait();
    }
}

const PROFILES: [&str; 3] = ["vm-run", "workspace-core", "workspace-full"];

#[test]
fn the_python_sdk_finds_what_it_expects_over_both_transports() {
    let Some(bench) = Bench::new() else { return };
    for profile in PROFILES {
        passes(bench.python("protocol.py", &["stdio", profile]));
        let served = Served::start(&bench, profile);
        passes(served.told(bench.python("protocol.py", &["http", profile])));
    }
    bench.assert_no_workspace_left();
}

#[test]
fn the_typescript_sdk_finds_what_it_expects_over_both_transports() {
    let Some(bench) = Bench::new() else { return };
    for profile in PROFILES {
        passes(bench.node(&["stdio", profile]));
        let served = Served::start(&bench, profile);
        passes(served.told(bench.node(&["http", profile])));
    }
    bench.assert_no_workspace_left();
}

#[test]
fn every_tool_keeps_what_its_schemas_promise() {
    let Some(bench) = Bench::new() else { return };
    passes(bench.python("every_tool.py", &[]));
    bench.assert_no_workspace_left();
}

#[test]
fn the_inspector_lists_tools_and_calls_one_over_both_transports() {
    let Some(bench) = Bench::new() else { return };
    let profile = "workspace-core";
    let served = Served::start(&bench, profile);
    let authorization = format!("Authorization: Bearer {TOKEN}");
    let stdio = [env!("CARGO_BIN_EXE_pyro"), "mcp", "serve"];
    let http = [served.url.as_str(), "--transport", "http", "--header", &authorization];
    for target in [&stdio[..], &http] {
        let listed = bench.inspector(target, &["--method", "tools/list"]);
        assert_eq!(listed["tools"].as_array().unwrap().len(), 17, "{listed}");
        let call = ["--method", "tools/call", "--tool-name", "vm_run", "--tool-arg"];
        let ran = bench.inspector(target, &[&call[..], &["command=echo inspected", "mem_mib=256"]].concat());
        assert_eq!(ran["structuredContent"]["stdout"], json!("inspected\n"), "{ran}");
    }
}
