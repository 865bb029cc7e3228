//! What services print: read from the files that their supervisor writes, which outlive the machine.

use super::patient;
use crate::limits::LOG_FILE_BYTES;
use crate::service_logs::{self, Stream};
use crate::store::{ServiceRecord, ServiceState};
use crate::supervisor::protocol::{Printed, Request};
use crate::workspace::{EXECUTION_MODE, NewOutput, Pyro, WorkspaceError, WorkspaceId};
use serde::Serialize;

/// Lines of the log that are told with a failure, and what is told of each stream at most.
const LAST_LINES: usize = 10;
const LAST_BYTES: usize = 4 << 10;
/// What one step of following gives at most of each stream.
const FOLLOW_BYTES: usize = 1 << 20;

/// How much of a log is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTail {
    /// All that is kept.
    All,
    /// The last lines of each stream, at least one.
    Lines(usize),
}

/// What a service has printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceLogs {
    /// Its workspace.
    pub workspace_id: String,
    /// What it is called.
    pub service_name: String,
    /// What has become of it.
    pub state: &'static str,
    /// `guest_vsock`.
    pub execution_mode: &'static str,
    /// How many lines were asked for; `None` is all.
    pub tail_lines: Option<usize>,
    /// Standard output.
    pub stdout: String,
    /// Whether there was more before.
    pub stdout_truncated: bool,
    /// Standard error.
    pub stderr: String,
    /// Whether there was more before.
    pub stderr_truncated: bool,
    /// Whether there was more of either.
    pub truncated: bool,
}

impl Pyro {
    /// What a service has printed since it was started first, over restarts and starts of its workspace.
    pub async fn service_logs(
        &self,
        address: &str,
        name: &str,
        tail: LogTail,
    ) -> Result<ServiceLogs, WorkspaceError> {
        if tail == LogTail::Lines(0) {
            return Err(WorkspaceError::NoLines);
        }
        let id = self.resolve(address)?;
        let record = self.store.service(id, name)?;
        let [stdout, stderr] = self.read_tails(&record, tail)?;
        let text = |tail: &Tail| String::from_utf8_lossy(&tail.bytes).into_owned();
        Ok(ServiceLogs {
            workspace_id: id.to_string(),
            service_name: record.name,
            state: record.state.as_str(),
            execution_mode: EXECUTION_MODE,
            tail_lines: match tail {
                LogTail::All => None,
                LogTail::Lines(lines) => Some(lines),
            },
            stdout: text(&stdout),
            stdout_truncated: stdout.is_cut,
            stderr: text(&stderr),
            stderr_truncated: stderr.is_cut,
            truncated: stdout.is_cut || stderr.is_cut,
        })
    }

    /// Follows what a service prints, after the last lines that `tail` names and until it has ended for good.
    pub async fn service_follow(
        &self,
        address: &str,
        name: &str,
        tail: LogTail,
    ) -> Result<ServiceFollow<'_>, WorkspaceError> {
        if tail == LogTail::Lines(0) {
            return Err(WorkspaceError::NoLines);
        }
        let id = self.resolve(address)?;
        let record = self.store.service(id, name)?;
        let [stdout, stderr] = self.read_tails(&record, tail)?;
        let seen = Printed { stdout: stdout.next, stderr: stderr.next };
        let first = NewOutput { stdout: stdout.bytes, stderr: stderr.bytes };
        let first = (first != NewOutput::default()).then_some(first);
        Ok(ServiceFollow {
            pyro: self,
            id,
            name: record.name,
            token: record.token,
            first,
            seen,
            lost_bytes: 0,
        })
    }

    fn read_tails(&self, record: &ServiceRecord, tail: LogTail) -> Result<[Tail; 2], WorkspaceError> {
        let dir = self.places.service_log(record.workspace, record.token);
        let read = |stream| {
            let most = usize::try_from(LOG_FILE_BYTES * 3).unwrap_or(usize::MAX);
            let part = service_logs::read(&dir, stream, 0, most);
            let part = part.map_err(WorkspaceError::state("read the log in", &dir))?;
            let (start, is_cut) = match tail {
                LogTail::All => (0, part.lost > 0),
                LogTail::Lines(lines) => {
                    let start = tail_start(&part.bytes, lines);
                    (start, part.lost > 0 || start > 0)
                }
            };
            Ok::<_, WorkspaceError>(Tail { bytes: part.bytes[start..].to_vec(), is_cut, next: part.next })
        };
        Ok([read(Stream::Stdout)?, read(Stream::Stderr)?])
    }

    /// The last lines of a service's streams, each after an end of line. Control characters are escaped.
    pub(super) fn last_words(&self, record: &ServiceRecord) -> String {
        // Without a log the failure is told all the same.
        let Ok(tails) = self.read_tails(record, LogTail::Lines(LAST_LINES)) else { return String::new() };
        let mut words = String::new();
        for tail in tails {
            let bytes = &tail.bytes[tail.bytes.len().saturating_sub(LAST_BYTES)..];
            for line in String::from_utf8_lossy(bytes).lines() {
                words.push_str("\n  ");
                for c in line.chars() {
                    if c.is_control() { words.extend(c.escape_default()) } else { words.push(c) }
                }
            }
        }
        words
    }
}

