//! The command without guests: help, usage errors, bad input.

#![allow(clippy::unwrap_used)]

mod support;

use support::Pyro;

/// The exit code and the first error line of a failed command.
fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let pyro = Pyro::new();
    let ran = pyro.run(arguments);
    pyro.assert_nothing_left();
    assert_eq!(ran.stdout, "", "{ran:?}");
    (ran.code, ran.stderr.lines().next().unwrap_or_default().to_owned())
}

#[test]
fn version_is_one_line() {
    let ran = Pyro::new().run(&["--version"]);
    assert_eq!((ran.code, ran.stdout), (Some(0), format!("pyro {}\n", env!("CARGO_PKG_VERSION"))));
}

/// `MemTotal` of proc(5) `meminfo`, in MiB.
fn host_mib() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() >> 10
}

#[test]
fn numbers_out_of_range_are_refused_with_their_bounds() {
    let host_mib = host_mib();
    let (least, too_much) = (
        format!("[error] mem_mib must be between 256 and {host_mib}, not 255"),
        format!("[error] mem_mib {} is more than this host has ({host_mib} MiB)", host_mib + 1),
    );
    for (flag, value, text) in [
        ("--vcpu-count", "33", "[error] vcpu_count must be between 1 and 32, not 33"),
        ("--mem-mib", "255", &least),
        ("--mem-mib", &(host_mib + 1).to_string(), &too_much),
        ("--ttl-seconds", "59", "[error] ttl_seconds must be between 60 and 3600, not 59"),
        ("--timeout-seconds", "0", "[error] timeout_seconds must be between 1 and 86400, not 0"),
        ("--disk-mib", "1", "[error] disk_mib must be between 16 and 65536, not 1"),
    ] {
        assert_eq!(refused(&["run", "debian:12", flag, value, "--", "true"]), (Some(1), text.to_owned()));
    }
}

#[test]
fn a_missing_command_is_told_with_an_example() {
    let (code, line) = refused(&["run", "debian:12"]);
    assert_eq!((code, line.as_str()), (Some(1), "[error] command is required after `--`"));
}

#[test]
fn certificate_authorities_and_proxies_that_cannot_be_are_refused_before_anything_is_made() {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("ca.pem");
    let shown = path.to_str().unwrap();
    let with_file = |content: &str| {
        std::fs::write(&path, content).unwrap();
        let run = refused(&["run", "debian:12", "--ca-file", shown, "--", "true"]);
        assert_eq!(refused(&["workspace", "create", "debian:12", "--ca-file", shown]), run);
        run
    };
    let told = |text: &str| (Some(1), format!("[error] '{shown}' {text}"));
    let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
    assert_eq!(with_file(key), told("holds a private key; give a file with certificates alone"));
    let nothing = "holds no certificate: it must have blocks that begin with -----BEGIN CERTIFICATE-----";
    assert_eq!(with_file("hello\n"), told(nothing));
    let mut pyro = Pyro::new();
    let create = ["workspace", "create", "debian:12", "--host-proxy", "--network-policy", "egress"];
    for (url, text) in [
        ("", "[error] connections are to go through the host's proxy, and the host has none"),
        ("socks5://jo:s3cret@proxy:1080", "[error] the host's proxy cannot be used"),
    ] {
        pyro.variables = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"]
            .map(|name| (name.to_owned(), url.to_owned()))
            .to_vec();
        let ran = pyro.run(&create);
        assert!(ran.stderr.starts_with(text) && !ran.stderr.contains("s3cret"), "{ran:?}");
    }
}

