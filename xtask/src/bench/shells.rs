//! What a shell's round trip costs, measured as a caller sees it: the built `pyro`, a real guest, wall time.

use std::path::Path;

use anyhow::Result;
use serde::Deserialize;

use super::table::Table;
use super::workspaces::client::Client;
use super::workspaces::{add_milliseconds, median_of, parse};
use crate::steps;

const RUNS: u32 = 20;

#[derive(Deserialize)]
struct Read {
    next_cursor: u64,
}

/// Nothing stays in `place`, unless the workspace cannot be deleted.
pub(super) fn measure(pyro: &Path, place: &Path, table: &mut Table) -> Result<()> {
    let client = Client::open(pyro, &place.join("shells"))?;
    let measured = steps::call("shells", || client.in_workspace(|id| round_trips(&client, id, table)));
    let closed = steps::call("delete the workspaces", || client.close());
    match (measured, closed) {
        (Err(error), Err(left)) => Err(error.context(format!("{left:#}"))),
        (measured, closed) => measured.and(closed),
    }
}

fn round_trips(client: &Client, id: &str, table: &mut Table) -> Result<()> {
    let opened = client.run(&["shell", "open", id, "--id-only"])?;
    add_milliseconds(table, "shell open", opened.took.as_secs_f64());
    let shell = opened.stdout.trim();
    let read = |cursor: u64, wait: &[&str]| {
        let cursor = cursor.to_string();
        client.run(&[&["shell", "read", id, shell, "--json", "--cursor", &cursor], wait].concat())
    };
    let mut cursor = parse::<Read>(&read(0, &["--wait-for-prompt"])?.stdout)?.next_cursor;
    let echo = median_of(RUNS, |run| {
        let typed = format!("#{run}#");
        let write = client.run(&["shell", "write", id, shell, "--no-newline", "--input", &typed])?;
        let got = read(cursor, &["--wait-for", &typed])?;
        cursor = parse::<Read>(&got.stdout)?.next_cursor;
        Ok(write.took + got.took)
    })?;
    add_milliseconds(table, "shell write, to its echo in shell read", echo);
    let printed = median_of(RUNS, |run| {
        let write =
            client.run(&["shell", "write", id, shell, "--input", &format!("\necho =$(({run}+1000))=")])?;
        let got = read(cursor, &["--wait-for", &format!("={}=", run + 1000)])?;
        cursor = parse::<Read>(&got.stdout)?.next_cursor;
        Ok(write.took + got.took)
    })?;
    add_milliseconds(table, "shell write, to its result in shell read", printed);
    let prompt = median_of(RUNS, |_| {
        let write = client.run(&["shell", "write", id, shell, "--input", "true"])?;
        let got = read(cursor, &["--plain", "--wait-for-prompt"])?;
        cursor = parse::<Read>(&got.stdout)?.next_cursor;
        Ok(write.took + got.took)
    })?;
    add_milliseconds(table, "shell write, to the next prompt in shell read", prompt);
    let closed = client.run(&["shell", "close", id, shell])?;
    add_milliseconds(table, "shell close", closed.took.as_secs_f64());
    Ok(())
}