struct Tail {
    bytes: Vec<u8>,
    is_cut: bool,
    next: u64,
}

/// Where the last `lines` lines begin. An end of line at the very end begins none.
fn tail_start(bytes: &[u8], lines: usize) -> usize {
    let ends = bytes.len() - usize::from(bytes.ends_with(b"\n"));
    let mut starts = bytes[..ends].iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    starts.nth(lines - 1).map_or(0, |(at, _)| at + 1)
}

/// The log of a service as it grows.
pub struct ServiceFollow<'a> {
    pyro: &'a Pyro,
    id: WorkspaceId,
    name: String,
    token: i64,
    first: Option<NewOutput>,
    seen: Printed,
    /// Bytes that were gone before they could be read.
    pub lost_bytes: u64,
}

impl ServiceFollow<'_> {
    /// The next bytes; `None` when the service has ended for good and everything was told.
    pub async fn next(&mut self) -> Result<Option<NewOutput>, WorkspaceError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        loop {
            // Before the look, so that what was printed last is seen after the end.
            let state = self.state()?;
            let new = self.read()?;
            if new != NewOutput::default() {
                return Ok(Some(new));
            }
            match state {
                Some(state) if state.is_live() => {}
                Some(_) | None => return Ok(None),
            }
            match self.pyro.link(self.id)? {
                Some(link) => {
                    let request = Request::WaitServiceLog { name: self.name.clone(), seen: self.seen };
                    patient(link.ask_patiently(&request).await)?;
                }
                None => self.pyro.settle_service(self.id).await?,
            }
        }
    }

    /// Of the service that is followed; `None` where another one has its name.
    fn state(&self) -> Result<Option<ServiceState>, WorkspaceError> {
        let record = self.pyro.store.service(self.id, &self.name)?;
        Ok((record.token == self.token).then_some(record.state))
    }

    fn read(&mut self) -> Result<NewOutput, WorkspaceError> {
        let dir = self.pyro.places.service_log(self.id, self.token);
        let read = |stream, from| {
            let part = service_logs::read(&dir, stream, from, FOLLOW_BYTES);
            part.map_err(WorkspaceError::state("read the log in", &dir))
        };
        let stdout = read(Stream::Stdout, self.seen.stdout)?;
        let stderr = read(Stream::Stderr, self.seen.stderr)?;
        self.seen = Printed { stdout: stdout.next, stderr: stderr.next };
        self.lost_bytes += stdout.lost + stderr.lost;
        Ok(NewOutput { stdout: stdout.bytes, stderr: stderr.bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_whole() {
        for (text, lines, tail) in [
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\nb\nc\n", 3, "a\nb\nc\n"),
            ("a\nb\nc\n", 9, "a\nb\nc\n"),
            ("a\n\n", 1, "\n"),
            ("", 1, ""),
            ("\n", 1, "\n"),
        ] {
            assert_eq!(&text[tail_start(text.as_bytes(), lines)..], tail, "{text:?}");
        }
    }
}