#[test]
fn usage_errors_exit_with_two() {
    for arguments in [
        &["run", "debian:12", "--no-such-flag", "--", "true"][..],
        &["run", "debian:12", "--vcpu-count", "many", "--", "true"],
        &["run", "debian:12", "--env", "NOVALUE", "--", "true"],
        &["run", "debian:12", "--engine", "xen", "--", "true"],
        &["env"],
        &["nonsense"],
        &["workspace"],
        &["workspace", "create"],
        &["workspace", "create", "debian:12", "--json", "--id-only"],
        &["workspace", "create", "debian:12", "--network-policy", "all"],
        &["workspace", "create", "debian:12", "--seed-filter", "git"],
        &["workspace", "create", "debian:12", "--seed-path", ".", "--from-snapshot", "a:b"],
        &["workspace", "create", "debian:12", "--ttl-seconds", "-1"],
        &["workspace", "exec", "fix", "--shell", "true", "--", "true"],
        &["workspace", "exec", "fix", "--env", "NOVALUE", "--", "true"],
        &["workspace", "exec", "fix", "-t", "--json", "--", "true"],
        &["workspace", "sync", "push", "fix"],
        &["workspace", "sync", "pull", "fix", "src"],
        &["workspace", "export", "fix", "src"],
        &["workspace", "file", "read", "fix", "x", "--json", "--content-only"],
        &["workspace", "file", "write", "fix", "x"],
        &["workspace", "file", "write", "fix", "x", "--text", "a", "--stdin"],
        &["workspace", "patch", "apply", "fix"],
        &["workspace", "patch", "apply", "fix", "--patch-file", ""],
        &["workspace", "diff", "fix", "--stat", "--name-only"],
        &["workspace", "snapshot", "create", "fix"],
        &["workspace", "delete"],
        &["workspace", "delete", "fix", "--all"],
    ] {
        assert_eq!(Pyro::new().run(arguments).code, Some(2), "{arguments:?}");
    }
}

#[test]
fn an_unknown_environment_is_told_with_the_nearest_name() {
    let ran = Pyro::new().run(&["run", "debain:12", "--", "true"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("[error] unknown environment 'debain:12'"), "{ran:?}");
    assert!(ran.stderr.contains("debian:12"), "{ran:?}");
}

#[test]
fn json_errors_are_one_object_on_standard_output() {
    let ran = Pyro::new().run(&["run", "--json", "debian:12", "--mem-mib", "1", "--", "true"]);
    let value: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(1), ""));
    assert_eq!(value["ok"], false);
    assert_eq!(value["error"]["code"], "out_of_range");
    assert_eq!(value["error"]["blame"], "caller");
}

#[test]
fn network_rules_that_cannot_be_meant_are_refused_with_a_hint() {
    for (arguments, message) in [
        (
            &["run", "debian:12", "--allow", "a.example", "--", "true"][..],
            "need a network policy other than off",
        ),
        (
            &["workspace", "create", "debian:12", "--allow-only", "a.example"],
            "need a network policy other than off",
        ),
        (
            &["run", "debian:12", "--network", "--allow", "https://a.example/b", "--", "true"],
            "invalid network rule 'https://a.example/b' for --allow",
        ),
        (
            &["workspace", "create", "debian:12", "--network-policy", "egress", "--deny", "a*.example"],
            "invalid network rule 'a*.example' for --deny",
        ),
        (
            &["run", "debian:12", "--egress-limit", "1M", "--", "true"],
            "an egress limit needs a network policy other than off",
        ),
        (
            &["run", "debian:12", "--network", "--network-rules", "/no/such/file", "--", "true"],
            "cannot read the file of network rules '/no/such/file'",
        ),
    ] {
        let ran = Pyro::new().run(arguments);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains(message), "{ran:?}");
    }
}

