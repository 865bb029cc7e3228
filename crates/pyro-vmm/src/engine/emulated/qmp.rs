//! QEMU's monitor: what the emulator says of the machine's end.
//!
//! The protocol is QEMU's `docs/interop/qmp-spec.txt`: lines of JSON. The guest cannot write here, yet lines
//! are bounded: QEMU is not trusted with this process's memory.

use serde::Deserialize;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use crate::limits;

/// What matters of the monitor's messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MonitorEvent {
    /// The emulator has set the machine up and talks to us.
    Ready {
        /// The emulator's version.
        version: String,
    },
    /// It has done what it was asked for.
    Done(Wish),
    /// The guest powered itself off.
    PoweredOff,
    /// The guest reset itself: a reboot, or a panic that ends in one.
    Reset,
    /// Something outside the guest ended the emulator.
    Ended,
}

/// What the monitor can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Stop the vCPUs.
    Pause,
    /// Let them go on.
    Resume,
}

impl Wish {
    /// The command, which is also what its answer is known by.
    fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "stop",
            Self::Resume => "cont",
        }
    }
}

#[derive(Deserialize)]
struct Message {
    #[serde(rename = "QMP")]
    greeting: Option<Greeting>,
    #[serde(rename = "return")]
    answer: Option<serde_json::Value>,
    /// Absent from the negotiation's answer.
    id: Option<serde_json::Value>,
    event: Option<String>,
    data: Option<Shutdown>,
}

#[derive(Deserialize)]
struct Shutdown {
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Greeting {
    version: Version,
}

#[derive(Deserialize)]
struct Version {
    qemu: Numbers,
}

#[derive(Deserialize)]
struct Numbers {
    major: u32,
    minor: u32,
    micro: u32,
}

/// Leaves the negotiation behind, so that events come.
const NEGOTIATED: &str = r#"{"execute":"qmp_capabilities"}"#;
/// Stops the timer's first channel (Intel 8254: control word for mode 0, without a count), which would wake the
/// emulator fifty times a second. No guest uses it; the channel that the kernel measures with is another.
const TIMER_STOPPED: &str =
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"o/b 0x43 0x30"},"id":"timer"}"#;

/// A connection to the monitor.
pub(crate) struct Monitor {
    stream: UnixStream,
    line: Vec<u8>,
    version: String,
    /// Read, but not looked at yet: a reader takes one event at a time.
    unread: VecDeque<u8>,
}

impl Monitor {
    /// Says what there is to say; what comes after are events.
    pub(crate) fn open(mut stream: UnixStream) -> io::Result<Self> {
        stream.write_all(format!("{NEGOTIATED}\n{TIMER_STOPPED}\n").as_bytes())?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, line: Vec::new(), version: String::new(), unread: VecDeque::new() })
    }

    /// Asks for something; [`MonitorEvent::Done`] answers. Fails with `WouldBlock` when the emulator does not listen.
    pub(crate) fn ask(&mut self, wish: Wish) -> io::Result<()> {
        let command = wish.as_str();
        // Shorter than what a socket takes at once.
        self.stream.write_all(format!("{{\"execute\":\"{command}\",\"id\":\"{command}\"}}\n").as_bytes())
    }

    /// Reads what is there; the first event that matters, if one came. Call again until there is none:
    /// more may have been read from the descriptor than was looked at.
    pub(crate) fn read(&mut self) -> io::Result<Option<MonitorEvent>> {
        let mut bytes = [0; 4096];
        loop {
            if let Some(event) = self.take_event()? {
                return Ok(Some(event));
            }
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => self.unread.extend(&bytes[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn take_event(&mut self) -> io::Result<Option<MonitorEvent>> {
        while let Some(byte) = self.unread.pop_front() {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                if let Some(event) = self.parse(&line) {
                    return Ok(Some(event));
                }
                continue;
            }
            self.line.push(byte);
            if self.line.len() > limits::MAX_QMP_LINE_BYTES {
                return Err(io::Error::other("the emulator's monitor sent an endless line"));
            }
        }
        Ok(None)
    }

    fn parse(&mut self, line: &[u8]) -> Option<MonitorEvent> {
        let message: Message = serde_json::from_slice(line).ok()?;
        if let Some(Greeting { version: Version { qemu } }) = message.greeting {
            self.version = format!("{}.{}.{}", qemu.major, qemu.minor, qemu.micro);
        }
        if message.answer.is_some() && message.id.is_none() {
            return Some(MonitorEvent::Ready { version: self.version.clone() });
        }
        if message.answer.is_some() {
            let id = message.id.as_ref().and_then(|id| id.as_str());
            let wish = [Wish::Pause, Wish::Resume].into_iter().find(|wish| Some(wish.as_str()) == id);
            return wish.map(MonitorEvent::Done);
        }
        if message.event.as_deref() != Some("SHUTDOWN") {
            return None;
        }
        match message.data?.reason?.as_str() {
            "guest-shutdown" => Some(MonitorEvent::PoweredOff),
            "guest-reset" | "guest-panic" => Some(MonitorEvent::Reset),
            _ => Some(MonitorEvent::Ended),
        }
    }
}

/// A monitor that says `bytes`; what is not read until its end was refused.
pub(crate) fn fuzz_monitor(bytes: &[u8]) -> io::Result<()> {
    let (near, mut far) = UnixStream::pair()?;
    let mut monitor = Monitor::open(near)?;
    far.set_nonblocking(true)?;
    far.write_all(bytes)?;
    drop(far);
    loop {
        monitor.read()?;
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shutdown_events_tell_their_reason_and_all_else_is_passed_over() {
        let (ours, mut qemu) = UnixStream::pair().unwrap();
        let mut monitor = Monitor::open(ours).unwrap();
        assert_eq!(monitor.read().unwrap(), None);
        qemu.write_all(b"{\"QMP\":{\"version\":{\"qemu\":{\"micro\":22,\"minor\":2,\"major\":7}}}}\r\n")
            .unwrap();
        assert_eq!(monitor.read().unwrap(), None);
        // Two lines at once are two events, and an answer that nobody waits for is none.
        qemu.write_all(b"{\"return\":{}}\r\n{\"return\":\"\",\"id\":\"timer\"}\r\n{\"event\":\"SHUTDOWN\",\"data\":{\"guest\":true,").unwrap();
        assert_eq!(monitor.read().unwrap(), Some(MonitorEvent::Ready { version: "7.2.22".to_owned() }));
        assert_eq!(monitor.read().unwrap(), None);
        qemu.write_all(b"\"reason\":\"guest-shutdown\"}}\r\n").unwrap();
        assert_eq!(monitor.read().unwrap(), Some(MonitorEvent::PoweredOff));
        qemu.write_all(&vec![b'x'; limits::MAX_QMP_LINE_BYTES + 2]).unwrap();
        assert!(monitor.read().is_err());
        drop(qemu);
    }
}
