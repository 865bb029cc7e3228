//! How long a machine's disk takes to make over images of several sizes, each with the same data: one line
//! `SIZE MICROSECONDS` each, the best of many. `cargo xtask bench` runs it.

#![allow(clippy::print_stdout)] // its output is its purpose

use pyro_vmm::block::{Durability, Layers, Overlay};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Tries per size; creation takes well under a millisecond.
const TRIES: u32 = 50;
/// Data that every image holds, so that images differ in size alone.
const DATA: &[u8] = &[0x5a; 1 << 20];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (name, size_bytes) in [("1 MiB image", 1 << 20), ("1 GiB image", 1 << 30), ("64 GiB image", 64 << 30)]
    {
        let base = tempfile::tempfile()?;
        base.write_all_at(DATA, 0)?;
        base.set_len(size_bytes)?;
        let mut best = Duration::MAX;
        for _ in 0..TRIES {
            let (base, delta) = (base.try_clone()?, tempfile::tempfile()?);
            let begun = Instant::now();
            let disk =
                Overlay::create(Layers::raw(base)?, delta, size_bytes, Durability::Ephemeral, u64::MAX)?;
            best = best.min(begun.elapsed());
            drop(disk);
        }
        println!("{name} {}", best.as_secs_f64() * 1e6);
    }
    Ok(())
}
