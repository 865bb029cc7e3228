//! What workspaces cost, measured as a caller sees it: the built `pyro`, real guests, wall time.
//!
//! Each scenario has workspaces of its own, so that one that fails leaves the others' figures standing.

pub(super) mod client;
mod large;
mod trees;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::table::{Bound, Table};
use crate::{output, steps};
use client::Client;

/// Repetitions of what takes a moment, and of what takes seconds.
pub(super) const QUICK_RUNS: u32 = 5;
pub(super) const SLOW_RUNS: u32 = 3;
/// Files of the small and the large seed.
const SEEDS: [usize; 2] = [10, 10_000];
/// What the guest writes before a snapshot, in pieces of 8 MiB.
const FILL_PIECES: u32 = 32;
/// Files that each diff must find changed.
const CHANGED_FILES: u64 = 10;
/// The tree that is pushed and exported: 256 files of 256 KiB.
const SYNC_FILES: usize = 256;
const SYNC_FILE_BYTES: usize = 256 << 10;
const SYNC_BYTES: u64 = (SYNC_FILES * SYNC_FILE_BYTES) as u64;

/// A part of the measurement; its name stands in the table where it fails.
type Scenario = fn(&Client, &Files, &mut Table) -> Result<()>;

const SCENARIOS: [(&str, Scenario); 8] = [
    ("workspace create", create),
    ("workspace exec", exec),
    ("workspace snapshot create", snapshot),
    ("workspace reset", reset),
    ("workspace fork", fork),
    ("workspace stop and start", stop_and_start),
    ("workspace diff", diff),
    ("workspace sync push and export", sync_and_export),
];

/// Directories of the host that workspaces begin with or take.
struct Files {
    seeds: [PathBuf; 2],
    tree: PathBuf,
    /// Where an export goes.
    exported: PathBuf,
}

impl Files {
    fn make(place: &Path) -> Result<Self> {
        let seeds = SEEDS.map(|count| place.join(format!("seed-{count}")));
        for (seed, count) in seeds.iter().zip(SEEDS) {
            trees::write(seed, count, 100)?;
        }
        let tree = place.join("tree");
        trees::write(&tree, SYNC_FILES, SYNC_FILE_BYTES)?;
        Ok(Self { seeds, tree, exported: place.join("exported") })
    }
}

/// Measures every scenario, within the client's time. What fails is a row without a figure, and an error at
/// the end. Nothing stays in `place`, unless a workspace cannot be deleted.
pub(super) fn measure(pyro: &Path, place: &Path, table: &mut Table) -> Result<()> {
    let client = Client::open(pyro, &place.join("workspaces"))?;
    let measured = measure_all(&client, table);
    let closed = steps::call("delete the workspaces", || client.close());
    match (measured, closed) {
        (Err(error), Err(left)) => Err(error.context(format!("{left:#}"))),
        (measured, closed) => measured.and(closed),
    }
}

/// The same for a tree of very many files, which takes minutes by itself.
pub(super) fn measure_large(pyro: &Path, place: &Path, table: &mut Table) -> Result<()> {
    let client = Client::open(pyro, &place.join("large workspaces"))?;
    let measured = steps::call("workspace with a large tree", || large::measure(&client, table));
    measured.and(steps::call("delete the workspaces", || client.close()))
}

fn measure_all(client: &Client, table: &mut Table) -> Result<()> {
    let files = steps::call("trees for workspaces", || Files::make(client.place()))?;
    let mut failed = Vec::new();
    for (name, scenario) in SCENARIOS {
        if let Err(error) = steps::call(name, || scenario(client, &files, table)) {
            output::error(&error.context(name));
            table.missing(name, "failed");
            failed.push(name);
        }
    }
    ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}

fn create(client: &Client, files: &Files, table: &mut Table) -> Result<()> {
    let mut seconds = [0.0; 2];
    for (at, seed) in files.seeds.iter().enumerate() {
        let words = ["create", "debian:12", "--id-only", "--seed-path", text(seed)?];
        seconds[at] = median_of(SLOW_RUNS, |_| {
            let ran = client.run(&words)?;
            client.run(&["delete", ran.stdout.trim()])?;
            Ok(ran.took)
        })?;
        add_milliseconds(table, &format!("workspace create, seed of {} files", SEEDS[at]), seconds[at]);
    }
    add_ratio(table, seconds);
    Ok(())
}

