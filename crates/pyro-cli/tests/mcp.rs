//! `pyro mcp serve` as a client sees it, without guests: what it tells of itself, what it refuses, and how it ends.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::Pyro;
use support::mcp::Client;

#[test]
fn the_server_tells_who_it_is_and_how_it_is_used() {
    let (pyro, dir) = (Pyro::new(), tempfile::tempdir().unwrap());
    let (client, answer) = Client::start(&pyro, dir.path(), &[]);
    let result = &answer["result"];
    assert_eq!(result["serverInfo"]["name"], json!("pyro"));
    assert_eq!(result["serverInfo"]["version"], json!(env!("CARGO_PKG_VERSION")));
    assert!(result["instructions"].as_str().unwrap().contains("workspace_create"));
    assert_eq!(result["capabilities"], json!({ "tools": {} }));
    assert_eq!(client.leave(), Some(0));
}

#[test]
fn the_daily_tools_fit_into_ten_kilobytes_and_each_is_told_whole() {
    let (pyro, dir) = (Pyro::new(), tempfile::tempdir().unwrap());
    let (mut client, _) = Client::start(&pyro, dir.path(), &[]);
    let tools = client.tools();
    let bytes = serde_json::to_string(&tools).unwrap().len();
    assert!(bytes <= 10_000, "{bytes} bytes");
    assert_eq!(tools.len(), 17);
    client.leave();

    let (mut client, _) =
        Client::start(&pyro, dir.path(), &["--profile", "workspace-full", "--allow-network"]);
    let tools = client.tools();
    let names: BTreeSet<&str> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), tools.len(), "a name is there twice");
    for tool in &tools {
        let name = &tool["name"];
        assert!(tool["description"].as_str().unwrap().len() > 20, "{name}");
        assert_eq!(tool["inputSchema"]["additionalProperties"], json!(false), "{name}");
        assert_eq!(tool["outputSchema"]["type"], json!("object"), "{name}");
        let annotations = &tool["annotations"];
        assert!(annotations["readOnlyHint"].is_boolean() || annotations["destructiveHint"].is_boolean());
    }
    client.leave();
}

#[test]
fn bad_calls_are_answered_with_a_code_and_leave_nothing() {
    let (pyro, dir) = (Pyro::new(), tempfile::tempdir().unwrap());
    let (mut client, _) = Client::start(&pyro, dir.path(), &["--profile", "workspace-full"]);
    let unknown = client.call("workspace_destroy", &json!({}));
    assert_eq!(unknown["error"]["code"], json!(-32602));
    for (tool, arguments, code) in [
        ("workspace_exec", json!({ "workspace_id": "x" }), "invalid_arguments"),
        ("workspace_exec", json!({ "workspace_id": 7, "command": "true" }), "invalid_arguments"),
        (
            "workspace_exec",
            json!({ "workspace_id": "x", "command": "true", "shell": 1 }),
            "invalid_arguments",
        ),
        ("workspace_exec", json!({ "workspace_id": "nowhere", "command": "true" }), "no_such_workspace"),
        ("workspace_exec", json!({ "workspace_id": "x", "command": " " }), "command_required"),
        ("workspace_create", json!({ "vcpu_count": 99 }), "out_of_range"),
        ("vm_create", json!({ "mem_mib": 1 << 20 }), "out_of_range"),
        ("workspace_create", json!({ "environment": "evil.example/image" }), "not_granted"),
        ("workspace_create", json!({ "environment": "debian:13" }), "unknown_environment"),
        ("workspace_create", json!({ "network_policy": "egress" }), "not_granted"),
        ("workspace_create", json!({ "secrets": [{ "name": "A" }] }), "invalid_secret"),
        ("vm_run", json!({ "command": "true", "network": true }), "not_granted"),
        ("vm_status", json!({ "vm_id": "0123456789ab" }), "no_machine"),
        ("workspace_diff", json!({ "workspace_id": "x", "max_output_bytes": 0 }), "out_of_range"),
        (
            "workspace_disk_read",
            json!({ "workspace_id": "x", "path": "f", "max_bytes": 2 << 20 }),
            "out_of_range",
        ),
        (
            "workspace_file_read",
            json!({ "workspace_id": "x", "path": "f", "offset": 64 << 20 }),
            "out_of_range",
        ),
        (
            "service_start",
            json!({ "workspace_id": "x", "service_name": "s", "command": "c", "ready_file": "f", "ready_tcp": "t" }),
            "invalid_readiness",
        ),
    ] {
        assert_eq!(client.refusal(tool, &arguments)["code"], json!(code), "{tool} {arguments}");
    }
    let long = "x".repeat(8 << 20);
    let error =
        client.refusal("workspace_file_write", &json!({ "workspace_id": "x", "path": "f", "text": long }));
    assert_eq!(error["code"], json!("invalid_arguments"));
    let list = client.call("workspace_list", &json!({}));
    assert_eq!(list["result"]["structuredContent"], json!({ "count": 0, "workspaces": [] }));
    assert_eq!(client.leave(), Some(0));
}

