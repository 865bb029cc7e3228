//! The jail proved from inside: what it forbids is tried, from each kind of thread, after it was seen to work outside.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a failing test panics; what is not covered is told

use std::fs::File;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use pyro_vmm::jail::{Attempt, Landlock, Place, Trial, VcpuThreads};
use pyro_vmm::machine::{Probe, Probed, probe_jail_with};
use pyro_vmm::{ExitReason, JailReport, ProcessEnd, SeccompAction, probe_jail};

const VMM: &str = env!("CARGO_BIN_EXE_pyro-vmm");

/// Requests to the KVM device and what it makes, of `linux/kvm.h`, and one to a terminal.
const KVM_CREATE_VM: u32 = 0xAE01;
const KVM_CREATE_VCPU: u32 = 0xAE41;
const KVM_RUN: u32 = 0xAE80;
const KVM_GET_REGS: u32 = 0x8090_AE81;
const KVM_SET_REGS: u32 = 0x4090_AE82;
const KVM_SET_USER_MEMORY_REGION: u32 = 0x4020_AE46;
const FIONREAD: u32 = 0x541B;
const TIOCSTI: u32 = 0x5412;

/// Things of the host that the jailed process shall not reach.
struct Outside {
    directory: tempfile::TempDir,
    _socket: UnixListener,
    _abstract: UnixListener,
    port: TcpListener,
    process: Child,
}

