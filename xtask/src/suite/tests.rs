use super::*;

#[test]
fn cargo_messages_name_the_test_binaries_in_order_of_ring() {
    let messages = r#"
not json
{"reason":"compiler-artifact","manifest_path":"/s/crates/a/Cargo.toml","target":{"name":"guest","kind":["test"]},"profile":{"test":true},"executable":"/t/guest-1"}
{"reason":"compiler-artifact","manifest_path":"/s/crates/a/Cargo.toml","target":{"name":"a","kind":["lib"]},"profile":{"test":true},"executable":"/t/a-1"}
{"reason":"compiler-artifact","manifest_path":"/s/crates/a/Cargo.toml","target":{"name":"a","kind":["bin"]},"profile":{"test":false},"executable":"/t/a"}
{"reason":"compiler-artifact","manifest_path":"/s/crates/a/Cargo.toml","target":{"name":"a","kind":["lib"]},"profile":{"test":false},"executable":null}
{"reason":"build-finished","success":true}
"#;
    let binaries = parse_messages(messages).unwrap();
    let names: Vec<_> = binaries.iter().map(|binary| (binary.name.as_str(), binary.ring)).collect();
    assert_eq!(names, [("a lib a", Ring::Pure), ("a test guest", Ring::Guest)]);
    assert_eq!(binaries[0].directory, Path::new("/s/crates/a"));
}

#[test]
fn a_message_of_unknown_form_is_an_error() {
    assert!(parse_messages(r#"{"executable":7}"#).is_err());
}

#[test]
fn rings_are_told_by_kind_and_name() {
    assert_eq!(Ring::of("bin", "guest"), Ring::Pure);
    assert_eq!(Ring::of("test", "cli"), Ring::Edges);
    assert_eq!(Ring::of("test", "simulation_disk"), Ring::Simulation);
    assert_eq!(Ring::of("test", "guest_run"), Ring::Guest);
    assert_eq!(Ring::from_number(3), Some(Ring::Guest));
    assert_eq!(Ring::from_number(4), None);
}

fn times(run: u64, linger: u64) -> Times {
    Times { run: Duration::from_millis(run), linger: Duration::from_millis(linger) }
}

#[test]
fn a_binary_that_leaves_a_process_with_its_output_fails_and_is_not_waited_for() {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "sleep 60 & echo 'test result: ok. 4 passed; 0 failed; 1 ignored'; echo $! >&2"]);
    let left = tempfile::NamedTempFile::new().unwrap();
    command.stderr(left.reopen().unwrap());
    let started = Instant::now();
    let counts =
        counted("leaves one", &mut command, Reader::default(), times(60_000, 50), Show::Alone).unwrap();
    assert_eq!(counts, Counts { passed: 4, failed: 1, skipped: 1 });
    assert!(started.elapsed() < Duration::from_secs(60));
    let pid = std::fs::read_to_string(left.path()).unwrap();
    assert!(Command::new("kill").arg(pid.trim()).status().unwrap().success());
}

#[test]
fn a_hung_binary_is_killed_and_counts_as_failed() {
    let mut command = Command::new("/bin/sleep");
    command.arg("60");
    let counts = counted("hung", &mut command, Reader::default(), times(50, 60_000), Show::Beside).unwrap();
    assert_eq!(counts, Counts { passed: 0, failed: 1, skipped: 0 });
}

#[test]
fn the_lines_of_a_finished_binary_are_counted() {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "echo 'test result: ok. 4 passed; 0 failed; 1 ignored'; exit 0"]);
    let counts =
        counted("fine", &mut command, Reader::default(), times(60_000, 60_000), Show::Alone).unwrap();
    assert_eq!(counts, Counts { passed: 4, failed: 0, skipped: 1 });
}