/// What `workspace exec --json` tells of the agent's own measurement.
#[derive(Deserialize)]
struct ExecRecord {
    duration_ms: u64,
}

fn exec(client: &Client, _: &Files, table: &mut Table) -> Result<()> {
    client.in_workspace(|id| {
        let (mut outside, mut inside, mut between) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..QUICK_RUNS {
            let ran = client.run(&["exec", id, "--json", "--", "true"])?;
            let record: ExecRecord = parse(&ran.stdout)?;
            let agent = Duration::from_millis(record.duration_ms);
            outside.push(ran.took);
            inside.push(agent);
            between.push(ran.took.saturating_sub(agent));
        }
        add_milliseconds(table, "workspace exec true, at the client", median(&outside)?);
        add_milliseconds(table, "workspace exec true, in the guest", median(&inside)?);
        add_milliseconds(table, "workspace exec true, overhead", median(&between)?);
        Ok(())
    })
}

fn snapshot(client: &Client, _: &Files, table: &mut Table) -> Result<()> {
    // Bytes that are no zeros, which a disk could leave out; flushed, so that the snapshot's own time is told.
    let fill = format!(
        "set -e; head -c 8388608 /dev/urandom > /var/tmp/piece; \
         for n in $(seq {FILL_PIECES}); do cat /var/tmp/piece; done > /workspace/filled; sync"
    );
    client.in_workspace(|id| {
        let take = |name: String| client.run(&["snapshot", "create", id, &name]);
        let empty = median_of(QUICK_RUNS, |run| Ok(take(format!("empty-{run}"))?.took))?;
        add_milliseconds(table, "workspace snapshot create, nothing written", empty);
        let filled = median_of(SLOW_RUNS, |run| {
            client.shell(id, &fill)?;
            Ok(take(format!("filled-{run}"))?.took)
        })?;
        add_milliseconds(table, "workspace snapshot create, 256 MiB written", filled);
        add_ratio(table, [empty, filled]);
        Ok(())
    })
}

fn reset(client: &Client, _: &Files, table: &mut Table) -> Result<()> {
    client.in_workspace(|id| {
        let seconds = median_of(SLOW_RUNS, |_| Ok(client.run(&["reset", id])?.took))?;
        add_milliseconds(table, "workspace reset", seconds);
        Ok(())
    })
}

fn fork(client: &Client, _: &Files, table: &mut Table) -> Result<()> {
    client.in_workspace(|id| {
        let seconds = median_of(SLOW_RUNS, |_| {
            let ran = client.run(&["fork", id, "--id-only"])?;
            client.run(&["delete", ran.stdout.trim()])?;
            Ok(ran.took)
        })?;
        add_milliseconds(table, "workspace fork", seconds);
        Ok(())
    })
}

fn stop_and_start(client: &Client, _: &Files, table: &mut Table) -> Result<()> {
    client.in_workspace(|id| {
        let (mut stops, mut starts, mut both) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..SLOW_RUNS {
            let stop = client.run(&["stop", id])?.took;
            let start = client.run(&["start", id])?.took;
            stops.push(stop);
            starts.push(start);
            both.push(stop + start);
        }
        add_milliseconds(table, "workspace stop", median(&stops)?);
        add_milliseconds(table, "workspace start", median(&starts)?);
        add_milliseconds(table, "workspace stop and start", median(&both)?);
        Ok(())
    })
}

/// What `workspace diff --json` tells of how much it found.
#[derive(Deserialize)]
struct Diff {
    summary: DiffSummary,
}

#[derive(Deserialize)]
struct DiffSummary {
    total: u64,
}

fn diff(client: &Client, _: &Files, table: &mut Table) -> Result<()> {
    let mut seconds = [0.0; 2];
    // Directories, and files in each.
    for (at, (directories, files)) in [(1, 10), (100, 1000)].into_iter().enumerate() {
        seconds[at] = client.in_workspace(|id| time_diff(client, id, directories, files))?;
        let count = directories * files;
        let name = format!("workspace diff, {CHANGED_FILES} files of {count} changed");
        add_milliseconds(table, &name, seconds[at]);
    }
    add_ratio(table, seconds);
    Ok(())
}

