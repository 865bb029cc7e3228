//! The jail proved from inside: what it forbids is tried.
#![allow(clippy::unwrap_used)] // a failing test panics

use std::path::Path;

use pyro_vmm::jail::{Attempt, Landlock};
use pyro_vmm::machine::probe_jail_with;
use pyro_vmm::{ProcessEnd, SeccompAction, probe_jail};

const VMM: &str = env!("CARGO_BIN_EXE_pyro-vmm");

#[test]
fn the_report_tells_what_the_kernel_says() {
    let report = probe_jail(Path::new(VMM)).unwrap();
    println!("{report}");
    assert!(report.engine.is_none());
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
}

#[test]
fn forbidden_calls_end_the_process() {
    for attempt in [Attempt::OpenFile, Attempt::InetSocket, Attempt::Execute, Attempt::ExecutableMemory] {
        let (report, end) = probe_jail_with(Path::new(VMM), SeccompAction::Kill, Some(attempt));
        report.unwrap();
        assert_eq!(end, ProcessEnd::Signal(libc_sigsys()), "{attempt:?}");
    }
}

#[test]
fn without_an_attempt_the_process_ends_well() {
    let (report, end) = probe_jail_with(Path::new(VMM), SeccompAction::Kill, None);
    report.unwrap();
    assert_eq!(end, ProcessEnd::Status(0));
}

fn libc_sigsys() -> i32 {
    rustix::process::Signal::SYS.as_raw()
}
