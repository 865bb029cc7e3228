use super::*;

fn milliseconds(times: &[u64]) -> Vec<Duration> {
    times.iter().copied().map(Duration::from_millis).collect()
}

#[test]
fn the_median_is_the_middle_of_the_sorted_times() {
    assert_eq!(median(&milliseconds(&[900, 1, 500])).unwrap(), 0.5);
    assert_eq!(median(&milliseconds(&[4000, 1000, 2000, 3000])).unwrap(), 2.5);
    assert_eq!(median(&milliseconds(&[250])).unwrap(), 0.25);
    assert!(median(&[]).is_err());
}

#[test]
fn a_failing_run_ends_the_repetition() {
    let mut runs = Vec::new();
    let failed = median_of(5, |run| {
        runs.push(run);
        ensure!(run < 1, "no");
        Ok(Duration::ZERO)
    });
    assert_eq!(failed.unwrap_err().to_string(), "no");
    assert_eq!(runs, [0, 1]);
}

#[test]
fn results_of_the_commands_are_read() {
    let record: ExecRecord = parse(r#"{"command": "true", "duration_ms": 7, "exit_code": 0}"#).unwrap();
    assert_eq!(record.duration_ms, 7);
    let diff: Diff = parse(r#"{"changed": true, "summary": {"added": 0, "total": 10}}"#).unwrap();
    assert_eq!(diff.summary.total, 10);
    let synced: Synced = parse(r#"{"workspace_sync": {"bytes_written": 5, "mode": "directory"}}"#).unwrap();
    assert_eq!(synced.workspace_sync.bytes_written, 5);
    let error = parse::<ExecRecord>("Workspace ID: 1").err().unwrap().to_string();
    assert!(error.ends_with("unknown form: Workspace ID: 1"), "{error}");
}

#[test]
fn figures_have_units_and_ratios_of_large_to_small() {
    let mut table = Table::new("a machine".into());
    add_milliseconds(&mut table, "few", 0.5);
    add_milliseconds(&mut table, "many", 1.0);
    add_ratio(&mut table, [0.5, 1.0]);
    add_speed(&mut table, "push", 2.0);
    let measured: Vec<String> = table.lines()[4..]
        .iter()
        .map(|line| line.split('|').nth(2).unwrap_or_default().trim().to_owned())
        .collect();
    assert_eq!(measured, ["500 ms", "1000 ms", "2.00", "33.55 MB/s"]);
}