impl Outside {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let name = SocketAddr::from_abstract_name(Self::abstract_name()).unwrap();
        Self {
            _socket: UnixListener::bind(directory.path().join("socket")).unwrap(),
            directory,
            _abstract: UnixListener::bind_addr(&name).unwrap(),
            port: TcpListener::bind("127.0.0.1:0").unwrap(),
            process: Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap(),
        }
    }

    fn abstract_name() -> String {
        format!("pyro-jail-test-{}-{:?}", std::process::id(), std::thread::current().id())
    }

    fn pid(&self) -> i32 {
        self.process.id().try_into().unwrap()
    }

    /// What must fail in the jail even where system calls are not filtered.
    fn out_of_reach(&self) -> Vec<Attempt> {
        static BYTE: u8 = 1;
        vec![
            Attempt::OpenFile("/".into()),
            Attempt::OpenFile(VMM.into()),
            Attempt::OpenFile(format!("/proc/{}/status", self.pid()).into()),
            Attempt::OpenFile("/proc/self/mem".into()),
            Attempt::ConnectUnix(self.directory.path().join("socket")),
            Attempt::ConnectAbstract(Self::abstract_name()),
            Attempt::ConnectTcp(self.port.local_addr().unwrap().port()),
            Attempt::Signal(self.pid()),
            Attempt::ReadMemory {
                pid: std::process::id().try_into().unwrap(),
                address: (&raw const BYTE).addr() as u64,
            },
            Attempt::Trace(self.pid()),
            Attempt::Execute("/bin/true".into()),
        ]
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// What only the filters of system calls forbid.
fn filtered() -> Vec<Attempt> {
    vec![
        Attempt::DatagramPair,
        Attempt::Fork,
        Attempt::StartThread,
        Attempt::ExecutableMemory,
        Attempt::MakeExecutable,
        Attempt::AnonymousFile,
        Attempt::IoUring,
        Attempt::Unshare,
    ]
}

fn probe(seccomp: SeccompAction, attempt: &Attempt, place: Place) -> (Probed, String) {
    let mut log = tempfile::tempfile().unwrap();
    let trial = Some(Trial { attempt: attempt.clone(), place });
    let probe = Probe { seccomp, trial, log: Some(log.try_clone().unwrap()) };
    let probed = probe_jail_with(Path::new(VMM), probe);
    let mut said = String::new();
    std::io::Seek::rewind(&mut log).unwrap();
    log.read_to_string(&mut said).unwrap();
    (probed, said)
}

fn assert_killed(attempt: &Attempt, place: Place) {
    let (probed, _) = probe(SeccompAction::Kill, attempt, place);
    probed.report.unwrap();
    assert_eq!((probed.end, probed.last_word), (ProcessEnd::Signal(31), None), "{attempt:?} from {place:?}");
}

/// That the filter lets a request through; there is nothing behind it.
fn assert_let_through(request: u32, place: Place) {
    let (probed, said) = probe(SeccompAction::Trap, &Attempt::Ioctl(request), place);
    assert_eq!((probed.end, said.as_str()), (ProcessEnd::Status(0), ""), "{request:#x} from {place:?}");
    assert!(matches!(probed.last_word, Some(ExitReason::VmmFailed { .. })), "{:?}", probed.last_word);
}

/// Tries it in this process, which has no jail.
fn outside(attempt: &Attempt) -> std::io::Result<()> {
    let null = File::open("/dev/null").unwrap();
    let attempt = attempt.clone();
    // A thread of its own: some of it lasts as long as the thread.
    std::thread::spawn(move || attempt.carry_out(null.as_fd())).join().unwrap()
}

fn assert_works_outside(attempt: &Attempt) {
    match outside(attempt) {
        Ok(()) => {}
        // Kernels may lack some of it, and hosts forbid these to everybody.
        Err(error)
            if error.raw_os_error() == Some(libc::ENOSYS)
                || matches!(attempt, Attempt::IoUring | Attempt::Unshare | Attempt::Trace(_)) =>
        {
            println!("not covered: {attempt:?} does not work outside of the jail either: {error}");
        }
        Err(error) => panic!("{attempt:?} does not work outside of the jail: {error}"),
    }
}

fn report() -> JailReport {
    probe_jail(Path::new(VMM)).unwrap()
}

#[test]
fn the_report_tells_what_the_kernel_says() {
    let report = report();
    println!("{report}");
    assert!(report.engine.is_none());
    assert_eq!(report.vcpu_threads, Some(VcpuThreads { count: 1, filtered: 1 }));
    assert!(report.vmm.no_new_privs);
    assert!(report.vmm.no_capabilities);
    assert!(report.vmm.seccomp_filters > 0);
    assert_eq!(report.vmm.undumpable, Some(true));
    let core = report.vmm.limits.iter().find(|limit| limit.name == "core").unwrap();
    assert_eq!(core.value, 0);
    // What a host may lack is either in force or named as missing.
    let named = |word: &str| report.vmm.missing.iter().any(|line| line.contains(word));
    assert_ne!(report.vmm.empty_root, named("empty root"));
    assert_ne!(report.vmm.landlock != Landlock::Off, named("landlock"));
    assert!(!named("threads"), "{:?}", report.vmm.missing);
}

#[test]
fn each_thread_that_reaches_out_of_the_jail_ends_the_process() {
    let host = Outside::new();
    for attempt in host.out_of_reach().iter().chain(&filtered()) {
        assert_works_outside(attempt);
        for place in [Place::Devices, Place::Vcpu] {
            assert_killed(attempt, place);
        }
    }
}

#[test]
fn the_walls_hold_where_no_system_call_is_filtered() {
    let host = Outside::new();
    let report = report();
    let own = report.vmm.namespaces;
    let landlock = match report.vmm.landlock {
        Landlock::Off => 0,
        Landlock::Enforced { abi } => abi,
    };
    for attempt in host.out_of_reach() {
        let walled = match attempt {
            Attempt::OpenFile(_) | Attempt::Execute(_) => report.vmm.empty_root || landlock > 0,
            // Landlock knows of socket files from ABI 9 on.
            Attempt::ConnectUnix(_) => report.vmm.empty_root,
            Attempt::ConnectAbstract(_) | Attempt::Signal(_) => landlock >= 6 || own.net && own.pid,
            Attempt::ConnectTcp(_) => landlock >= 4 || own.net,
            Attempt::Trace(_) | Attempt::ReadMemory { .. } => landlock > 0 || own.pid,
            _ => false,
        };
        if !walled {
            println!("not covered: this host has no wall against {attempt:?}");
            continue;
        }
        let (probed, _) = probe(SeccompAction::Kill, &attempt, Place::Enclosed);
        let refused = matches!(&probed.last_word, Some(ExitReason::VmmFailed { message }) if message.starts_with("refused: "));
        assert!(refused, "{attempt:?}: {probed:?}");
    }
}

#[test]
fn what_works_in_the_jail_is_told_as_such() {
    // So that the others can fail: only the filter is against it.
    let (probed, _) = probe(SeccompAction::Kill, &Attempt::DatagramPair, Place::Enclosed);
    assert_eq!(probed.last_word, Some(ExitReason::PoweredOff));
}

#[test]
fn devices_get_the_requests_of_their_threads_alone() {
    let neither = [KVM_CREATE_VM, KVM_CREATE_VCPU, KVM_SET_REGS, KVM_SET_USER_MEMORY_REGION, TIOCSTI, 0];
    for request in neither {
        assert_killed(&Attempt::Ioctl(request), Place::Devices);
        assert_killed(&Attempt::Ioctl(request), Place::Vcpu);
    }
    for request in [KVM_RUN, KVM_GET_REGS] {
        assert_killed(&Attempt::Ioctl(request), Place::Devices);
        assert_let_through(request, Place::Vcpu);
    }
    assert_killed(&Attempt::Ioctl(FIONREAD), Place::Vcpu);
    assert_let_through(FIONREAD, Place::Devices);
}

#[test]
fn a_trap_tells_the_call_and_the_thread() {
    for (attempt, call) in [
        (Attempt::OpenFile("/".into()), libc::SYS_openat),
        (Attempt::Ioctl(KVM_CREATE_VM), libc::SYS_ioctl),
        (Attempt::IoUring, libc::SYS_io_uring_setup),
        (Attempt::AnonymousFile, libc::SYS_memfd_create),
    ] {
        for (place, kind) in [(Place::Devices, "devices"), (Place::Vcpu, "vcpu")] {
            let (probed, said) = probe(SeccompAction::Trap, &attempt, place);
            assert_eq!(said, format!("forbidden system call {call:04} of a thread for {kind}\n"));
            assert_eq!(probed.end, ProcessEnd::Status(128 + 31));
        }
    }
}

#[test]
fn without_an_attempt_the_process_ends_well() {
    for seccomp in [SeccompAction::Kill, SeccompAction::Trap] {
        let probed = probe_jail_with(Path::new(VMM), Probe { seccomp, ..Probe::default() });
        probed.report.unwrap();
        assert_eq!((probed.end, probed.last_word), (ProcessEnd::Status(0), Some(ExitReason::PoweredOff)));
    }
}