#[test]
fn a_network_check_tells_the_rule_and_by_its_exit_code_whether_it_is_allowed() {
    let check = |arguments: &[&str]| Pyro::new().run(&[&["network", "check"], arguments].concat());
    let denied = check(&["10.0.0.5:5432"]);
    let text = "tcp://10.0.0.5:5432: denied: its address is not public (private)\n\
                allow with: --allow tcp://10.0.0.5:5432\n";
    assert_eq!((denied.code, denied.stdout.as_str()), (Some(1), text));
    let allowed = check(&["--allow", "10.0.0.0/8", "10.0.0.5:5432", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&allowed.stdout).unwrap();
    assert_eq!(
        (allowed.code, &value["allowed"], &value["rule"]),
        (Some(0), &true.into(), &"10.0.0.0/8".into())
    );
    let off = check(&["--network-policy", "off", "https://192.0.2.1/"]);
    assert!(off.code == Some(1) && off.stdout.contains("the network policy is off"), "{off:?}");
    let wrong = check(&["example"]);
    assert!(wrong.code == Some(1) && wrong.stderr.contains("[error] 'example' names no port"), "{wrong:?}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.toml");
    std::fs::write(&file, "allow-only = ['api.example:443']").unwrap();
    let listed = check(&["--network-rules", file.to_str().unwrap(), "https://other.example"]);
    assert!(listed.stdout.ends_with("allow with: --allow tcp://other.example:443\n"), "{listed:?}");
}

#[test]
fn a_state_directory_that_cannot_be_written_is_the_hosts_problem() {
    let pyro = Pyro::new();
    let file = pyro.state.path().join("file");
    std::fs::write(&file, "").unwrap();
    let mut command = pyro.command(&["run", "debian:12", "--", "true"]);
    let ran = support::Ran::from(command.env("PYRO_STATE_DIR", file.join("below")).output().unwrap());
    assert_eq!(ran.code, Some(5), "{ran:?}");
    assert!(ran.stderr.contains("[error] "), "{ran:?}");
}

#[test]
fn a_broken_configuration_file_is_named() {
    let pyro = Pyro::new();
    let path = pyro.state.path().join("config.toml");
    std::fs::write(&path, "engine = 7\n").unwrap();
    let ran = support::Ran::from(pyro.command(&["doctor"]).env("PYRO_CONFIG", &path).output().unwrap());
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("config.toml"), "{ran:?}");
}

#[test]
fn every_help_page_has_an_example() {
    for arguments in [
        &["--help"][..],
        &["run", "--help"],
        &["doctor", "--help"],
        &["demo", "--help"],
        &["completion", "--help"],
        &["env", "list", "--help"],
        &["env", "pull", "--help"],
        &["env", "inspect", "--help"],
        &["env", "prune", "--help"],
        &["env", "remove", "--help"],
        &["fsck", "--help"],
    ] {
        let ran = Pyro::new().run(arguments);
        assert_eq!(ran.code, Some(0));
        assert!(ran.stdout.contains("Example"), "{arguments:?}: {}", ran.stdout);
    }
}

#[test]
fn every_help_page_of_workspaces_has_an_example() {
    let mut pages = vec![vec!["workspace".to_owned()]];
    let mut seen = 0;
    while let Some(page) = pages.pop() {
        let arguments: Vec<&str> = page.iter().map(String::as_str).chain(["--help"]).collect();
        let ran = Pyro::new().run(&arguments);
        assert_eq!(ran.code, Some(0), "{page:?}");
        assert!(ran.stdout.contains("\nExample"), "{page:?}: {}", ran.stdout);
        seen += 1;
        let below = ran.stdout.lines().skip_while(|line| *line != "Commands:").skip(1);
        let below =
            below.take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
        pages.extend(below.filter(|name| *name != "help").map(|name| {
            let mut child = page.clone();
            child.push(name.to_owned());
            child
        }));
    }
    assert!(seen > 30, "only {seen} pages were found");
}

