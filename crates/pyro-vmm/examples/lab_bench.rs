//! The native engine beside Firecracker, with one kernel, initramfs and disk image: how long each takes to a guest's
//! init and to its end, how often the guest is left on the way, and how fast disk and streams are. One line
//! `SIDE FIGURE VALUE` each. `cargo xtask bench --lab` runs it where time counts instructions.
//!
//! The counts are KVM's own, in debugfs, and the guest's share of the time comes from KVM's tracepoints; both must be
//! readable.

#![allow(clippy::print_stdout)] // its output is its purpose

#[path = "lab_bench/sides.rs"]
mod sides;
#[path = "lab_bench/trace.rs"]
mod trace;

use std::error::Error;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use sides::{Files, Side};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Boots from start to end of each side after one that is not counted: time that counts instructions differs little.
const BOOTS: u32 = 3;
/// Before a boot, for what the kernel still clears away of the machine before, its network namespace above all: nobody
/// is told when that is done. Idle time costs nothing where instructions are counted.
const SETTLING: Duration = Duration::from_millis(300);
/// Where KVM counts.
const COUNTS: &str = "/sys/kernel/debug/kvm";
/// What of it is told, as far as the processor has it.
const COUNTED: [&str; 7] =
    ["exits", "io_exits", "mmio_exits", "halt_exits", "irq_exits", "insn_emulation", "pf_taken"];
/// What one operation of the disk or of a stream moves.
struct Load {
    figure: &'static str,
    operation: u8,
    total: u64,
    chunk: u64,
}

const MIB: u64 = 1 << 20;
/// The first is for the sake of the guest's memory and the host's; what is written a second time finds its blocks made.
const LOADS: [Load; 10] = [
    Load { figure: "warm-up", operation: b'R', total: 48 * MIB, chunk: MIB },
    Load { figure: "read-sequential", operation: b'R', total: 48 * MIB, chunk: MIB },
    Load { figure: "read-random", operation: b'r', total: 8 * MIB, chunk: 4096 },
    Load { figure: "write-new", operation: b'N', total: 48 * MIB, chunk: MIB },
    Load { figure: "write-random", operation: b'w', total: 8 * MIB, chunk: 4096 },
    Load { figure: "write-sequential", operation: b'W', total: 48 * MIB, chunk: MIB },
    Load { figure: "rewrite-sequential", operation: b'W', total: 48 * MIB, chunk: MIB },
    Load { figure: "rewrite-random", operation: b'w', total: 8 * MIB, chunk: 4096 },
    Load { figure: "vsock-to-host", operation: b's', total: 32 * MIB, chunk: 64 << 10 },
    Load { figure: "vsock-to-guest", operation: b'g', total: 32 * MIB, chunk: 64 << 10 },
];

fn main() -> Result<()> {
    let paths: Vec<_> = std::env::args_os().skip(1).map(Into::into).collect();
    let usage = "usage: lab_bench VMM FIRECRACKER KERNEL INITRAMFS DISK boots|loads";
    let (files, part) = Files::of(paths).ok_or(usage)?;
    let steps: &[fn(&Files, Side) -> Result<()>] = match part.to_str() {
        Some("boots") => &[boots, counts, traced],
        Some("loads") => &[loads],
        _ => return Err(usage.into()),
    };
    prepare_disk(&files)?;
    for step in steps {
        for side in [Side::Firecracker, Side::Pyro] {
            step(&files, side)?;
        }
    }
    Ok(())
}

/// Has the disk's blocks in memory, and behind them a hole as large, as images have where nothing was written yet.
fn prepare_disk(files: &Files) -> Result<()> {
    let len = fs::read(&files.disk)?.len() as u64;
    fs::OpenOptions::new().write(true).open(&files.disk)?.set_len(2 * len)?;
    Ok(())
}

/// Nothing of what was before is left to be done.
fn settle() {
    rustix::fs::sync();
    std::thread::sleep(SETTLING);
}

fn tell(side: Side, figure: &str, value: impl std::fmt::Display) {
    println!("{} {figure} {value}", side.name());
}

