//! Makes a workspace, changes it, looks at the difference, goes back, and deletes it.
//!
//! `cargo run -p pyro-core --example workspace` after `cargo xtask demo` has built everything it needs.

#![allow(clippy::print_stdout)] // an example's output is its purpose

mod places;

use pyro_core::environments::Silent;
use pyro_core::exec::{ExecEvent, ExecRequest};
use pyro_core::workspace::{Captured, CreateWorkspace, Pyro, WorkspaceCommand};
use std::sync::Arc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pyro = Pyro::open(places::config()?)?;
    let request = CreateWorkspace { mem_mib: 256, ..CreateWorkspace::new("debian:12") };
    let made = pyro.create(&request, Arc::new(Silent), &|step| println!("{step:?}")).await?;
    let done = change(&pyro, &made.workspace_id).await;
    // What was made is removed whatever happened.
    pyro.delete(&made.workspace_id).await?;
    done
}

async fn change(pyro: &Pyro, id: &str) -> Result<(), Box<dyn std::error::Error>> {
    pyro.file_write(id, "greeting.txt", b"hello\n").await?;
    println!("{}", run(pyro, id, "cat greeting.txt; uname -r").await?);

    let diff = pyro.diff(id, "baseline").await?;
    println!("{} changed\n{}", diff.summary.total, String::from_utf8_lossy(&diff.patch));

    let reset = pyro.reset(id, "baseline").await?;
    println!("back at {}", reset.workspace_reset.snapshot_name);
    println!("changed: {}", pyro.diff(id, "baseline").await?.changed);
    Ok(())
}

/// Runs shell text to its end and returns what it printed, which goes on record with its exit code.
async fn run(pyro: &Pyro, id: &str, text: &str) -> Result<String, Box<dyn std::error::Error>> {
    let command = WorkspaceCommand { exec: ExecRequest::shell(text), shown_command: text.to_owned() };
    let (running, _input, mut output) = pyro.exec(id, &command).await?;
    let mut captured = Captured::default();
    let exit = loop {
        match output.next().await? {
            ExecEvent::Stdout(bytes) => captured.stdout.extend(bytes),
            ExecEvent::Stderr(bytes) => captured.stderr.extend(bytes),
            ExecEvent::Exited(exit) => break exit,
        }
    };
    Ok(running.finish(&exit, captured).await?.stdout)
}
