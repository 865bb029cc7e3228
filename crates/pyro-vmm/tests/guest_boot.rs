//! Real guests under the engine that `PYRO_ENGINE` names: boot, streams, disk, ends, jail.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a failing test panics; speeds and skips are told

#[path = "guest/lab.rs"]
#[allow(dead_code)] // shared with tests that use other parts
mod lab;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use lab::{DISK_MARK, Lab};
use pyro_vmm::block::{self, DiskReader, OpenError};
use pyro_vmm::jail::VcpuThreads;
use pyro_vmm::{EngineSpec, ExitReason, NetworkConfig, NetworkSpec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};
use rustix::process::Signal;

#[test]
fn a_guest_that_powers_off_ends_its_machine() {
    let Some(lab) = Lab::open() else { return };
    let mut machine = lab.start("power_off");
    assert_eq!(machine.ended().0, ExitReason::PoweredOff);
}

#[test]
fn machines_boot_one_after_the_other() {
    let Some(lab) = Lab::open() else { return };
    let count = std::env::var("PYRO_TEST_BOOTS").map_or(3, |count| count.parse().unwrap());
    let mut times = Vec::new();
    for boot in 1..=count {
        let started = Instant::now();
        let mut machine = lab.start("power_off");
        machine.started();
        let pid = machine.machine.pid();
        let reason = machine.ended().0;
        assert_eq!(reason, ExitReason::PoweredOff, "boot {boot} of {count}");
        drop(machine);
        assert!(lab::ends(pid), "boot {boot} of {count} leaves its process");
        times.push(started.elapsed());
        if boot % 10 == 0 {
            println!("{boot} of {count} boots, the last in {:.2?}", started.elapsed());
        }
    }
    times.sort();
    let [least, median, most] = [times[0], times[times.len() / 2], times[times.len() - 1]];
    println!(
        "{count} boots without a failure: {least:.2?} at least, median {median:.2?}, {most:.2?} at most"
    );
}

#[test]
fn a_guest_that_restarts_ends_its_machine() {
    let Some(lab) = Lab::open() else { return };
    assert_eq!(lab.start("restart").ended().0, ExitReason::Rebooted);
}

#[test]
fn a_panic_is_reported_with_the_kernels_words_and_the_console() {
    let Some(lab) = Lab::open() else { return };
    let (reason, console) = lab.start("panic").ended();
    let ExitReason::Panicked { message } = reason else { panic!("{reason}") };
    assert!(message.starts_with("Attempted to kill init!"), "{message}");
    let console = String::from_utf8_lossy(&console).into_owned();
    assert!(console.contains("Call Trace") || console.contains("Kernel panic"), "{console}");
}

#[test]
fn streams_run_both_ways_and_closed_ports_refuse() {
    let Some(lab) = Lab::open() else { return };
    let mut machine = lab.start("serve");
    let ready = machine.ready();
    assert_eq!(ready, "ready, 5007: ConnectionReset\n");
    let mut echo = machine.operate('e', 0, 0);
    echo.write_all(b"through the guest and back").unwrap();
    echo.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    echo.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through the guest and back");
    // Nobody listens there: the stream ends at once.
    let mut refused = machine.machine.channel().connect(4000).unwrap();
    assert_eq!(refused.read(&mut [0]).unwrap_or(0), 0);
    machine.operate('p', 0, 0);
    assert_eq!(machine.ended().0, ExitReason::PoweredOff);
}

#[test]
fn bulk_transfers_arrive_intact_in_every_write_size() {
    let Some(lab) = Lab::open() else { return };
    let mut machine = lab.start("serve");
    machine.ready();
    let total = lab::bulk_bytes();
    // Single bytes cost as much as pages.
    for (chunk, total) in [(1, (total >> 8).min(256 << 10)), (4 << 10, total), (64 << 10, total)] {
        let started = Instant::now();
        machine.receive_pattern(total, chunk);
        lab::tell_speed("guest -> host", total, chunk, started);
        let started = Instant::now();
        machine.send_pattern(total, chunk);
        lab::tell_speed("host -> guest", total, chunk, started);
    }
}

