//! The MCP server's tools in real guests of `debian:12`.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use support::host::Host;
use support::mcp::Client;
use support::{assert_all_gone, count_descendants, descendants, guest_available, wait_until};

fn git(dir: &Path, arguments: &[&str]) {
    let identity = ["-c", "user.name=n", "-c", "user.email=e@example.com"];
    let ran = Command::new("git").arg("-C").arg(dir).args(identity).args(arguments).output().unwrap();
    assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// A checkout with a check that fails.
fn project(host: &Host) -> std::path::PathBuf {
    host.write("project/message.txt", "broken\n");
    host.write("project/check.sh", "grep -q fixed message.txt && cat message.txt\n");
    host.write("project/.gitignore", "secret.txt\n");
    host.write("project/secret.txt", "not for the guest\n");
    let dir = host.files.path().join("project");
    git(&dir, &["init", "--quiet"]);
    git(&dir, &["add", "."]);
    git(&dir, &["commit", "--quiet", "-m", "begin"]);
    dir
}

#[test]
fn a_fault_is_reproduced_mended_and_exported_by_tools_alone() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    let dir = project(&host);
    let (mut client, _) = Client::start(&host.pyro, &dir, &["--mode", "repro-fix"]);
    let made =
        client.done("workspace_create", &json!({ "name": "fix", "mem_mib": 256, "labels": { "a": "b" } }));
    let seed = &made["workspace_seed"];
    assert_eq!(seed["origin_kind"], json!("git_checkout"));
    assert_eq!(seed["origin_ref"], json!(dir.canonicalize().unwrap()));
    let fix = json!({ "workspace_id": "fix" });
    let with = |more: Value| {
        let mut arguments = fix.as_object().unwrap().clone();
        arguments.extend(more.as_object().unwrap().clone());
        Value::Object(arguments)
    };
    let listed = client.done("workspace_file_list", &fix);
    assert!(!listed["entries"].to_string().contains("secret.txt"), "what git ignores stays here: {listed}");
    let read = client.done("workspace_file_read", &with(json!({ "path": "message.txt" })));
    assert_eq!((&read["content"], &read["truncated"]), (&json!("broken\n"), &json!(false)));
    let failed = client.done("workspace_exec", &with(json!({ "command": "sh check.sh" })));
    assert_eq!((&failed["exit_code"], &failed["sequence"]), (&json!(1), &json!(1)));
    let patch = "--- a/message.txt\n+++ b/message.txt\n@@ -1 +1 @@\n-broken\n+fixed\n";
    assert_eq!(
        client.done("workspace_patch_apply", &with(json!({ "patch": patch })))["changed"],
        json!(true)
    );
    let passed = client.done("workspace_exec", &with(json!({ "command": "sh check.sh" })));
    assert_eq!((&passed["exit_code"], &passed["stdout"]), (&json!(0), &json!("fixed\n")));
    let diff = client.done("workspace_diff", &fix);
    assert_eq!((&diff["changed"], &diff["summary"]["modified"]), (&json!(true), &json!(1)));
    let out = dir.join("out/message.txt");
    let exported = with(json!({ "path": "message.txt", "output_path": "out/message.txt" }));
    assert_eq!(client.done("workspace_export", &exported)["bytes_written"], json!(6));
    assert_eq!(fs::read_to_string(&out).unwrap(), "fixed\n");
    assert_eq!(client.refusal("workspace_export", &exported)["blame"], json!("caller"));
    assert_eq!(client.done("workspace_reset", &fix)["reset_count"], json!(1));
    assert_eq!(client.done("workspace_diff", &fix)["changed"], json!(false));
    assert_eq!(client.done("workspace_delete", &fix)["deleted"], json!(true));
    assert_eq!(client.refusal("workspace_status", &fix)["code"], json!("no_such_workspace"));
    client.leave();
}

