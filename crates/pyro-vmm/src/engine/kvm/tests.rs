//! Small guests on whatever KVM the host has, also one that emulates: they need next to nothing of a processor.

mod sys;

use std::io::Write as _;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_memory::GuestMemoryMmap;

use super::loader::tests::{file, kernel_of};
use super::*;
use crate::device::balloon::Balloon;
use crate::device::console::Console;
use crate::device::fuzz;
use crate::device::rng::Rng;
use crate::endpoint::Endpoint;

/// Where the counting guest counts.
const COUNTER: u64 = 8 << 20;
/// `mov edx, PORT; mov al, VALUE; out dx, al` of 32-bit code.
fn out(port: u16, value: u8) -> [u8; 8] {
    let [low, high] = port.to_le_bytes();
    [0xba, low, high, 0, 0, 0xb0, value, 0xee]
}

/// A machine whose kernel is `code`; `None`, said aloud, on a host without KVM.
fn machine(code: &[u8], console: &SharedLog) -> Option<Native> {
    let kvm = match File::options().read(true).write(true).open(crate::engine::KVM_DEVICE) {
        Ok(kvm) => kvm,
        Err(error) => {
            writeln!(std::io::stdout(), "skipped (/dev/kvm: {error})").unwrap();
            return None;
        }
    };
    let shape = Shape {
        vcpu_count: 2,
        mem_mib: 256,
        boot_args: &[],
        kernel: &file(&kernel_of(code)),
        initramfs: &file(b"none"),
    };
    let native = Native::new(kvm, &shape, console.clone()).unwrap();
    Some(native)
}

fn stop_of(vcpus: &Vcpus) -> Stop {
    let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
    poll(&mut [PollFd::new(&vcpus.stopped_fd(), PollFlags::IN)], Some(&limit)).unwrap();
    vcpus.stop_reason().expect("the guest ends").clone()
}

#[test]
fn a_guest_says_something_and_switches_itself_off() {
    let console = SharedLog::new(64);
    let power_off = out(layout::SLEEP_CONTROL_PORT, layout::POWER_OFF_VALUE);
    let code = [&out(layout::SERIAL_PORT, b'h')[..], &out(layout::SERIAL_PORT, b'i'), &power_off, &[0xf4]];
    let Some(native) = machine(&code.concat(), &console) else { return };
    let vcpus = native.start(|| Ok(())).unwrap();
    assert_eq!(vcpus.stop_reason(), None, "vCPUs begin paused");
    vcpus.resume();
    assert_eq!(stop_of(&vcpus), Stop::PoweredOff);
    assert_eq!(console.lock().tail(64), b"hi");
}

#[test]
fn a_guest_that_breaks_its_cpu_is_reset() {
    let console = SharedLog::new(64);
    // An undefined instruction, and nobody to handle it.
    let Some(native) = machine(&[0x0f, 0x0b], &console) else { return };
    let vcpus = native.start(|| Ok(())).unwrap();
    vcpus.resume();
    let stop = stop_of(&vcpus);
    // KVM that emulates the processor may also say that it cannot go on.
    assert!(matches!(stop, Stop::Reset | Stop::Failed(_)), "{stop:?}");
}

#[test]
fn a_paused_guest_stands_still() {
    let console = SharedLog::new(64);
    // inc dword [COUNTER]; jmp back
    let code = [&[0xff, 0x05][..], &(COUNTER as u32).to_le_bytes(), &[0xeb, 0xf8]].concat();
    let Some(native) = machine(&code, &console) else { return };
    let memory: GuestMemoryMmap<()> = native.machine.ram.memory().clone();
    let count = || memory.read_obj::<u32>(GuestAddress(COUNTER)).unwrap();
    let vcpus = native.start(|| Ok(())).unwrap();
    for _ in 0..10 {
        let before = count();
        vcpus.resume();
        let until = Instant::now() + Duration::from_secs(60);
        while count() == before {
            assert!(Instant::now() < until && vcpus.stop_reason().is_none(), "{:?}", vcpus.stop_reason());
            std::thread::yield_now();
        }
        vcpus.pause().unwrap();
        let paused = count();
        (0..1000).for_each(|_| std::thread::yield_now());
        assert_eq!(count(), paused);
    }
}

#[test]
fn threads_that_cannot_be_confined_run_no_guest() {
    let console = SharedLog::new(64);
    let Some(native) = machine(&out(layout::SERIAL_PORT, b'x'), &console) else { return };
    let error = native.start(|| Err("no filter here".to_owned())).err().expect("refused").to_string();
    assert!(error.contains("no filter here"), "{error}");
    assert!(console.lock().tail(64).is_empty());
}

const DEVICES: u32 = 6;
const ROUNDS: u32 = 3000;
const SEED: u32 = 20_261_130;
const STACK: u32 = 9 << 20;
/// The memory in which the hostile guest has the rings of all of its queues.
const RINGS: u32 = 10 << 20;

#[test]
fn a_hostile_guest_ends_its_machine_cleanly_at_worst() {
    let console = SharedLog::new(64);
    let Some(mut native) = machine(sys::hostile_guest(), &console) else { return };
    let poller = Arc::new(Poller::new().unwrap());
    let (network, _far) = fuzz::network().unwrap();
    let mut devices: Vec<Box<dyn Endpoint>> = vec![
        Box::new(native.attach(fuzz::block().unwrap(), &poller).unwrap()),
        Box::new(native.attach(Rng::new(), &poller).unwrap()),
        Box::new(native.attach(Console::new(SharedLog::new(64)), &poller).unwrap()),
        Box::new(native.attach(Balloon::new(native.reclaim()), &poller).unwrap()),
        Box::new(native.attach(fuzz::vsock().unwrap(), &poller).unwrap()),
        Box::new(native.attach(network, &poller).unwrap()),
    ];
    assert_eq!(devices.len(), DEVICES as usize);
    let vcpus = native.start(|| Ok(())).unwrap();
    vcpus.resume();
    let until = Instant::now() + Duration::from_secs(120);
    let mut served = 0u64;
    while vcpus.stop_reason().is_none() {
        assert!(Instant::now() < until, "the guest does not end");
        for token in poller.wait(Some(Duration::from_millis(10))).unwrap() {
            served += 1;
            // A core that cannot go on ends the machine; the others are tried on.
            let _ = devices[usize::from(token.endpoint)].ready(token.source);
        }
        devices.iter_mut().for_each(|device| drop(device.resume()));
    }
    assert_eq!(vcpus.stop_reason(), Some(&Stop::PoweredOff));
    assert!(served > u64::from(ROUNDS) / 10, "the devices were kicked {served} times");
}