#[test]
fn bulk_runs_both_ways_at_once_on_one_stream() {
    let Some(lab) = Lab::open() else { return };
    let mut machine = lab.start("serve");
    machine.ready();
    for chunk in [4 << 10, 64 << 10] {
        let started = Instant::now();
        machine.echo_pattern(lab::bulk_bytes(), chunk);
        lab::tell_speed("host -> guest -> host", lab::bulk_bytes(), chunk, started);
    }
}

#[test]
fn frames_reach_the_guest_and_come_back() {
    let Some(lab) = Lab::open() else { return };
    let flags = SocketFlags::CLOEXEC;
    let (link, cable) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let config = NetworkConfig { mac: [0x02, 0x70, 0x79, 0x72, 0x6f, 0x01], mtu: 1500 };
    let mut machine = lab.start_with("serve", |spec| spec.network = Some(NetworkSpec { config, link }));
    machine.ready();
    let mut control = BufReader::new(machine.operate('n', 0, 0));
    let mut mac = String::new();
    control.read_line(&mut mac).unwrap();
    assert_eq!(mac, "02:70:79:72:6f:01\n");
    let frame = |number: u16| {
        let mut frame = vec![0; 12];
        frame.extend(config.mac);
        frame.extend([0x02, 0, 0, 0, 0, 0x02, 0x88, 0xb5]);
        let len = 46 + usize::from(number) * 7 % 1455;
        frame.extend((0..len).map(|at| (at as u16).wrapping_mul(number) as u8));
        frame
    };
    // More than the rings hold. The guest's socket drops what it has no room for, so not all at once.
    let (count, window) = (2000, 50);
    let send = |number| {
        rustix::net::send(&cable, &frame(number), SendFlags::NOSIGNAL).unwrap();
    };
    (0..window).for_each(send);
    let mut next = 0;
    while next < count {
        lab::wait_readable(&cable);
        let mut bytes = vec![0; 70_000];
        let (_, len) = rustix::net::recv(&cable, &mut bytes[..], RecvFlags::empty()).unwrap();
        // The guest's kernel speaks for itself, too.
        if bytes[24..26] == [0x88, 0xb5] {
            assert_eq!(bytes[12..len], frame(next)[12..], "frame {next}");
            next += 1;
            send(next + window - 1);
        }
    }
    // Without its cable the machine goes on.
    drop(cable);
    machine.operate('p', 0, 0);
    assert_eq!(machine.ended().0, ExitReason::PoweredOff);
}

#[test]
fn the_disk_keeps_what_is_written_and_forgets_what_is_discarded() {
    let Some(lab) = Lab::open() else { return };
    let mut machine = lab.start("serve");
    machine.ready();
    let mut text = String::new();
    machine.operate('d', 16 << 20, 0).read_to_string(&mut text).unwrap();
    assert_eq!(text.as_bytes(), [&b"disk ok "[..], DISK_MARK].concat(), "{text}");
}

