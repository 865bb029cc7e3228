//! Runs one command in a fresh machine and shows its output.
//!
//! `cargo run -p pyro-core --example run` after `cargo xtask demo` has built everything it needs.

#![allow(clippy::print_stdout)] // an example's output is its purpose

use pyro_core::exec::{ExecEvent, ExecRequest};
use pyro_core::machine::{BootImage, EngineChoice, Machine, MachineId, MachineRequest};
use pyro_core::{Config, environments};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a front end knows: here, the places that a build directory uses.
fn config() -> Result<Config, Box<dyn std::error::Error>> {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let programs = build.join("release");
    let home = PathBuf::from(std::env::var_os("HOME").ok_or("HOME is not set")?);
    Ok(Config {
        environment_cache_dir: home.join(".cache/pyro-mcp/environments"),
        state_dir: home.join(".local/state/pyro-mcp"),
        guest_bundle_dir: Some(build.join("guest")),
        vmm_binary: programs.join("pyro-vmm"),
        // An embedder can be its own supervisor: any program that calls `supervisor::serve_stdin`.
        supervisor_command: vec![programs.join("pyro"), PathBuf::from("supervise-machine")],
        program_path: std::env::var_os("PATH").unwrap_or_default(),
        engine: EngineChoice::Auto,
        registry: Default::default(),
        host_proxy: Default::default(),
        fault: None,
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = config()?;
    let environment = environments::ensure(&config, "debian:12", Arc::new(environments::Silent)).await?;
    let image = BootImage { kernel: environment.kernel.clone(), rootfs: environment.rootfs.clone() };
    let mut machine =
        Machine::start(&config, MachineId::random(), &image, &MachineRequest::default()).await?;
    let (_input, mut output) = machine.exec(&ExecRequest::shell("uname -sr; git --version")).await?;
    let exit = loop {
        match output.next().await? {
            ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => {
                print!("{}", String::from_utf8_lossy(&bytes))
            }
            ExecEvent::Exited(exit) => break exit,
        }
    };
    machine.stop().await?;
    println!("exit code {} after {} ms", exit.status(), exit.duration_ms);
    Ok(())
}
