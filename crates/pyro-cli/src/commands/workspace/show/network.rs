use crate::output::printable;
use pyro_core::network::{FlowEvent, OpenFlow};

/// A flow in one line.
pub(in super::super) fn flow(event: &FlowEvent) -> String {
    let mut line = format!(
        "[network] started_at={}.{:03} duration_ms={} sent_bytes={} received_bytes={} {}",
        event.started_ms / 1000,
        event.started_ms % 1000,
        event.ended_ms.saturating_sub(event.started_ms),
        event.sent_bytes,
        event.received_bytes,
        printable(&event.text),
    );
    if event.left_out > 0 {
        line.push_str(&format!(" ({} before it were left out)", event.left_out));
    }
    line
}

/// A flow that goes on, in one line.
pub(in super::super) fn open_flow(flow: &OpenFlow) -> String {
    format!(
        "[network] started_at={}.{:03} state={} sent_bytes={} received_bytes={} {}",
        flow.started_ms / 1000,
        flow.started_ms % 1000,
        flow.state,
        flow.sent_bytes,
        flow.received_bytes,
        printable(&flow.text),
    )
}