#[test]
fn long_output_is_cut_and_had_page_by_page() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    let id = host.create(&[]);
    let (mut client, _) = Client::start(&host.pyro, host.files.path(), &[]);
    let command = "seq 1 20000; echo last >&2";
    let ran = client.done("workspace_exec", &json!({ "workspace_id": id, "command": command }));
    let short = ran["stdout"].as_str().unwrap();
    assert!(short.len() < 17 << 10 && short.starts_with("1\n2\n") && short.ends_with("20000\n"));
    assert_eq!((&ran["stdout_truncated"], &ran["stderr"]), (&json!(true), &json!("last\n")));
    let (mut whole, mut offset) = (String::new(), 0);
    loop {
        let arguments =
            json!({ "workspace_id": id, "sequence": 1, "offset": offset, "max_output_bytes": 40_000 });
        let logs = client.done("workspace_logs", &arguments);
        let entry = &logs["entries"][0];
        whole.push_str(entry["stdout"].as_str().unwrap());
        match entry["next_offset"].as_u64() {
            Some(next) => offset = next,
            None => break,
        }
    }
    let wanted: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    assert_eq!(whole, wanted);
    client.leave();
}

#[test]
fn a_call_is_cancelled_while_others_are_answered() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    let id = host.create(&[]);
    let (mut client, _) = Client::start(&host.pyro, host.files.path(), &[]);
    let arguments = json!({
        "workspace_id": id, "command": "echo begun; touch begun; sleep 1000", "timeout_seconds": 600,
    });
    let params =
        json!({ "name": "workspace_exec", "arguments": arguments, "_meta": { "progressToken": "t" } });
    let long = client.begin("tools/call", &params);
    let note = client.next();
    assert_eq!(note["method"], json!("notifications/progress"), "{note}");
    assert_eq!(note["params"]["progressToken"], json!("t"));
    // The other call does not wait for this one.
    let status = client.done("workspace_status", &json!({ "workspace_id": id }));
    assert_eq!(status["state"], json!("started"));
    client.send(
        &json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": long } }),
    );
    wait_until("the command to end", || {
        let commands = host.json(&["exec", "list", &id]);
        let state = commands["commands"][0]["state"].clone();
        state == json!("lost") || state == json!("killed")
    });
    let left = host.shell(&id, "cat /proc/[0-9]*/comm | grep -c '^sleep$' || true");
    assert_eq!(left.trim(), "0", "the guest's processes went with the call");
    assert_eq!(client.leave(), Some(0));
}

#[test]
fn a_client_that_vanishes_leaves_no_machine_behind() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    let (mut client, _) = Client::start(&host.pyro, host.files.path(), &["--profile", "workspace-full"]);
    let vm = client.done("vm_create", &json!({ "mem_mib": 256 }));
    assert_eq!(vm["state"], json!("created"));
    let vm = json!({ "vm_id": vm["vm_id"] });
    assert_eq!(client.done("vm_start", &vm)["state"], json!("started"));
    // This one is in the middle of its boot.
    let params = json!({ "name": "workspace_create", "arguments": { "mem_mib": 256 } });
    client.begin("tools/call", &params);
    let server = client.child.id();
    wait_until("a second machine", || count_descendants(server, "pyro-vmm") == 2);
    let below: BTreeSet<_> = descendants(server);
    let mut child = client.vanish();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_all_gone(&below);
    assert_eq!(host.json(&["list"])["count"], json!(0));
}

#[test]
fn a_one_shot_machine_runs_one_command_in_steps() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    let (mut client, _) = Client::start(&host.pyro, host.files.path(), &["--profile", "workspace-full"]);
    let vm = client.done("vm_create", &json!({ "mem_mib": 256 }));
    let vm = json!({ "vm_id": vm["vm_id"] });
    let exec = json!({ "vm_id": vm["vm_id"], "command": "echo out; echo err >&2; exit 7" });
    assert_eq!(client.refusal("vm_exec", &exec)["code"], json!("wrong_state"));
    client.done("vm_start", &vm);
    assert_eq!(client.refusal("vm_start", &vm)["code"], json!("wrong_state"));
    let ran = client.done("vm_exec", &exec);
    assert_eq!(
        (&ran["exit_code"], &ran["stdout"], &ran["stderr"]),
        (&json!(7), &json!("out\n"), &json!("err\n"))
    );
    assert_eq!(client.refusal("vm_status", &vm)["code"], json!("no_machine"));
    let once = client.done("vm_run", &json!({ "command": "echo once", "mem_mib": 256 }));
    assert_eq!((&once["stdout"], &once["cleanup"]["deleted"]), (&json!("once\n"), &json!(true)));
    client.leave();
}
