//! What of the native engine can be tried on any host: whether it is told that KVM runs guests, in time.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a failing test panics; the verdict is told

use std::path::Path;

use pyro_vmm::engine::{KvmReport, probe_kvm};

#[test]
fn every_kvm_gets_a_verdict_with_its_reason() {
    let report = probe_kvm(Path::new(env!("CARGO_BIN_EXE_pyro-vmm")));
    println!("{report:?}: {}", report.reason());
    match report {
        KvmReport::Usable => {}
        KvmReport::Absent => assert!(!Path::new("/dev/kvm").exists()),
        KvmReport::Unopenable { why } | KvmReport::Unusable { why } => {
            assert!(!why.is_empty() && !why.contains("could not be tried"), "{why}");
        }
    }
}

#[test]
fn a_program_that_cannot_try_makes_kvm_unusable() {
    let report = probe_kvm(Path::new("/nonexistent/pyro-vmm"));
    assert!(!matches!(report, KvmReport::Usable), "{report:?}");
}
