//! The engine's process as seen from the loop: is it alive, what did it say, end it.
//!
//! Works through descriptors that were opened before the jail closed.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, ChildStderr};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, WaitId, WaitIdOptions};

use crate::limits;

/// The engine's process. Dropping it ends it.
pub(super) struct EngineProcess {
    pid: u32,
    pidfd: OwnedFd,
    stderr: ChildStderr,
    output: Vec<u8>,
    status: Option<String>,
}

impl EngineProcess {
    pub(super) fn new(child: Child, pidfd: OwnedFd, stderr: ChildStderr) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&stderr, true)?;
        Ok(Self { pid: child.id(), pidfd, stderr, output: Vec::new(), status: None })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn output_fd(&self) -> BorrowedFd<'_> {
        self.stderr.as_fd()
    }

    /// Takes what the engine wrote and keeps the end of it; `false` when it will write no more.
    pub(super) fn read_output(&mut self) -> bool {
        let mut bytes = [0; limits::ENGINE_OUTPUT_BYTES];
        match self.stderr.read(&mut bytes) {
            Ok(0) => false,
            Ok(len) => {
                self.output.extend_from_slice(&bytes[..len]);
                let excess = self.output.len().saturating_sub(limits::ENGINE_OUTPUT_BYTES);
                self.output.drain(..excess);
                true
            }
            Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        }
    }

    /// The last of what the engine wrote.
    pub(super) fn output(&mut self) -> String {
        self.read_output();
        String::from_utf8_lossy(&self.output).trim().to_owned()
    }

    /// Gives the process a moment to end by itself, then kills it. Says how it ended.
    pub(super) fn end(&mut self, patience: Duration) -> String {
        if let Some(status) = &self.status {
            return status.clone();
        }
        let limit = Timespec::try_from(patience).ok();
        let _ = poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], limit.as_ref());
        // Fails only when it is gone already.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        let waited = rustix::io::retry_on_intr(|| {
            rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED)
        });
        let status = match waited {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("status {code}"),
                (None, Some(signal)) => format!("signal {signal}"),
                (None, None) => "an unknown status".to_owned(),
            },
            Ok(None) | Err(_) => "an unknown status".to_owned(),
        };
        self.status = Some(status.clone());
        status
    }
}

impl AsFd for EngineProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for EngineProcess {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}