/// Process start to init, and to the process's end.
fn boots(files: &Files, side: Side) -> Result<()> {
    sides::boot(files, side)?.end()?;
    let (mut to_init, mut to_end, mut counter) = (Duration::ZERO, Duration::ZERO, 0);
    for _ in 0..BOOTS {
        settle();
        let boot = sides::boot(files, side)?;
        let reached = boot.reached;
        counter = boot.counter;
        let ended = boot.end()?;
        println!(
            "# {} boots: init {} ms, end {} ms",
            side.name(),
            milliseconds(reached),
            milliseconds(ended)
        );
        to_init += reached;
        to_end += ended;
    }
    tell(side, "init-ms", milliseconds(to_init / BOOTS));
    tell(side, "end-ms", milliseconds(to_end / BOOTS));
    tell(side, "counter-at-init", counter);
    Ok(())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// What KVM has counted when init runs. No other machine does.
fn counts(files: &Files, side: Side) -> Result<()> {
    settle();
    let boot = sides::boot(files, side)?;
    for name in COUNTED {
        if let Ok(count) = fs::read_to_string(Path::new(COUNTS).join(name)) {
            tell(side, name, count.trim());
        }
    }
    boot.end()?;
    Ok(())
}

/// How much of the time to init was the guest's, and why it was left.
fn traced(files: &Files, side: Side) -> Result<()> {
    settle();
    let trace = trace::Trace::start()?;
    let boot = sides::boot(files, side)?;
    let offset = counter_offset()?;
    let text = trace.stop()?;
    let at_init = boot.counter.wrapping_sub(offset.cast_unsigned());
    boot.end()?;
    let summary = trace::Summary::of(&text, at_init);
    tell(side, "guest-instructions", summary.guest);
    tell(side, "entries", summary.entries);
    for (reason, sum) in summary.reasons {
        println!(
            "# {} left for {reason}: {} times, {} us outside",
            side.name(),
            sum.count,
            sum.outside / 1000
        );
    }
    Ok(())
}

/// What the only guest's time stamp counter has beside the host's.
fn counter_offset() -> Result<i64> {
    for entry in fs::read_dir(COUNTS)? {
        if let Ok(text) = fs::read_to_string(entry?.path().join("vcpu0/tsc-offset")) {
            return Ok(text.trim().parse()?);
        }
    }
    Err("KVM tells no offset of the guest's counter".into())
}

/// Disk and streams of one machine.
fn loads(files: &Files, side: Side) -> Result<()> {
    settle();
    let mut boot = sides::boot(files, side)?;
    for Load { figure, operation, total, chunk } in LOADS {
        let mut order = vec![operation];
        order.extend(total.to_le_bytes());
        order.extend(chunk.to_le_bytes());
        let begun = Instant::now();
        boot.host.write_all(&order)?;
        match operation {
            b's' => receive(&mut boot.host, total)?,
            b'g' => send(&mut boot.host, total)?,
            _ => {}
        }
        let mut nanoseconds = [0; 8];
        boot.host.read_exact(&mut nanoseconds)?;
        let here = begun.elapsed().as_secs_f64();
        let there = u64::from_le_bytes(nanoseconds) as f64 / 1e9;
        let rate = |seconds| total as f64 / MIB as f64 / seconds;
        tell(side, figure, rate(here));
        println!("# {} {figure} by the guest's clock: {}", side.name(), rate(there));
    }
    boot.end()?;
    Ok(())
}

/// What is read or written at once.
const PIECE: usize = 256 << 10;

fn receive(stream: &mut impl std::io::Read, total: u64) -> Result<()> {
    let mut piece = vec![0; PIECE];
    let mut left = total;
    while left > 0 {
        let most = PIECE.min(left as usize);
        match stream.read(&mut piece[..most])? {
            0 => return Err("the guest's stream ends early".into()),
            len => left -= len as u64,
        }
    }
    Ok(())
}

fn send(stream: &mut impl std::io::Write, total: u64) -> Result<()> {
    let piece = vec![1; PIECE];
    for _ in 0..total / PIECE as u64 {
        stream.write_all(&piece)?;
    }
    Ok(())
}