#[test]
fn a_disk_goes_on_in_a_new_layer_under_a_running_guest() {
    const PART: u64 = 2 << 20;
    let Some(lab) = Lab::open() else { return };
    let directory = tempfile::tempdir().unwrap();
    let open = |name: &str| lab::open_or_create(&directory.path().join(name));
    let mut machine = lab.start_with("serve", |spec| spec.disk.delta = open("one"));
    machine.ready();
    assert_eq!(machine.disk('w', 2 * PART, PART), "written");
    // The layer is this machine's, whoever else opens it.
    assert!(matches!(block::seal(&open("one")), Err(OpenError::Busy)));
    let (reason, _) = lab.start_with("serve", |spec| spec.disk.delta = open("one")).ended();
    assert!(reason.to_string().contains("the delta is in use"), "{reason}");
    // A file that holds something is refused, and nothing is lost by it.
    let refused = machine.replace_delta(&open("one")).unwrap_err();
    assert!(refused.contains("the file for a new delta holds"), "{refused}");
    assert_eq!(machine.disk('v', 2 * PART, PART), "intact");

    assert_eq!(machine.replace_delta(&open("two")), Ok(()));
    let (one, two) = (block::inspect(&open("one")).unwrap(), block::inspect(&open("two")).unwrap());
    assert!(one.sealed && !two.sealed && two.parent == one.id);
    assert_eq!(machine.disk('w', PART, 8 * PART), "written");
    assert_eq!(machine.disk('w', PART, PART), "written");
    for at in [PART, 8 * PART] {
        assert_eq!(machine.disk('v', PART, at), "intact");
    }
    machine.machine.kill();
    machine.ended();
    drop(machine);

    // What was sealed has the first writes alone.
    let base = || {
        let base = tempfile::tempfile().unwrap();
        base.set_len(lab::DISK_BYTES).unwrap();
        base
    };
    let sealed = DiskReader::open(base(), vec![open("one")]).unwrap();
    let whole = DiskReader::open(base(), vec![open("one"), open("two")]).unwrap();
    let read = |reader: &DiskReader, len: u64, at| {
        let mut bytes = vec![0; len as usize];
        reader.read_at(&mut bytes, at).unwrap();
        bytes
    };
    let (first, last) =
        (lab::disk_pattern(2 * PART as usize, PART), lab::disk_pattern(PART as usize, 8 * PART));
    assert!(read(&sealed, 2 * PART, PART) == first);
    assert!(read(&sealed, PART, 8 * PART) == vec![0; PART as usize]);
    assert!(read(&whole, 2 * PART, PART) == first);
    assert!(read(&whole, PART, 8 * PART) == last);
    drop(whole);

    // Another guest on the same layers, and a fork of the sealed one.
    let mut again = lab.start_with("serve", |spec| {
        spec.disk.sealed = vec![open("one")];
        spec.disk.delta = open("two");
    });
    again.ready();
    assert_eq!(again.disk('v', 2 * PART, PART), "intact");
    assert_eq!(again.disk('v', PART, 8 * PART), "intact");
    let mut fork = lab.start_with("serve", |spec| {
        spec.disk.sealed = vec![open("one")];
        spec.disk.delta = open("fork");
        spec.disk.size_bytes = Some(2 * lab::DISK_BYTES);
    });
    fork.ready();
    assert_eq!(fork.disk('v', 2 * PART, PART), "intact");
    assert_eq!(fork.disk('w', PART, 2 * lab::DISK_BYTES - PART), "written");
}

#[test]
fn the_guest_has_a_source_of_entropy() {
    let Some(lab) = Lab::open() else { return };
    let mut machine = lab.start("serve");
    machine.ready();
    let mut bytes = Vec::new();
    machine.operate('k', 0, 0).read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 32, "{}", String::from_utf8_lossy(&bytes));
    assert!(bytes.iter().any(|byte| *byte != bytes[0]));
}

#[test]
fn several_cpus_work() {
    let Some(lab) = Lab::open() else { return };
    let mut machine = lab.start_with("serve", |spec| {
        spec.vcpu_count = 2;
        spec.mem_mib = 4096;
    });
    machine.ready();
    machine.receive_pattern(8 << 20, 64 << 10);
}

#[test]
fn a_paused_guest_does_nothing_and_then_goes_on() {
    let Some(lab) = Lab::open() else { return };
    let mut machine = lab.start_with("serve", |spec| spec.vcpu_count = 2);
    machine.ready();
    let echo = machine.operate('e', 0, 0);
    assert_eq!(answer_later(&echo, b"before").text(), b"before");
    for round in 0..20 {
        machine.pause();
        let mut late = answer_later(&echo, b"meanwhile");
        assert!(late.is_silent(), "round {round}: a paused guest answered");
        machine.resume();
        assert_eq!(late.text(), b"meanwhile");
    }
    assert_eq!(answer_later(&echo, b"after").text(), b"after");
    machine.pause();
    machine.machine.kill();
    machine.ended();
}

/// What a guest sends back some time.
struct Late {
    stream: UnixStream,
    len: usize,
}

fn answer_later(stream: &UnixStream, text: &[u8]) -> Late {
    let mut stream = stream.try_clone().unwrap();
    stream.write_all(text).unwrap();
    Late { stream, len: text.len() }
}

impl Late {
    /// Whether nothing comes for a while in which a running guest answers many times.
    fn is_silent(&self) -> bool {
        let limit = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&limit)).unwrap() == 0
    }

    fn text(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }
}

