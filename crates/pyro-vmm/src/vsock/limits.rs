//! Everything that is bounded in the streams between guest and host, and why there.

use std::time::Duration;

/// Connections at a time: a thousand to ports of the guest beside what operations need; those that only deliver
/// their last bytes count.
pub const MAX_CONNECTIONS: usize = 1535;
/// What the guest may send on one connection before the host has read it. Linux has the same default; the
/// buffer is only allocated as far as the host's socket does not take the data.
pub const BUFFER_BYTES: u32 = 256 << 10;
/// The guest is told about room when it knows of less than this, before it has to stop: half of the
/// buffer is two of its largest packets.
pub const CREDIT_UPDATE_BYTES: u32 = BUFFER_BYTES / 2;
/// The largest payload of one packet; Linux never sends more.
pub const MAX_PAYLOAD_BYTES: u32 = 64 << 10;
/// What a packet that waits to be read costs a Linux guest beside its bytes: since 6.12.92 it resets the
/// connection when its waiting packets, 576 bytes each on x86-64, exceed the buffer it announced.
pub const PACKET_OVERHEAD_BYTES: u32 = 640;
/// Packets on the way to one connection, whatever the guest announces; bounds what is remembered of them.
pub const MAX_PACKETS_UNREAD: usize = 4096;
/// Refusals that wait for the guest to take them; until then no more of its packets are looked at.
pub const MAX_RESETS: usize = 256;
/// How long the guest has to answer a connection from the host. It answers from its kernel, at once; but
/// an emulated guest on a busy machine may not run for seconds.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a guest with too many unread packets is asked what it has read meanwhile. Linux tells it when
/// everything is read, so this matters for others alone.
pub const CREDIT_REQUEST_INTERVAL: Duration = Duration::from_millis(100);
/// Connections that the host asks for in one go, before others get their turn.
pub const MAX_CONNECTS_PER_TURN: usize = 32;
/// First port of the host's own connections; above what guests name.
pub const FIRST_HOST_PORT: u32 = 1 << 30;
/// Ports of the host's own connections.
pub const HOST_PORTS: u32 = 1 << 30;
