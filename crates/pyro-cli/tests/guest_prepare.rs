//! `pyro prepare` and what `pyro doctor --environment` says before and after, with real guests.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Stdio;
use support::{Pyro, Ran, guest_available};

/// A `pyro` with a cache of its own, in which the caller's environments are.
struct Desk {
    pyro: Pyro,
    cache: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let (pyro, cache) = (Pyro::new(), tempfile::tempdir().unwrap());
        let doctor: Value = serde_json::from_str(&pyro.run(&["doctor", "--json"]).stdout).unwrap();
        let theirs = PathBuf::from(doctor["runtime"]["cache_dir"].as_str().unwrap());
        symlink(theirs.join("linux-x86_64"), cache.path().join("linux-x86_64")).unwrap();
        Self { pyro, cache }
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.pyro.command(arguments);
        command.env("PYRO_ENVIRONMENT_CACHE_DIR", self.cache.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::from(self.command(arguments).output().unwrap())
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let ran = self.run(&[arguments, &["--json"]].concat());
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{arguments:?}: {ran:?}");
        serde_json::from_str(&ran.stdout).unwrap()
    }

    /// State and reasons, as doctor tells them.
    fn readiness(&self) -> (String, Vec<String>) {
        let told = &self.json(&["doctor", "--environment", "debian:12"])["readiness"];
        let reasons = told["reasons"].as_array().unwrap().iter().map(|r| r.as_str().unwrap().to_owned());
        (told["state"].as_str().unwrap().to_owned(), reasons.collect())
    }

    fn manifest(&self) -> PathBuf {
        self.cache.path().join("prepared/debian_3a12.json")
    }

    fn assert_no_workspaces(&self) {
        let listed = self.json(&["workspace", "list"]);
        assert_eq!(listed["count"], 0, "{listed}");
    }
}

#[test]
fn an_environment_is_cold_then_warm_then_stale_and_warm_again() {
    if !guest_available() {
        return;
    }
    let desk = Desk::new();
    assert_eq!(desk.readiness(), ("cold".to_owned(), vec!["the loop was never proved".to_owned()]));

    let prepared = desk.run(&["prepare", "debian:12"]);
    assert_eq!(prepared.code, Some(0), "{prepared:?}");
    assert!(prepared.stdout.starts_with("Environment debian:12: warm\n[prepare] pull_ms="), "{prepared:?}");
    let phases: Vec<&str> =
        prepared.stderr.lines().filter_map(|line| line.strip_prefix("[prepare] phase=")).collect();
    assert_eq!(phases, ["pull", "create", "exec", "reset", "delete"]);
    desk.assert_no_workspaces();
    assert_eq!(desk.readiness(), ("warm".to_owned(), Vec::new()));
    let human = desk.run(&["doctor", "--environment", "debian:12"]);
    assert!(human.stdout.ends_with("\nEnvironment debian:12: warm\n"), "{human:?}");

    let proof = fs::read_to_string(desk.manifest()).unwrap();
    let again = desk.json(&["prepare"]);
    assert_eq!((&again["already_warm"], &again["network"]), (&Value::from(true), &Value::from(false)));
    for step in ["create_ms", "reset_ms", "delete_ms"] {
        assert!(again["timings"][step].as_u64().unwrap() > 0, "{again}");
    }
    assert_eq!(fs::read_to_string(desk.manifest()).unwrap(), proof, "nothing was done, nothing is written");

    let version = format!("\"pyro_version\": \"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(proof.contains(&version), "{proof}");
    fs::write(desk.manifest(), proof.replace(&version, "\"pyro_version\": \"0.0.1\"")).unwrap();
    let (state, reasons) = desk.readiness();
    assert_eq!((state.as_str(), reasons.len()), ("stale", 1), "{reasons:?}");
    assert!(reasons[0].starts_with("pyro was 0.0.1 then and is "), "{reasons:?}");
    let human = desk.run(&["doctor", "--environment", "debian:12"]);
    assert!(
        human.stdout.ends_with("; run `pyro prepare debian:12`\n") || human.stdout.contains("stale ("),
        "{human:?}"
    );

    // A stale one is proved again; a network is one more thing to prove, which stays proved.
    let networked = desk.json(&["prepare", "--network"]);
    assert_eq!(
        (&networked["already_warm"], &networked["network"]),
        (&Value::from(false), &Value::from(true))
    );
    assert_eq!(desk.readiness().0, "warm");
    assert_eq!(desk.json(&["prepare"])["already_warm"], true);
    desk.assert_no_workspaces();
}

#[test]
fn an_interrupted_loop_leaves_no_workspace_and_proves_nothing() {
    if !guest_available() {
        return;
    }
    let desk = Desk::new();
    let mut running =
        desk.command(&["prepare", "--force"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(running.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "[prepare] phase=exec"), "it ended early");
    let pid = rustix::process::Pid::from_child(&running);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(130));
    desk.assert_no_workspaces();
    assert!(!desk.manifest().exists());
    assert_eq!(desk.readiness().0, "cold");
}
