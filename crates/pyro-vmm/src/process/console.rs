//! The guest's serial console, kept as a bounded log.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use crate::device::console::ConsoleLog;
use crate::limits;
use crate::protocol::ExitReason;

/// What the kernel writes when it gives up; its reason follows on the same line.
const PANIC_MARK: &str = "Kernel panic - not syncing: ";
/// What the kernel writes before it resets the CPU on purpose.
const RESTART_MARK: &str = "reboot: Restarting system";

/// The host's end of the serial line.
pub(super) struct ConsoleReader {
    stream: UnixStream,
    log: ConsoleLog,
}

impl ConsoleReader {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, log: ConsoleLog::new(limits::CONSOLE_TAIL_BYTES) })
    }

    /// Takes a bounded part of what is there; tells whether there was anything.
    pub(super) fn read(&mut self) -> io::Result<bool> {
        let mut bytes = [0; limits::CONSOLE_READ_BYTES];
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => {
                self.log.push(&bytes[..len]);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn tail(&self) -> Vec<u8> {
        self.log.tail(limits::CONSOLE_TAIL_BYTES)
    }
}

impl AsFd for ConsoleReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Why the guest's CPU was reset, by what its kernel wrote. A guest can write so itself; it only lies about its
/// own end.
pub(super) fn reset_reason(tail: &[u8]) -> ExitReason {
    let tail = String::from_utf8_lossy(tail);
    if let Some((_, rest)) = tail.split_once(PANIC_MARK) {
        let line = rest.lines().next().unwrap_or_default().trim();
        // The guest may have written it itself, without end.
        return ExitReason::Panicked { message: line.chars().take(limits::PANIC_MESSAGE_CHARS).collect() };
    }
    match tail.contains(RESTART_MARK) {
        true => ExitReason::Rebooted,
        false => ExitReason::TripleFault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_explained_by_the_kernels_words() {
        let panic = "[ 1.0] Kernel panic - not syncing: Attempted to kill init!\r\n[ 1.1] ---[ end\r\n";
        assert_eq!(
            reset_reason(panic.as_bytes()),
            ExitReason::Panicked { message: "Attempted to kill init!".to_owned() }
        );
        assert_eq!(reset_reason(b"[ 1.0] reboot: Restarting system\r\n"), ExitReason::Rebooted);
        assert_eq!(reset_reason(b""), ExitReason::TripleFault);
    }

    #[test]
    fn an_endless_panic_message_still_fits_an_event() {
        // What takes the most bytes in JSON.
        let endless = format!("{PANIC_MARK}{}", "\u{1}".repeat(limits::CONSOLE_TAIL_BYTES));
        let console_tail = endless.as_bytes()[..limits::CONSOLE_TAIL_BYTES].to_vec();
        let event = crate::protocol::Event::Exited { reason: reset_reason(endless.as_bytes()), console_tail };
        assert!(serde_json::to_vec(&event).unwrap().len() <= limits::MAX_EVENT_BYTES);
    }
}