#[test]
fn the_most_cpus_work() {
    let Some(lab) = Lab::open() else { return };
    let mut machine = lab.start_with("serve", |spec| spec.vcpu_count = 32);
    machine.ready();
    let mut text = String::new();
    machine.operate('c', 0, 0).read_to_string(&mut text).unwrap();
    assert_eq!(text, "0-31\n");
    machine.receive_pattern(1 << 20, 64 << 10);
}

#[test]
fn a_guest_may_have_all_of_the_hosts_memory() {
    // Of more, the guest's kernel would make its tables for minutes under emulation.
    const MOST_MIB: u32 = 64 << 10;
    let Some(lab) = Lab::open() else { return };
    let mem_mib = lab::host_mib().min(MOST_MIB);
    let mut machine = lab.start_with("serve", |spec| spec.mem_mib = mem_mib);
    machine.ready();
    let taken = machine.guest_bytes() >> 20;
    println!("a machine of {mem_mib} MiB has booted in {taken} MiB");
    assert!(taken < u64::from(mem_mib) / 4, "{taken} MiB are taken though the guest uses none");
}

#[test]
fn memory_that_a_guest_frees_goes_back_to_the_host() {
    const HELD: u64 = 512 << 20;
    let Some(lab) = Lab::open() else { return };
    let mut machine = lab.start_with("serve", |spec| spec.mem_mib = 1024);
    machine.ready();
    // The second time, with pages that were given back.
    for _ in 0..2 {
        let mut stream = machine.operate('m', HELD, 0);
        stream.read_exact(&mut [0; 4]).unwrap();
        let peak = machine.guest_bytes();
        assert!(peak >= HELD, "{peak} bytes hold what the guest has");
        stream.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "freed");
        lab::wait_until("freed memory goes back", || machine.guest_bytes() < peak - HELD * 9 / 10);
        println!("{} MiB at the peak, {} MiB later", peak >> 20, machine.guest_bytes() >> 20);
    }
}

#[test]
fn a_machine_that_was_stopped_by_a_signal_goes_on() {
    let Some(lab) = Lab::open() else { return };
    let mut machine = lab.start("serve");
    machine.ready();
    let mut echo = machine.operate('e', 0, 0);
    for round in 0..5 {
        // Waits that have a time limit go on by a system call of the kernel's own.
        for signal in [Signal::STOP, Signal::CONT] {
            rustix::process::pidfd_send_signal(machine.machine.process_fd(), signal).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let mut answer = [0];
        echo.write_all(&[round]).unwrap();
        echo.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [round]);
    }
    machine.operate('p', 0, 0);
    assert_eq!(machine.ended().0, ExitReason::PoweredOff);
}

#[test]
fn a_killed_machine_leaves_no_process_behind() {
    let Some(lab) = Lab::open() else { return };
    let mut machine = lab.start("serve");
    machine.ready();
    let engine = lab::children(machine.machine.pid());
    assert_eq!(engine.len(), lab.engine_processes(), "{engine:?}");
    assert!(engine.iter().all(|pid| lab::alive(*pid)));
    machine.machine.kill();
    let (reason, _) = machine.ended();
    assert_eq!(reason, ExitReason::VmmDied { status: "signal 9".to_owned() });
    assert!(engine.iter().all(|pid| lab::ends(*pid)), "the engine outlives its machine");
}

/// Not a test of its own: the host process that `a_killed_host_leaves_no_process_behind` kills.
#[test]
#[ignore = "started by another test"]
fn host_to_be_killed() {
    let Some(lab) = Lab::open() else { return };
    let mut machine = lab.start("serve");
    machine.ready();
    let vmm = machine.machine.pid();
    let all: Vec<String> = [vmm].into_iter().chain(lab::children(vmm)).map(|pid| pid.to_string()).collect();
    println!("machine {}", all.join(" "));
    machine.ended();
}

#[test]
fn a_killed_host_leaves_no_process_behind() {
    let Some(lab) = Lab::open() else { return };
    let mut host = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "host_to_be_killed", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(host.stdout.take().unwrap()).lines();
    let pids = lines.map(Result::unwrap).find_map(|line| {
        let (_, pids) = line.split_once("machine ")?;
        Some(pids.split(' ').map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>())
    });
    let pids = pids.expect("the host says which processes it has");
    assert!(pids.len() == 1 + lab.engine_processes() && pids.iter().all(|pid| lab::alive(*pid)));
    host.kill().unwrap();
    host.wait().unwrap();
    assert!(pids.iter().all(|pid| lab::ends(*pid)), "a process outlives its host");
}

