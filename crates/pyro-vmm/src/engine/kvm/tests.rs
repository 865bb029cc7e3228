//! Small guests on whatever KVM the host has, also one that emulates: they need next to nothing of a processor.

use std::io::Write as _;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_memory::GuestMemoryMmap;

use super::loader::tests::{file, kernel_of};
use super::*;

/// Where the counting guest counts.
const COUNTER: u64 = 8 << 20;
/// `mov dx, PORT; mov al, VALUE; out dx, al` of 32-bit code.
macro_rules! out {
    ($port:expr, $value:expr) => {
        [0x66, 0xba, $port.to_le_bytes()[0], $port.to_le_bytes()[1], 0xb0, $value, 0xee]
    };
}

/// A machine whose kernel is `code`; `None`, said aloud, on a host without KVM.
fn machine(code: &[u8], console: &SharedLog, poller: &Arc<Poller>) -> Option<Native> {
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
    let mut native = Native::new(kvm, &shape, console.clone()).unwrap();
    native.attach(crate::device::rng::Rng::new(), poller).unwrap();
    Some(native)
}

fn stop_of(vcpus: &Vcpus) -> Stop {
    let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
    poll(&mut [PollFd::new(&vcpus.stopped_fd(), PollFlags::IN)], Some(&limit)).unwrap();
    vcpus.stop_reason().expect("the guest ends").clone()
}

#[test]
fn a_guest_says_something_and_switches_itself_off() {
    let (console, poller) = (SharedLog::new(64), Arc::new(Poller::new().unwrap()));
    let power_off = out!(layout::SLEEP_CONTROL_PORT, layout::POWER_OFF_VALUE);
    let code = [&out!(layout::SERIAL_PORT, b'h')[..], &out!(layout::SERIAL_PORT, b'i'), &power_off, &[0xf4]];
    let Some(native) = machine(&code.concat(), &console, &poller) else { return };
    let vcpus = native.start(|| Ok(())).unwrap();
    assert_eq!(vcpus.stop_reason(), None, "vCPUs begin paused");
    vcpus.resume();
    assert_eq!(stop_of(&vcpus), Stop::PoweredOff);
    assert_eq!(console.lock().tail(64), b"hi");
}

#[test]
fn a_guest_that_breaks_its_cpu_is_reset() {
    let (console, poller) = (SharedLog::new(64), Arc::new(Poller::new().unwrap()));
    // An undefined instruction, and nobody to handle it.
    let Some(native) = machine(&[0x0f, 0x0b], &console, &poller) else { return };
    let vcpus = native.start(|| Ok(())).unwrap();
    vcpus.resume();
    let stop = stop_of(&vcpus);
    // KVM that emulates the processor may also say that it cannot go on.
    assert!(matches!(stop, Stop::Reset | Stop::Failed(_)), "{stop:?}");
}

#[test]
fn a_paused_guest_stands_still() {
    let (console, poller) = (SharedLog::new(64), Arc::new(Poller::new().unwrap()));
    // inc dword [COUNTER]; jmp back
    let code = [&[0xff, 0x05][..], &(COUNTER as u32).to_le_bytes(), &[0xeb, 0xf8]].concat();
    let Some(native) = machine(&code, &console, &poller) else { return };
    let memory: GuestMemoryMmap<()> = native.ram.memory().clone();
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
    let (console, poller) = (SharedLog::new(64), Arc::new(Poller::new().unwrap()));
    let Some(native) = machine(&out!(layout::SERIAL_PORT, b'x'), &console, &poller) else { return };
    let error = native.start(|| Err("no filter here".to_owned())).err().expect("refused").to_string();
    assert!(error.contains("no filter here"), "{error}");
    assert!(console.lock().tail(64).is_empty());
}
