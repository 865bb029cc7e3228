//! Limits of a machine's processes together. One test alone: it looks at what all of this program's machines leave.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a failing test panics; what is not covered is told

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pyro_vmm::jail::Cgroup;
use pyro_vmm::probe_jail;

#[test]
fn a_machine_has_limits_where_a_cgroup_is_delegated_and_leaves_none() {
    let report = probe_jail(Path::new(env!("CARGO_BIN_EXE_pyro-vmm"))).unwrap();
    match report.cgroup {
        Cgroup::Limited { memory_max_bytes, pids_max } => {
            println!("at most {memory_max_bytes} bytes and {pids_max} tasks");
            assert!(memory_max_bytes > 64 << 20 && memory_max_bytes < 1 << 30, "{memory_max_bytes}");
            assert!((2..64).contains(&pids_max), "{pids_max}");
            assert_eq!(machines_left(), BTreeSet::new());
        }
        Cgroup::Off { why } => {
            let required = std::env::var("PYRO_REQUIRE").unwrap_or_default();
            assert!(
                !required.split(',').any(|word| word == "cgroup"),
                "a cgroup is required here, but {why}"
            );
            println!("skipped ({why})");
        }
    }
}

/// Cgroups of machines, anywhere.
fn machines_left() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut directories = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(entry.path());
                if entry.file_name().to_string_lossy().starts_with("pyro-machine-") {
                    found.insert(entry.path());
                }
            }
        }
    }
    found
}
