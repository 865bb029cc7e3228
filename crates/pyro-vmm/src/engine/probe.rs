//! Which engines this host has, and why one is chosen.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::EngineSpec;
use crate::machine;

/// The device of the native engine.
pub const KVM_DEVICE: &str = "/dev/kvm";
/// The program that the emulated engine runs.
pub const QEMU_PROGRAM: &str = "qemu-system-x86_64";
/// The oldest QEMU that the emulated engine is tested with.
pub const OLDEST_QEMU: (u32, u32) = (7, 2);

/// What the caller asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineChoice {
    /// The best one that works here.
    #[default]
    Auto,
    /// Hardware virtualisation.
    Kvm,
    /// QEMU's software emulation.
    Emulated,
}

/// What was found on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineReport {
    /// Hardware virtualisation.
    pub kvm: KvmReport,
    /// Software emulation.
    pub qemu: QemuReport,
}

/// State of `/dev/kvm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvmReport {
    /// There is no such device.
    Absent,
    /// It exists but does not open for reading and writing.
    Unopenable {
        /// Why.
        why: String,
    },
    /// It opens, and no guest can run.
    Unusable {
        /// Why.
        why: String,
    },
    /// A small guest ran.
    Usable,
}

/// State of QEMU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QemuReport {
    /// No program of that name in the search path.
    Absent,
    /// Found, but it does not say which version it is.
    Broken {
        /// Where.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Found, but older than [`OLDEST_QEMU`].
    TooOld {
        /// Where.
        path: PathBuf,
        /// Which.
        version: String,
    },
    /// Usable.
    Found {
        /// Where.
        path: PathBuf,
        /// Which.
        version: String,
    },
}

/// An engine with the reason why it was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenEngine {
    /// The engine.
    pub engine: EngineSpec,
    /// One line for people.
    pub why: String,
}

/// Why no engine can be had.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EngineError {
    /// Hardware virtualisation was asked for.
    #[error("engine kvm cannot be used: {0}")]
    Kvm(String),
    /// Software emulation was asked for or is all that is left.
    #[error("engine emulated cannot be used: {0}")]
    Emulated(String),
}

/// Looks for all engines. `search_path` is a `PATH`; starts `qemu-system-x86_64 --version`, and `vmm_binary` where
/// there is a KVM to try.
pub fn probe(search_path: &OsStr, vmm_binary: &Path) -> EngineReport {
    EngineReport { kvm: probe_kvm(vmm_binary), qemu: probe_qemu(search_path) }
}

/// Looks whether `/dev/kvm` runs guests: starts `vmm_binary`, which runs a small one.
pub fn probe_kvm(vmm_binary: &Path) -> KvmReport {
    match open_device(Path::new(KVM_DEVICE)) {
        Ok(device) => match machine::try_kvm(vmm_binary, &device) {
            Ok(Ok(())) => KvmReport::Usable,
            Ok(Err(why)) => KvmReport::Unusable { why },
            Err(error) => KvmReport::Unusable { why: format!("it could not be tried: {error}") },
        },
        Err(report) => report,
    }
}

impl KvmReport {
    /// One line for people.
    pub fn reason(&self) -> String {
        match self {
            Self::Absent => format!("{KVM_DEVICE} does not exist"),
            Self::Unopenable { why } => format!("{KVM_DEVICE} does not open: {why}"),
            Self::Unusable { why } => format!("{KVM_DEVICE} opens, but {why}"),
            Self::Usable => format!("{KVM_DEVICE} runs guests"),
        }
    }
}

impl QemuReport {
    /// One line for people.
    pub fn reason(&self) -> String {
        let (major, minor) = OLDEST_QEMU;
        match self {
            Self::Absent => format!("{QEMU_PROGRAM} is not in PATH"),
            Self::Broken { path, why } => format!("{} does not work: {why}", path.display()),
            Self::TooOld { path, version } => {
                format!("{} is QEMU {version}, {major}.{minor} or newer is needed", path.display())
            }
            Self::Found { path, version } => format!("{} is QEMU {version}", path.display()),
        }
    }
}

/// The engine for `choice`, or why there is none. Looks at nothing that does not matter for it: `kvm` is called
/// unless the emulated engine is asked for, QEMU is looked for in `search_path` unless KVM is taken.
pub fn choose(
    choice: EngineChoice,
    search_path: &OsStr,
    kvm: impl FnOnce() -> KvmReport,
) -> Result<ChosenEngine, EngineError> {
    choose_from(choice, kvm, || probe_qemu(search_path))
}

impl EngineReport {
    /// The engine for `choice`, or why there is none.
    pub fn choose(&self, choice: EngineChoice) -> Result<ChosenEngine, EngineError> {
        choose_from(choice, || self.kvm.clone(), || self.qemu.clone())
    }
}

fn choose_from(
    choice: EngineChoice,
    kvm: impl FnOnce() -> KvmReport,
    qemu: impl FnOnce() -> QemuReport,
) -> Result<ChosenEngine, EngineError> {
    let why = match choice {
        EngineChoice::Emulated => "asked for".to_owned(),
        EngineChoice::Auto | EngineChoice::Kvm => {
            let kvm = kvm();
            let why = kvm.reason();
            match (kvm, choice) {
                (KvmReport::Usable, _) => return Ok(ChosenEngine { engine: EngineSpec::Kvm, why }),
                (_, EngineChoice::Kvm) => return Err(EngineError::Kvm(why)),
                _ => why,
            }
        }
    };
    let qemu = qemu();
    let reason = qemu.reason();
    match qemu {
        QemuReport::Found { path, .. } => {
            Ok(ChosenEngine { engine: EngineSpec::Emulated { qemu: path }, why })
        }
        QemuReport::Absent | QemuReport::Broken { .. } | QemuReport::TooOld { .. } => {
            Err(EngineError::Emulated(reason))
        }
    }
}

fn open_device(device: &Path) -> Result<File, KvmReport> {
    OpenOptions::new().read(true).write(true).open(device).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => KvmReport::Absent,
        _ => KvmReport::Unopenable { why: error.to_string() },
    })
}

fn probe_qemu(search_path: &OsStr) -> QemuReport {
    let candidates = std::env::split_paths(search_path).filter(|directory| directory.is_absolute());
    let Some(path) = candidates.map(|directory| directory.join(QEMU_PROGRAM)).find(|path| is_program(path))
    else {
        return QemuReport::Absent;
    };
    let output = Command::new(&path).arg("--version").env_clear().stdin(Stdio::null()).output();
    let text = match output {
        Ok(output) if output.status.success() => output.stdout,
        Ok(output) => {
            let why = format!("--version ends with {}", output.status);
            return QemuReport::Broken { path, why };
        }
        Err(error) => return QemuReport::Broken { path, why: error.to_string() },
    };
    match parse_version(&String::from_utf8_lossy(&text)) {
        None => QemuReport::Broken { path, why: "--version names no version".to_owned() },
        Some((version, number)) if number < OLDEST_QEMU => QemuReport::TooOld { path, version },
        Some((version, _)) => QemuReport::Found { path, version },
    }
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// The version's text and its first two numbers from `QEMU emulator version 7.2.22 (Debian ...)`.
fn parse_version(text: &str) -> Option<(String, (u32, u32))> {
    let version = text.split_once("version ")?.1.split_whitespace().next()?;
    let mut numbers = version.split('.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some((version.to_owned(), (major, minor)))
}

#[cfg(test)]
mod tests;
