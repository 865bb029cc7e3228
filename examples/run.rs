//! Runs one command in a fresh machine and shows its output.
//!
//! `cargo run -p pyro-core --example run` after `cargo xtask demo` has built everything it needs.

#![allow(clippy::print_stdout)] // an example's output is its purpose

mod places;

use pyro_core::environments;
use pyro_core::exec::{ExecEvent, ExecRequest};
use pyro_core::machine::{BootImage, Machine, MachineId, MachineRequest};
use std::sync::Arc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = places::config()?;
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
