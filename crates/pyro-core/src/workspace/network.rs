//! What a workspace's guest may reach, and the log of what it has.

use super::{LogTail, Pyro, WorkspaceError, WorkspaceId};
use crate::limits::{LOG_FILE_BYTES, SUPERVISOR_DEADLINE};
use crate::machine::{MachineError, unexpected};
use crate::network::{self, FlowEvent, Memory, NetworkCheck, NetworkDenials, OpenFlow, OpenFlows};
use crate::service_logs;
use crate::store::Millis;
use crate::supervisor::protocol::{Answer, Request};
use pyro_net::policy::Verdict;
use serde::Serialize;

/// What one step of following reads at most.
const FOLLOW_BYTES: usize = 1 << 20;

/// Which records of a log are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkRecords {
    /// Every flow.
    All,
    /// What was denied.
    Denied,
}

impl NetworkRecords {
    fn has(self, event: &FlowEvent) -> bool {
        match self {
            Self::All => true,
            Self::Denied => event.verdict == Verdict::Deny,
        }
    }
}

/// What a workspace's guest has reached, and what was denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkLog {
    /// The workspace.
    pub workspace_id: String,
    /// Each flow when it had ended, the first first.
    pub flows: Vec<FlowEvent>,
    /// Whether there was more before.
    pub truncated: bool,
    /// Flows that go on, the oldest first.
    pub open: Vec<OpenFlow>,
    /// Whether there are older ones of these.
    pub open_truncated: bool,
}

impl Pyro {
    /// What the workspace's policy says of `destination`, a URL or `HOST:PORT`.
    pub fn network_check(&self, address: &str, destination: &str) -> Result<NetworkCheck, WorkspaceError> {
        let workspace = self.store.get(self.resolve(address)?)?;
        let policy = network::enforced(workspace.network_policy, &workspace.network_rules);
        let proxy = match workspace.uses_host_proxy {
            true => Some(self.config.host_proxy.parse().map_err(MachineError::from)?),
            false => None,
        };
        Ok(network::check(&policy, proxy.as_ref(), destination)?)
    }

    /// What the workspace's guest has reached, what was denied, and unless only that is wanted what goes on now.
    pub async fn network_log(
        &self,
        address: &str,
        records: NetworkRecords,
        tail: LogTail,
    ) -> Result<NetworkLog, WorkspaceError> {
        let id = self.resolve(address)?;
        // First, so that a flow that ends meanwhile is told twice rather than not at all.
        let OpenFlows { flows: open, truncated: open_truncated } = match records {
            NetworkRecords::All => self.open_flows(id).await?,
            NetworkRecords::Denied => OpenFlows::default(),
        };
        let (flows, truncated, _) = self.last_flows(id, records, tail)?;
        Ok(NetworkLog { workspace_id: id.to_string(), flows, truncated, open, open_truncated })
    }

    /// What the log has of denials from one moment to another, or to now.
    pub(super) fn denied_between(
        &self,
        id: WorkspaceId,
        from: Millis,
        until: Option<Millis>,
    ) -> Result<NetworkDenials, WorkspaceError> {
        let time = |at: Millis| u64::try_from(at).unwrap_or(0);
        let (from, until) = (time(from), until.map_or(u64::MAX, time));
        let (flows, _, _) = self.last_flows(id, NetworkRecords::All, LogTail::All)?;
        let mut memory = Memory::default();
        for event in flows.iter().filter(|event| (from..=until).contains(&event.ended_ms)) {
            memory.note(event);
        }
        Ok(memory.since(0))
    }

