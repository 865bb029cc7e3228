//! Which engine a machine gets.
//!
//! Whether KVM runs guests is tried by a process that runs a small one. The verdict is kept in the state directory until
//! the host restarts or one of the parts changes, so that machines start without the trial; [`examine`] tries anew.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use pyro_vmm::engine::{
    ChosenEngine, EngineChoice, EngineError, EngineReport, KVM_DEVICE, KvmReport, probe, probe_kvm,
};
use serde::{Deserialize, Serialize};

/// The verdict's file in the state directory.
const VERDICT: &str = "kvm.json";
/// A verdict is a line of text.
const MAX_VERDICT_BYTES: u64 = 4 << 10;

/// Where to look for engines.
#[derive(Clone, Copy)]
pub(crate) struct Search<'a> {
    /// Where QEMU is, as in `PATH`.
    pub(crate) program_path: &'a OsStr,
    /// The program that tries KVM.
    pub(crate) vmm_binary: &'a Path,
    /// Where the verdict is kept.
    pub(crate) state_dir: &'a Path,
}

/// What was found by trying, and what it was found with.
#[derive(Serialize, Deserialize)]
struct Verdict {
    parts: Parts,
    report: KvmReport,
}

/// What a verdict holds for.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Parts {
    /// Changes with each start of the host's kernel.
    boot_id: String,
    device: FileId,
    program: FileId,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct FileId {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl FileId {
    fn of(found: &Metadata) -> Self {
        Self { device: found.dev(), inode: found.ino(), changed: (found.ctime(), found.ctime_nsec()) }
    }
}

/// The engine for `choice`, or why there is none.
pub(crate) fn choose(choice: EngineChoice, search: Search<'_>) -> Result<ChosenEngine, EngineError> {
    pyro_vmm::engine::choose(choice, search.program_path, || known_kvm(search))
}

/// Looks at every engine and tries KVM anew.
pub(crate) fn examine(search: Search<'_>) -> EngineReport {
    let report = probe(search.program_path, search.vmm_binary);
    if let Ok(parts) = parts(search.vmm_binary) {
        keep(search.state_dir, &Verdict { parts, report: report.kvm.clone() });
    }
    report
}

fn known_kvm(search: Search<'_>) -> KvmReport {
    let Ok(parts) = parts(search.vmm_binary) else { return probe_kvm(search.vmm_binary) };
    match read(&search.state_dir.join(VERDICT)) {
        Ok(verdict) if verdict.parts == parts => verdict.report,
        // Never tried, not readable, or about something else.
        Ok(_) | Err(_) => {
            let report = probe_kvm(search.vmm_binary);
            keep(search.state_dir, &Verdict { parts, report: report.clone() });
            report
        }
    }
}

fn parts(vmm_binary: &Path) -> io::Result<Parts> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(Parts {
        boot_id: boot_id.trim().to_owned(),
        device: FileId::of(&std::fs::metadata(KVM_DEVICE)?),
        program: FileId::of(&std::fs::metadata(vmm_binary)?),
    })
}

fn read(path: &Path) -> io::Result<Verdict> {
    let found = std::fs::metadata(path)?;
    if found.len() > MAX_VERDICT_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// Keeps what a trial told. What does not depend on the trial is looked at each time, and so not kept.
fn keep(state_dir: &Path, verdict: &Verdict) {
    if !matches!(verdict.report, KvmReport::Usable | KvmReport::Unusable { .. }) {
        return;
    }
    // A verdict that cannot be kept is found again.
    let _ = write_aside(state_dir, verdict);
}

fn write_aside(state_dir: &Path, verdict: &Verdict) -> io::Result<PathBuf> {
    crate::places::create_private_dir(state_dir)?;
    let mut aside = tempfile::NamedTempFile::new_in(state_dir)?;
    aside.write_all(&serde_json::to_vec(verdict)?)?;
    let path = state_dir.join(VERDICT);
    aside.persist(&path).map_err(|error| error.error)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(report: KvmReport) -> Verdict {
        let parts = Parts {
            boot_id: "one".to_owned(),
            device: FileId::of(&std::fs::metadata("/dev/null").unwrap()),
            program: FileId::of(&std::fs::metadata("/proc/self/exe").unwrap()),
        };
        Verdict { parts, report }
    }

    #[test]
    fn a_trials_verdict_is_kept_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let written = verdict(KvmReport::Unusable { why: "a small guest died".to_owned() });
        let path = write_aside(directory.path(), &written).unwrap();
        let found = read(&path).unwrap();
        assert!(found.parts == written.parts && found.report == written.report);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_needs_no_trial_is_not_kept_and_rubbish_is_no_verdict() {
        let directory = tempfile::tempdir().unwrap();
        keep(directory.path(), &verdict(KvmReport::Absent));
        let path = directory.path().join(VERDICT);
        assert!(!path.exists());
        for rubbish in ["", "{}", &" ".repeat(8 << 10)] {
            std::fs::write(&path, rubbish).unwrap();
            assert!(read(&path).is_err());
        }
    }
}
