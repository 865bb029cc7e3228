//! What services cost, measured as a caller sees it: the built `pyro`, real guests, wall time.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use super::table::{Bound, Table};
use super::workspaces::client::Client;
use super::workspaces::{QUICK_RUNS, SLOW_RUNS, add_milliseconds, median, median_of};
use crate::steps;

/// What a service prints for its log: beyond what is kept of it, so that files are rotated as well.
const LOG_BYTES: u64 = 128 << 20;

/// Measures a start, a stop, and a log's throughput, in one workspace.
pub(super) fn measure(pyro: &Path, place: &Path, table: &mut Table) -> Result<()> {
    let client = Client::open(pyro, &place.join("services"))?;
    let measured = steps::call("services", || client.in_workspace(|id| measure_in(&client, id, table)));
    let closed = steps::call("delete the workspaces", || client.close());
    match (measured, closed) {
        (Err(error), Err(left)) => Err(error.context(format!("{left:#}"))),
        (measured, closed) => measured.and(closed),
    }
}

fn measure_in(client: &Client, id: &str, table: &mut Table) -> Result<()> {
    let (mut starts, mut stops) = (Vec::new(), Vec::new());
    for _ in 0..QUICK_RUNS {
        starts.push(client.run(&["service", "start", id, "idle", "--", "sleep", "1000"])?.took);
        stops.push(client.run(&["service", "stop", id, "idle"])?.took);
    }
    add_milliseconds(table, "service start", median(&starts)?);
    add_milliseconds(table, "service stop", median(&stops)?);
    let dd = format!("dd if=/dev/zero bs=64k count={} status=none", LOG_BYTES >> 16);
    let seconds = median_of(SLOW_RUNS, |_| {
        let started = Instant::now();
        client.run(&["service", "start", id, "loud", "--shell", &dd])?;
        client.run(&["service", "wait", id, "loud", "--until", "ended"])?;
        Ok(started.elapsed())
    })?;
    table.add(
        "service log, 64 KiB writes",
        LOG_BYTES as f64 / super::MEBIBYTE / seconds,
        "MiB/s",
        Bound::None,
    );
    Ok(())
}
