//! Which engines this host has, and why one is chosen.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::EngineSpec;

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
    /// It opens. That alone does not prove that a guest can run.
    Opens {
        /// `KVM_GET_API_VERSION`.
        api_version: i32,
    },
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

/// Looks for engines. `search_path` is a `PATH`; starts `qemu-system-x86_64 --version`.
pub fn probe(search_path: &OsStr) -> EngineReport {
    EngineReport { kvm: probe_kvm(Path::new("/dev/kvm")), qemu: probe_qemu(search_path) }
}

impl KvmReport {
    /// One line for people: what the device is, and that this release does not use it.
    pub fn reason(&self) -> String {
        let device = match self {
            Self::Absent => "/dev/kvm does not exist".to_owned(),
            Self::Unopenable { why } => format!("/dev/kvm does not open: {why}"),
            Self::Opens { api_version } => format!("/dev/kvm opens (API {api_version})"),
        };
        format!("the native KVM engine is not part of this release; {device}")
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

impl EngineReport {
    /// The engine for `choice`, or why there is none.
    pub fn choose(&self, choice: EngineChoice) -> Result<ChosenEngine, EngineError> {
        let kvm = self.kvm.reason();
        let why = match choice {
            EngineChoice::Kvm => return Err(EngineError::Kvm(kvm)),
            EngineChoice::Auto => kvm,
            EngineChoice::Emulated => "asked for".to_owned(),
        };
        match &self.qemu {
            QemuReport::Found { path, .. } => {
                Ok(ChosenEngine { engine: EngineSpec::Emulated { qemu: path.clone() }, why })
            }
            QemuReport::Absent | QemuReport::Broken { .. } | QemuReport::TooOld { .. } => {
                Err(EngineError::Emulated(self.qemu.reason()))
            }
        }
    }
}

fn probe_kvm(device: &Path) -> KvmReport {
    match OpenOptions::new().read(true).write(true).open(device) {
        Ok(file) => match super::sys::kvm_api_version(&file) {
            Ok(api_version) => KvmReport::Opens { api_version },
            Err(error) => KvmReport::Unopenable { why: error.to_string() },
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => KvmReport::Absent,
        Err(error) => KvmReport::Unopenable { why: error.to_string() },
    }
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