#[test]
fn a_killed_engine_is_reported() {
    let Some(lab) = Lab::open() else { return };
    if lab.is_native() {
        return lab::skip_native("its engine is no process");
    }
    let mut machine = lab.start("serve");
    machine.ready();
    let [engine] = lab::children(machine.machine.pid())[..] else { panic!("no engine") };
    lab::kill(engine);
    let (reason, _) = machine.ended();
    let ExitReason::EngineDied { status, .. } = reason else { panic!("{reason}") };
    assert_eq!(status, "signal 9");
}

#[test]
fn an_engine_that_does_not_start_says_why() {
    let Some(lab) = Lab::open() else { return };
    let mut machine = lab.start_with("serve", |spec| spec.kernel = tempfile::tempfile().unwrap());
    let (reason, _) = machine.ended();
    assert!(matches!(reason, ExitReason::StartFailed { .. }), "{reason}");
    assert!(reason.to_string().contains("kernel"), "{reason}");
    let missing = EngineSpec::Emulated { qemu: "/nonexistent/qemu".into() };
    let (reason, _) = lab.start_with("serve", |spec| spec.engine = missing).ended();
    assert!(reason.to_string().contains("cannot execute the engine /nonexistent/qemu"), "{reason}");
}

#[test]
fn a_talkative_console_is_kept_within_its_bound() {
    let Some(lab) = Lab::open() else { return };
    let (reason, console) = lab.start("chatter").ended();
    assert_eq!(reason, ExitReason::PoweredOff);
    assert_eq!(console.len(), pyro_vmm::limits::CONSOLE_TAIL_BYTES);
    // The last of 4000 lines. QEMU's serial port gives up characters that a busy host does not take in time.
    let console = String::from_utf8_lossy(&console);
    let first = if lab.is_native() { 3999 } else { 3900 };
    assert!((first..4000).any(|line| console.contains(&format!("line {line} of a guest"))), "{console}");
}

#[test]
fn both_processes_are_confined_while_the_guest_runs() {
    let Some(lab) = Lab::open() else { return };
    // The test's own standard error may be a file anywhere.
    let log = tempfile::tempfile().unwrap();
    let mut machine = lab.start_with("serve", |spec| spec.log = Some(log));
    machine.ready();
    let report = machine.started().jail;
    println!("{report}");
    assert_eq!(report.engine.is_some(), !lab.is_native());
    let vcpus = lab.is_native().then_some(VcpuThreads { count: 1, filtered: 1 });
    assert_eq!(report.vcpu_threads, vcpus);
    assert_eq!(filtered_threads(machine.machine.pid()), vec![true; 1 + usize::from(lab.is_native())]);
    for jail in [Some(report.vmm), report.engine].into_iter().flatten() {
        assert!(jail.no_new_privs && jail.seccomp_filters > 0 && jail.no_capabilities);
    }
    let open = lab::open_files(machine.machine.pid());
    // The word of a panic has a descriptor of its own for the control socket.
    if let Ok(control) = std::fs::read_link(format!("/proc/{}/fd/3", machine.machine.pid())) {
        let control = control.to_string_lossy();
        assert_eq!(open.iter().filter(|fd| **fd == control).count(), 2, "{open:?}");
    }
    // Nothing is open but what was handed over or made inside.
    for fd in open {
        let ours = ["socket:", "pipe:", "anon_inode:", "/memfd:", "/proc/", "/dev/null", "/dev/kvm"];
        let handed_over = Path::new(&fd).starts_with(std::env::temp_dir());
        assert!(handed_over || ours.iter().any(|kind| fd.starts_with(kind)), "{fd} is open");
    }
}

/// Of each thread of a process, whether its system calls are filtered: proc_pid_status(5), seen from outside.
fn filtered_threads(pid: u32) -> Vec<bool> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads
        .map(|thread| {
            let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            status.lines().any(|line| line == "Seccomp:\t2")
        })
        .collect()
}