/// Makes the tree in the guest, by one process a directory; keeps it as a snapshot; compares with that.
fn time_diff(client: &Client, id: &str, directories: u32, files: u32) -> Result<f64> {
    client.shell(
        id,
        &format!(
            "set -e; for d in $(seq {directories}); do \
             mkdir d$d; seq {files} | split -l 1 -a 3 -d - d$d/f; done; sync"
        ),
    )?;
    client.run(&["snapshot", "create", id, "tree"])?;
    client.shell(
        id,
        &format!("set -e; for n in $(seq 0 {}); do echo changed >> d1/f00$n; done", CHANGED_FILES - 1),
    )?;
    median_of(SLOW_RUNS, |_| {
        let ran = client.run(&["diff", id, "--against", "tree", "--json"])?;
        let found = parse::<Diff>(&ran.stdout)?.summary.total;
        ensure!(found == CHANGED_FILES, "the diff tells {found} changes of {CHANGED_FILES}");
        Ok(ran.took)
    })
}

/// What `workspace sync push --json` tells of how much it sent.
#[derive(Deserialize)]
struct Synced {
    workspace_sync: Transferred,
}

/// What `workspace export --json` tells of how much it took.
#[derive(Deserialize)]
struct Transferred {
    bytes_written: u64,
}

fn sync_and_export(client: &Client, files: &Files, table: &mut Table) -> Result<()> {
    let whole = |sent: Transferred| {
        let bytes = sent.bytes_written;
        ensure!(bytes == SYNC_BYTES, "{bytes} bytes were copied of {SYNC_BYTES}");
        Ok(())
    };
    client.in_workspace(|id| {
        let push = ["sync", "push", id, text(&files.tree)?, "--dest", "tree", "--json"];
        let seconds = median_of(SLOW_RUNS, |_| {
            let ran = client.run(&push)?;
            whole(parse::<Synced>(&ran.stdout)?.workspace_sync)?;
            Ok(ran.took)
        })?;
        add_speed(table, "workspace sync push, tree of 64 MiB", seconds);
        let export = ["export", id, "tree", "--output", text(&files.exported)?, "--json"];
        let seconds = median_of(SLOW_RUNS, |_| {
            let ran = client.run(&export)?;
            whole(parse(&ran.stdout)?)?;
            std::fs::remove_dir_all(&files.exported).context("cannot remove the exported tree")?;
            Ok(ran.took)
        })?;
        add_speed(table, "workspace export, tree of 64 MiB", seconds);
        Ok(())
    })
}

/// The median of `runs` times, in seconds; `once` is told which run it is.
pub(super) fn median_of(runs: u32, once: impl FnMut(u32) -> Result<Duration>) -> Result<f64> {
    median(&(0..runs).map(once).collect::<Result<Vec<_>>>()?)
}

/// The middle one, or the mean of the middle two; in seconds.
pub(super) fn median(times: &[Duration]) -> Result<f64> {
    let mut sorted = times.to_vec();
    sorted.sort();
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (Some(one), 1) => Ok(one.as_secs_f64()),
        (Some(upper), _) => Ok((sorted[middle - 1] + *upper).as_secs_f64() / 2.0),
        (None, _) => bail!("nothing was timed"),
    }
}

pub(super) fn parse<'a, T: Deserialize<'a>>(stdout: &'a str) -> Result<T> {
    serde_json::from_str(stdout).with_context(|| format!("pyro's result is of unknown form: {stdout:.200}"))
}

/// A path as an argument.
fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

pub(super) fn add_milliseconds(table: &mut Table, name: &str, seconds: f64) {
    table.add(name, seconds * 1000.0, "ms", Bound::None);
}

/// The large case over the small one.
fn add_ratio(table: &mut Table, [small, large]: [f64; 2]) {
    table.add("ratio of the two", large / small, "", Bound::None);
}

/// Of [`SYNC_BYTES`] in `seconds`.
fn add_speed(table: &mut Table, name: &str, seconds: f64) {
    table.add(name, SYNC_BYTES as f64 / 1e6 / seconds, "MB/s", Bound::None);
}

#[cfg(test)]
mod tests;