#[test]
fn an_unknown_workspace_command_is_told_with_the_nearest_name() {
    let ran = Pyro::new().run(&["workspace", "snaphot", "fix"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("'snapshot'"), "{ran:?}");
}

#[test]
fn workspace_arguments_are_refused_before_anything_is_made() {
    let create = ["workspace", "create", "debian:12"];
    let exec = ["workspace", "exec", "fix"];
    for (command, rest, text) in [
        (&create[..], &["--label", "novalue"][..], "workspace labels must use KEY=VALUE, not 'novalue'"),
        (&create, &["--secret", "=x"], "workspace secrets must use NAME=VALUE"),
        (&create, &["--secret-file", "A"], "workspace secret files must use NAME=PATH, not 'A'"),
        (
            &create,
            &["--secret", "PYRO_TEST_NOT_SET"],
            "secret 'PYRO_TEST_NOT_SET' has no value: the environment variable PYRO_TEST_NOT_SET is not set",
        ),
        (&create, &["--from-snapshot", "fix"], "--from-snapshot must use WORKSPACE:SNAPSHOT, not 'fix'"),
        (&exec, &[], "command is required after `--`"),
        (&exec, &["--timeout-seconds", "0", "--", "a"], "timeout_seconds must be between 1 and 86400, not 0"),
        (
            &exec,
            &["--secret-env", "=X", "--", "a"],
            "workspace secret env mappings must name a secret, not '=X'",
        ),
        (
            &exec,
            &["--secret-env", "A=", "--", "a"],
            "workspace secret env mappings must name an environment variable, not 'A='",
        ),
        (
            &exec,
            &["--secret-env", "A", "--secret-env", "A=B", "--", "a"],
            "workspace secret env mapping references 'A' more than once",
        ),
        (
            &["workspace", "update", "fix"],
            &["--clear-label", ""],
            "workspace clear-label values must not be empty",
        ),
        (
            &["workspace", "file", "write", "fix", "x"],
            &["--text-file", "/no/such/file"],
            "--text-file file not found: /no/such/file",
        ),
        (
            &["workspace", "file", "write", "fix", "x"],
            &["--text-file", "/"],
            "--text-file must point to a file, not a directory: /",
        ),
    ] {
        let arguments: Vec<&str> = command.iter().chain(rest).copied().collect();
        assert_eq!(refused(&arguments), (Some(1), format!("[error] {text}")), "{arguments:?}");
    }
}

#[test]
fn options_stand_before_and_after_a_workspace() {
    for arguments in [
        &["workspace", "exec", "--json", "fix", "--timeout-seconds", "0", "--", "true"][..],
        &["workspace", "exec", "fix", "--timeout-seconds", "0", "--json", "--", "true"],
        &["workspace", "exec", "--json", "--timeout-seconds", "0", "fix", "--", "true"],
    ] {
        let ran = Pyro::new().run(arguments);
        let value: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(1), ""), "{arguments:?}");
        assert_eq!(value["error"]["code"], "out_of_range");
    }
}

#[test]
fn what_could_be_a_secrets_value_is_not_repeated() {
    let ran = Pyro::new().run(&["workspace", "create", "debian:12", "--secret", "hunter two"]);
    assert_eq!(ran.code, Some(1));
    assert!(!format!("{ran:?}").contains("hunter"), "{ran:?}");
}

#[test]
fn an_environment_that_is_not_installed_is_cold() {
    let (pyro, cache) = (Pyro::new(), tempfile::tempdir().unwrap());
    let doctor = |name: &str| {
        let mut command = pyro.command(&["doctor", "--json", "--environment", name]);
        let output = command.env("PYRO_ENVIRONMENT_CACHE_DIR", cache.path()).output().unwrap();
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let readiness = &doctor("debian:12")["readiness"];
    assert_eq!(readiness["state"], "cold");
    assert_eq!(readiness["reasons"], serde_json::json!(["it is not installed"]));
    assert_eq!(doctor("debian:no such")["error"]["code"], "unknown_environment");
    assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0, "looking makes nothing");
}

#[test]
fn completion_names_the_commands() {
    let ran = Pyro::new().run(&["completion", "bash"]);
    assert!(ran.stdout.contains("doctor") && ran.stdout.contains("env"), "{ran:?}");
    assert!(!ran.stdout.contains("supervise-machine "), "hidden commands stay hidden");
}

#[test]
fn manual_pages_are_written_where_they_are_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let ran = Pyro::new().run(&["man", dir.path().to_str().unwrap()]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(0), "", ""));
    let page = std::fs::read_to_string(dir.path().join("pyro-workspace-create.1")).unwrap();
    assert!(page.contains("pyro workspace create debian:12 \\-\\-seed\\-path ./repo"), "{page}");
    let ran = Pyro::new().run(&["man", dir.path().join("pyro.1").to_str().unwrap()]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
}
