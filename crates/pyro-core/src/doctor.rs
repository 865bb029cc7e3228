//! Whether this host can run machines, and what to do where it cannot.

use crate::config::Config;
use crate::engine;
use crate::environments;
use crate::guest_bundle::GuestBundle;
use crate::problem::{Explain, Problem};
use pyro_vmm::JailReport;
use pyro_vmm::engine::{EngineError, EngineReport, QemuReport};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The only platform there is.
pub const PLATFORM: &str = "linux-x86_64";

/// What [`examine`] found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `linux-x86_64`.
    pub platform: &'static str,
    /// Whether `pyro run` can work here.
    pub runtime_ok: bool,
    /// What is wrong, a sentence each, with what to do.
    pub issues: Vec<String>,
    /// `/dev/kvm`, as this user finds it.
    pub kvm: Kvm,
    /// Facts about the host's network; pyro itself needs none of them.
    pub networking: Networking,
    /// The engine that `--engine auto` takes, and why.
    pub engine: Engine,
    /// What confines a machine's processes here, as a started one observed it.
    pub jail: Option<JailReport>,
    /// The guest bundle and the environments; absent when the bundle is unusable.
    pub runtime: Option<Runtime>,
}

/// The kernel's virtual machine device. That it opens does not prove that a guest can run on it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Kvm {
    /// `/dev/kvm` exists.
    pub exists: bool,
    /// This user may read it.
    pub readable: bool,
    /// This user may write it.
    pub writable: bool,
}

/// The host's network devices.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Networking {
    /// `/dev/net/tun` exists.
    pub tun_available: bool,
    /// IPv4 forwarding is on.
    pub ip_forward_enabled: bool,
}

/// The engine in use.
#[derive(Clone, Debug, Serialize)]
pub struct Engine {
    /// `kvm`, `emulated` or `none`.
    pub name: &'static str,
    /// Why this one.
    pub reason: String,
    /// What was looked at.
    pub found: EngineReport,
}

impl Engine {
    /// The emulator's version, where there is a usable one.
    pub fn qemu_version(&self) -> Option<&str> {
        match &self.found.qemu {
            QemuReport::Found { version, .. } => Some(version),
            QemuReport::Absent | QemuReport::Broken { .. } | QemuReport::TooOld { .. } => None,
        }
    }
}

/// What the guest bundle gives.
#[derive(Clone, Debug, Serialize)]
pub struct Runtime {
    /// Where the bundle is.
    pub bundle_root: PathBuf,
    /// The bundle's version.
    pub bundle_version: String,
    /// Versions of what is inside, and of pyro.
    pub component_versions: BTreeMap<String, String>,
    /// What machines can do.
    pub capabilities: Capabilities,
    /// Version of the environment catalog.
    pub catalog_version: String,
    /// Where environments are kept.
    pub cache_dir: PathBuf,
    /// The catalog, with what is installed.
    pub environments: Vec<environments::Inspection>,
}

/// What machines can do here.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Capabilities {
    /// Boot a guest.
    pub supports_vm_boot: bool,
    /// Run commands in it.
    pub supports_guest_exec: bool,
    /// Reach a network from it.
    pub supports_guest_network: bool,
}

/// Looks at the host. Starts nothing but the machine program's and QEMU's own self-reports.
pub fn examine(config: &Config) -> Report {
    let mut issues = Vec::new();
    let found = engine::examine(engine::Search {
        program_path: &config.program_path,
        vmm_binary: &config.vmm_binary,
        state_dir: &config.state_dir,
    });
    let engine = match found.choose(config.engine) {
        Ok(chosen) => Engine { name: chosen.engine.name(), reason: chosen.why, found },
        Err(error) => {
            issues.push(match error {
                EngineError::Kvm(_) => error.to_string(),
                EngineError::Emulated(_) => {
                    format!("{error}; install QEMU's x86 system emulator (Debian: qemu-system-x86)")
                }
            });
            Engine { name: "none", reason: error.to_string(), found }
        }
    };
    let jail = match pyro_vmm::probe_jail(&config.vmm_binary) {
        Ok(report) => Some(report),
        Err(error) => {
            issues.push(format!(
                "the machine program `{}` does not work: {error}",
                config.vmm_binary.display()
            ));
            None
        }
    };
    let runtime = runtime(config, engine.name != "none" && jail.is_some(), &mut issues);
    Report {
        platform: PLATFORM,
        runtime_ok: issues.is_empty(),
        issues,
        kvm: kvm(Path::new("/dev/kvm")),
        networking: Networking {
            tun_available: Path::new("/dev/net/tun").exists(),
            ip_forward_enabled: std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
                .is_ok_and(|text| text.trim() == "1"),
        },
        engine,
        jail,
        runtime,
    }
}

fn kvm(device: &Path) -> Kvm {
    use rustix::fs::{Access, access};
    Kvm {
        exists: device.exists(),
        readable: access(device, Access::READ_OK).is_ok(),
        writable: access(device, Access::WRITE_OK).is_ok(),
    }
}

fn runtime(config: &Config, can_boot: bool, issues: &mut Vec<String>) -> Option<Runtime> {
    let mut tell = |problem: Problem| issues.push(sentence(problem));
    let bundle = GuestBundle::open(config.guest_bundle_dir.as_deref()).map_err(|e| tell(e.explain())).ok()?;
    match bundle.verify() {
        Ok(wrong) if wrong.is_empty() => {}
        Ok(wrong) => issues.push(format!(
            "files of the guest bundle in `{}` are damaged: {}; rebuild it with `cargo xtask guest`",
            bundle.dir.display(),
            wrong.join(", ")
        )),
        Err(error) => tell(error.explain()),
    }
    let environments = environments::list(config);
    let mut component_versions = bundle.manifest.component_versions;
    component_versions.insert("pyro".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    let works = can_boot && issues.is_empty();
    Some(Runtime {
        bundle_root: bundle.dir,
        bundle_version: bundle.manifest.bundle_version,
        component_versions,
        capabilities: Capabilities {
            supports_vm_boot: works,
            supports_guest_exec: works,
            supports_guest_network: works,
        },
        catalog_version: environments::catalog_version().to_owned(),
        cache_dir: config.environment_cache_dir.clone(),
        environments,
    })
}

fn sentence(problem: Problem) -> String {
    match problem.hint {
        Some(hint) => format!("{}; {hint}", problem.message),
        None => problem.message,
    }
}