#[test]
fn arguments_that_a_narrow_profile_hides_are_refused() {
    let (pyro, dir) = (Pyro::new(), tempfile::tempdir().unwrap());
    // The network is granted, but this profile has none for workspaces.
    let (mut client, _) = Client::start(&pyro, dir.path(), &["--allow-network"]);
    for arguments in [json!({ "network_policy": "egress" }), json!({ "secrets": [] })] {
        assert_eq!(client.refusal("workspace_create", &arguments)["code"], json!("not_granted"));
    }
    assert_eq!(client.call("snapshot_create", &json!({}))["error"]["code"], json!(-32602));
    client.leave();
}

#[test]
fn host_paths_are_those_of_the_project_and_of_no_link_out_of_it() {
    let (pyro, dir) = (Pyro::new(), tempfile::tempdir().unwrap());
    let project = dir.path().join("project");
    fs::create_dir_all(project.join("sub")).unwrap();
    fs::write(dir.path().join("secret"), "s").unwrap();
    std::os::unix::fs::symlink("..", project.join("up")).unwrap();
    let named = project.to_str().unwrap();
    let (mut client, _) = Client::start(&pyro, dir.path(), &["--project-path", named]);
    let secret = dir.path().join("secret");
    for path in ["/etc", secret.to_str().unwrap(), "up", "up/secret"] {
        let error = client.refusal("workspace_create", &json!({ "seed_path": path }));
        assert_eq!(error["code"], json!("path_not_allowed"), "{path}");
        let pushed = json!({ "workspace_id": "x", "source_path": path });
        assert_eq!(
            client.refusal("workspace_sync_push", &pushed)["code"],
            json!("path_not_allowed"),
            "{path}"
        );
    }
    let up = json!({ "workspace_id": "x", "path": "f", "output_path": "up/new" });
    assert_eq!(client.refusal("workspace_export", &up)["code"], json!("path_not_allowed"));
    // What is allowed fails only because there is no such workspace.
    let inside = json!({ "workspace_id": "x", "path": "f", "output_path": "sub/new" });
    assert_eq!(client.refusal("workspace_export", &inside)["code"], json!("no_such_workspace"));
    client.leave();

    // Without a project nothing of the host is allowed.
    let (mut client, _) = Client::start(&pyro, dir.path(), &[]);
    let error = client.refusal("workspace_create", &json!({ "seed_path": named }));
    assert_eq!(error["code"], json!("path_not_allowed"));
    assert!(error["hint"].as_str().unwrap().contains("--allow-path"));
    client.leave();
}