    async fn open_flows(&self, id: WorkspaceId) -> Result<OpenFlows, WorkspaceError> {
        let Some(link) = self.link(id)? else { return Ok(OpenFlows::default()) };
        match link.ask(&Request::OpenFlows, SUPERVISOR_DEADLINE * 2).await {
            Ok(Answer::OpenFlows(flows)) => Ok(flows),
            // Its end is the end of them.
            Ok(Answer::Ended(_)) | Err(MachineError::SupervisorLost(_)) => Ok(OpenFlows::default()),
            Ok(other) => Err(unexpected(other).into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Follows the log after its last records, until the machine has ended.
    pub fn network_follow(
        &self,
        address: &str,
        records: NetworkRecords,
        tail: LogTail,
    ) -> Result<NetworkFollow<'_>, WorkspaceError> {
        let id = self.resolve(address)?;
        let (flows, _, parser) = self.last_flows(id, records, tail)?;
        let first = (!flows.is_empty()).then_some(flows);
        Ok(NetworkFollow { pyro: self, id, records, first, parser, lost_bytes: 0 })
    }

    fn last_flows(
        &self,
        id: WorkspaceId,
        records: NetworkRecords,
        tail: LogTail,
    ) -> Result<(Vec<FlowEvent>, bool, Parser), WorkspaceError> {
        let wanted = match tail {
            LogTail::Lines(0) => return Err(WorkspaceError::NoLines),
            LogTail::Lines(lines) => lines,
            LogTail::All => usize::MAX,
        };
        let mut parser = Parser::default();
        let most = usize::try_from(LOG_FILE_BYTES * 3).unwrap_or(usize::MAX);
        let (mut flows, lost) = self.read_flows(id, &mut parser, most)?;
        flows.retain(|event| records.has(event));
        let cut = flows.len().saturating_sub(wanted);
        Ok((flows.split_off(cut), lost > 0 || cut > 0, parser))
    }

    fn read_flows(
        &self,
        id: WorkspaceId,
        parser: &mut Parser,
        most: usize,
    ) -> Result<(Vec<FlowEvent>, u64), WorkspaceError> {
        let dir = self.places.network_log(id);
        let part = service_logs::read_flows(&dir, parser.next, most)
            .map_err(WorkspaceError::state("read the log in", dir))?;
        parser.next = part.next;
        Ok((parser.take(&part.bytes, part.lost), part.lost))
    }
}

/// Makes records of bytes that come in any pieces.
#[derive(Debug, Default)]
struct Parser {
    /// The number of the next byte to read.
    next: u64,
    /// The beginning of a line.
    begun: Vec<u8>,
}

impl Parser {
    /// A line that is not whole, for bytes were lost or its writer died, is none.
    fn take(&mut self, bytes: &[u8], lost: u64) -> Vec<FlowEvent> {
        if lost > 0 {
            self.begun.clear();
        }
        let mut events = Vec::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(&rest[..end]);
            events.extend(serde_json::from_slice(&self.begun).ok());
            self.begun.clear();
            rest = &rest[end + 1..];
        }
        self.begun.extend_from_slice(rest);
        events
    }
}

/// A network's log as it grows.
pub struct NetworkFollow<'a> {
    pyro: &'a Pyro,
    id: WorkspaceId,
    records: NetworkRecords,
    first: Option<Vec<FlowEvent>>,
    parser: Parser,
    /// Bytes that were gone before they could be read.
    pub lost_bytes: u64,
}

impl NetworkFollow<'_> {
    /// The next records; `None` when the machine has ended and everything was told.
    pub async fn next(&mut self) -> Result<Option<Vec<FlowEvent>>, WorkspaceError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        loop {
            // Before the look, so that what was recorded last is seen after the end.
            let link = self.pyro.link(self.id)?;
            let from = self.parser.next;
            let (mut flows, lost) = self.pyro.read_flows(self.id, &mut self.parser, FOLLOW_BYTES)?;
            self.lost_bytes += lost;
            flows.retain(|event| self.records.has(event));
            if !flows.is_empty() {
                return Ok(Some(flows));
            }
            match link {
                // It was not all, or not what is wanted.
                _ if self.parser.next > from => {}
                Some(link) => {
                    let request = Request::WaitNetworkLog { seen: self.parser.next };
                    // A machine that ended meanwhile is not there at the next look.
                    let _ = link.ask_patiently(&request).await;
                }
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_in_any_pieces_and_halves_are_left_out() {
        let line = r#"{"subject":"flow","started_ms":1,"ended_ms":2,"protocol":"tcp","source":"198.19.255.2:4","destination":"9.9.9.9:443","verdict":"allow","sent_bytes":1,"received_bytes":2,"end":"finished","text":"t","left_out":0}"#;
        let bytes = format!("{line}\n{{\"half\n{line}\n{line}\n").into_bytes();
        let mut whole = Parser::default();
        assert_eq!(whole.take(&bytes, 0).len(), 3);
        let mut pieces = Parser::default();
        assert_eq!(bytes.chunks(7).flat_map(|piece| pieces.take(piece, 0)).count(), 3);
        assert!(pieces.take(&bytes[..20], 0).is_empty());
        assert_eq!(pieces.take(&bytes, 9).len(), 3, "what was lost ends the line before");
    }
}
