//! Speed of real guests: against bare QEMU in the same run, and of streams.
//!
//! Figures are printed; what is asserted is far enough off to hold on a busy machine.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a failing test panics; figures are told

#[path = "guest/lab.rs"]
#[allow(dead_code)] // shared with tests that use other parts
mod lab;

use std::io::Read;
use std::time::{Duration, Instant};

use lab::Lab;
use pyro_vmm::ExitReason;

/// Runs of each kind, taken in turn; the fastest counts, since noise only adds.
const RUNS: usize = 4;

#[test]
fn our_devices_cost_little_of_a_boot() {
    let Some(lab) = Lab::open() else { return };
    let (mut ours, mut bare) = (Duration::MAX, Duration::MAX);
    for _ in 0..RUNS {
        let Some(run) = lab.bare_run("power_off") else {
            return lab::skip_native("bare QEMU is another engine");
        };
        bare = bare.min(run);
        let started = Instant::now();
        assert_eq!(lab.start("power_off").ended().0, ExitReason::PoweredOff);
        ours = ours.min(started.elapsed());
    }
    let ratio = ours.as_secs_f64() / bare.as_secs_f64();
    println!(
        "boot to power-off: {ours:.0?} with our devices in the jail, {bare:.0?} bare QEMU, ratio {ratio:.2}"
    );
    assert!(ratio < 2.0, "our devices double the time of a boot");
}

#[test]
fn a_stream_from_the_guest_is_fast() {
    let Some(lab) = Lab::open() else { return };
    let mut machine = lab.start("serve");
    machine.ready();
    let total = lab::bulk_bytes() * 2;
    let started = Instant::now();
    let mut stream = machine.operate('z', total, 64 << 10);
    let mut block = vec![0; 256 << 10];
    let mut received = 0;
    while received < total {
        received += stream.read(&mut block).unwrap() as u64;
    }
    lab::tell_speed("guest -> host, unchecked", total, 64 << 10, started);
    assert!(started.elapsed() < Duration::from_secs(60));
}