#[test]
fn many_calls_at_once_are_all_answered() {
    let (pyro, dir) = (Pyro::new(), tempfile::tempdir().unwrap());
    let (mut client, _) = Client::start(&pyro, dir.path(), &[]);
    for id in 1000..1050 {
        let params = json!({ "name": "workspace_list", "arguments": {} });
        client.send(&json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }));
    }
    let mut answered = BTreeSet::new();
    while answered.len() < 50 {
        let mut line = String::new();
        assert!(client.stdout.read_line(&mut line).unwrap() > 0);
        let message: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(message["result"]["structuredContent"]["count"], json!(0), "{message}");
        answered.insert(message["id"].as_u64().unwrap());
    }
    assert_eq!(answered, (1000..1050).collect());
    assert_eq!(client.leave(), Some(0));
}

#[test]
fn a_message_without_end_ends_the_server_and_fills_nothing() {
    let (pyro, dir) = (Pyro::new(), tempfile::tempdir().unwrap());
    let (mut client, _) = Client::start(&pyro, dir.path(), &[]);
    let mut stdin = client.stdin.take().unwrap();
    let piece = vec![b'x'; 1 << 20];
    // It stops reading at the bound, some megabytes from here; the pipe breaks then.
    let sent = (0..64).take_while(|_| stdin.write_all(&piece).is_ok()).count();
    assert!(sent < 64, "nothing stopped the message");
    assert_eq!(client.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_server_that_cannot_be_is_told_in_one_line() {
    let pyro = Pyro::new();
    for (arguments, code, text) in [
        (vec!["--profile", "all"], 1, "unknown MCP profile 'all'; expected one of: vm-run"),
        (vec!["--mode", "fix"], 1, "unknown MCP mode 'fix'"),
        (vec!["--mode", "inspect", "--profile", "vm-run"], 2, "cannot be used with"),
        (vec!["--project-path", "/nowhere"], 1, "is not a directory"),
        (vec!["--allow-path", "/nowhere"], 1, "cannot allow the directory '/nowhere'"),
        (vec!["--http", "192.0.2.1:80"], 1, "loopback addresses only"),
        (vec!["--repo-ref", "main"], 2, "--repo-url"),
    ] {
        let ran = pyro.run(&[vec!["mcp", "serve"], arguments.clone()].concat());
        assert_eq!(ran.code, Some(code), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(text) && ran.stdout.is_empty(), "{arguments:?}: {}", ran.stderr);
    }
}

#[test]
fn http_is_for_who_has_the_token() {
    let (pyro, dir) = (Pyro::new(), tempfile::tempdir().unwrap());
    let token = dir.path().join("token");
    fs::write(&token, "a-token-of-some-length\n").unwrap();
    let mut command: Command =
        pyro.command(&["mcp", "serve", "--http", "127.0.0.1:0", "--token-file", token.to_str().unwrap()]);
    let mut child = command.current_dir(dir.path()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address =
        line.trim().strip_prefix("[mcp] url=http://").unwrap().strip_suffix("/mcp").unwrap().to_owned();
    let ask = |path: &str, headers: &str| {
        let body = json!({
            "jsonrpc": "2.0", "id": 1, "method": "initialize",
            "params": {
                "protocolVersion": "2025-06-18", "capabilities": {},
                "clientInfo": { "name": "test", "version": "1" },
            },
        })
        .to_string();
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nAccept: application/json, text/event-stream\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n{headers}\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // The first answer is enough; the stream stays open.
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let count = stream.read(&mut buffer).unwrap();
            seen.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&seen);
            if count == 0 || text.contains("serverInfo") || !text.starts_with("HTTP/1.1 2") {
                return text.into_owned();
            }
        }
    };
    let good = "Authorization: Bearer a-token-of-some-length\r\n";
    for headers in ["", "Authorization: Bearer wrong\r\n", "Authorization: Bearer a-token-of-some-lengtH\r\n"]
    {
        assert!(ask("/mcp", headers).starts_with("HTTP/1.1 401"), "{headers}");
    }
    assert!(ask("/other", good).starts_with("HTTP/1.1 404"));
    assert!(ask("/mcp", &format!("{good}Origin: http://evil.example\r\n")).starts_with("HTTP/1.1 403"));
    let answer = ask("/mcp", good);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"name\":\"pyro\""), "{answer}");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(),
        rustix::process::Signal::INT,
    )
    .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
