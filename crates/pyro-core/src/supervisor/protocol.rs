//! What a client and a supervisor say to each other, one JSON packet a message.
//!
//! Both ends come from one build, so the messages carry no version. A descriptor travels with
//! `Answer::Connected` alone.

use crate::problem::Problem;
use pyro_vmm::engine::EngineChoice;
use pyro_vmm::{ExitReason, JailReport};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::PathBuf;

/// From client to supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// First message: boot a machine. Answered with `Started` or `Failed`.
    Start(Box<StartRequest>),
    /// Open a stream to a guest port. Answered with `Connected` or `Failed`.
    Connect { port: u32 },
    /// Kill the machine. Answered with `Ended`, after which the supervisor is gone.
    Stop,
}

/// A machine to boot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StartRequest {
    pub(crate) machine_id: String,
    pub(crate) engine: EngineChoice,
    pub(crate) vmm_binary: PathBuf,
    pub(crate) program_path: OsString,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) vcpu_count: u8,
    pub(crate) mem_mib: u32,
    pub(crate) disk_bytes: Option<u64>,
    pub(crate) state_dir: PathBuf,
    pub(crate) ttl_seconds: u64,
}

/// From supervisor to client.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Started(Box<Started>),
    Connected,
    /// The request could not be carried out.
    Failed(Problem),
    /// The machine is gone; may come unasked, and nothing follows.
    Ended(Ended),
}

/// A machine that runs and whose agent answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Started {
    /// The engine in use, in words: `emulated (QEMU 7.2.22)`.
    pub engine: String,
    /// Why this engine.
    pub engine_reason: String,
    /// What confines the machine's processes.
    pub jail: JailReport,
    /// The guest kernel's release.
    pub kernel: String,
    /// The agent's version.
    pub agent: String,
    /// From the machine's process start to the agent's first word, microseconds of host time.
    pub boot_us: u64,
}

/// How a machine ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ended {
    /// What ended it.
    pub cause: EndCause,
    /// The console's last lines, at most [`CONSOLE_TAIL_BYTES`].
    pub console: String,
}

/// Console text kept with [`Ended`]: a kernel panic's report fits.
pub const CONSOLE_TAIL_BYTES: usize = 16 << 10;

/// What ended a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndCause {
    /// The client asked for it or went away.
    Stopped,
    /// Its time to live was over.
    Expired,
    /// The machine's process said so.
    Machine(ExitReason),
}
