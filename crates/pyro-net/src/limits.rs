//! Bounds on everything that a guest, a name server or a caller can make grow.

use std::time::Duration;

/// Rules of each list: every new flow is held against each of them.
pub const MAX_RULES: usize = 1024;
/// The longest rule: a name of 253 bytes, a protocol, and a list of ports.
pub const MAX_RULE_BYTES: usize = 512;
/// Ranges of ports of one rule.
pub const MAX_PORT_RANGES: usize = 16;
/// A policy file of all rules at their usual length.
pub const MAX_POLICY_FILE_BYTES: usize = 256 << 10;

/// TCP connections at once: a busy package manager or browser has some tens.
pub const FLOWS: u32 = 1024;
/// Connections whose other end has not answered.
pub const HALF_OPEN: u32 = 64;
/// New connections a second: above what a loopback server takes from one client.
pub const SYN_PER_SECOND: u32 = 8192;
/// UDP and echo flows at once.
pub const UDP_FLOWS: u32 = 256;
/// Name questions at once.
pub const DNS_IN_FLIGHT: u32 = 128;
/// What a policy can ask for at most; a flow has a descriptor, and a process some thousands of these.
pub const MOST_FLOWS: u32 = 16384;
/// What a policy can ask for at most.
pub const MOST_DNS_IN_FLIGHT: u32 = 1024;

/// The largest IP packet.
pub const MAX_IP_BYTES: usize = 65535;
/// An Ethernet header.
pub const ETHERNET_BYTES: usize = 14;
/// `struct virtio_net_hdr` with `num_buffers` (VIRTIO 1.2, 5.1.6).
pub const VNET_BYTES: usize = 12;
/// The largest packet of the link.
pub const MAX_LINK_BYTES: usize = VNET_BYTES + ETHERNET_BYTES + MAX_IP_BYTES;
/// What the kernel may hold of the link's packets in each direction: tens of the largest.
pub const LINK_BUFFER_BYTES: usize = 4 << 20;
/// Packets that wait for a full link. Replies beyond are lost, as on any cable; TCP flows wait instead.
pub const LINK_BACKLOG: usize = 64;
/// Packets taken from the link before anything else gets its turn.
pub const LINK_BURST: usize = 64;
/// Their bytes: half of a connection's ring, so that a sender finds room before it has filled the other half.
pub const LINK_BURST_BYTES: usize = 256 << 10;

/// Bytes of each direction's ring of a connection: super-packets in flight in each of several steps. Memory is taken
/// only where data was.
pub const RING_BYTES: usize = 512 << 10;
/// What the rings of a machine may take together: hundreds of connections that moved much, any number that did not.
pub const RINGS_BYTES: usize = 256 << 20;
/// A connection that took less is not worth ending to make room.
pub const CROWDING_BYTES: usize = 32 << 10;
/// Bytes that one connection may move in each direction before others get their turn.
pub const PUMP_BYTES: usize = 512 << 10;

/// How long an upstream connection may take.
pub const DIAL: Duration = Duration::from_secs(30);
/// How long a proxy may take to answer, from its accept on: it dials as long as we would, and then some.
pub const PROXY: Duration = Duration::from_secs(45);
/// What a proxy may answer before its connection is the guest's: long tickets and cookies fit.
pub const MAX_PROXY_HEAD_BYTES: usize = 16 << 10;
/// A proxy's URL with a long password.
pub const MAX_PROXY_URL_BYTES: usize = 2048;
/// The list of names that go past a proxy. Each new flow is held against all of them.
pub const MAX_PROXY_EXEMPT: usize = 1000;
/// The same in bytes: with the proxy it has to fit into a message.
pub const MAX_PROXY_EXEMPT_BYTES: usize = 8 << 10;
/// How long a guest may take to answer our SYN-ACK.
pub const HANDSHAKE: Duration = Duration::from_secs(20);
/// How long a guest may leave data unacknowledged and everything else unsaid.
pub const TCP_UNACKNOWLEDGED: Duration = Duration::from_secs(120);
/// How long a connection may be silent.
pub const TCP_IDLE: Duration = Duration::from_secs(4 * 3600);
/// How long a UDP flow may be silent: beyond the keepalives of the protocols on it.
pub const UDP_IDLE: Duration = Duration::from_secs(60);
/// How long an echo flow may be silent.
pub const PING_IDLE: Duration = Duration::from_secs(20);
/// Datagrams that a UDP flow keeps while its name is resolved.
pub const UDP_WAITING: usize = 4;
/// Datagrams of one flow that are delivered before others get their turn.
pub const UDP_BURST: usize = 32;

/// Packets of the guest of which some pieces are there.
pub const MAX_FRAGMENTED: usize = 16;
/// Pieces of one of them: the largest packet on the smallest link that IPv6 allows has fewer.
pub const MAX_FRAGMENTS: usize = 64;
/// The payload of a packet in pieces; with the header of IPv4 it is the largest packet.
pub const MAX_FRAGMENTED_BYTES: usize = MAX_IP_BYTES - 20;
/// How long pieces wait for the others (RFC 791, 3.2).
pub const FRAGMENT_LIFE: Duration = Duration::from_secs(15);

/// The longest question that is read: header, one name, one OPT record.
pub const MAX_QUESTION_BYTES: usize = 512;
/// The longest answer over UDP (RFC 6891 lets a client ask for more than 512).
pub const MAX_ANSWER_BYTES: usize = 1232;
/// Addresses of one answer.
pub const MAX_ANSWER_ADDRESSES: usize = 16;
/// Records of one answer: more than zones have of any one kind for one name.
pub const MAX_ANSWER_RECORDS: usize = 64;
/// Aliases that lead to an answer: what resolvers follow.
pub const MAX_ALIASES: usize = 16;
/// The longest answer over TCP: some keys for signed mail, or all of a company's texts.
pub const MAX_STREAM_ANSWER_BYTES: usize = 16 << 10;
/// Name servers of the host's configuration: those that its own resolver takes.
pub const MAX_NAME_SERVERS: usize = 3;
/// What is read of that configuration.
pub const MAX_RESOLVER_FILE_BYTES: u64 = 64 << 10;
/// How long one of the host's name servers may take before the next one is asked.
pub const NAME_SERVER: Duration = Duration::from_secs(3);
/// Seconds for which a guest may keep an answer.
pub const ANSWER_TTL_S: u32 = 60;
/// How long one question may wait for the host's resolver.
pub const RESOLVE: Duration = Duration::from_secs(15);
/// Questions that wait for one of these threads.
pub const MAX_QUESTIONS_WAITING: usize = 256;
/// Threads that wait for the host's resolver.
pub const RESOLVER_THREADS: usize = 8;
/// Names given an address of their own in a machine's life.
pub const MAX_SYNTHETIC_NAMES: usize = 16384;
/// Addresses whose names are remembered.
pub const MAX_PINNED_ADDRESSES: usize = 8192;
/// Names remembered for one address.
pub const MAX_PINNED_NAMES: usize = 8;
/// Addresses of a name that are tried in turn.
pub const MAX_DIAL_ATTEMPTS: usize = 4;
/// The first bytes in which a connection must say whom it is for: a TLS hello with a long list of key shares fits.
pub const MAX_OPENING_BYTES: usize = 16 << 10;

/// Records a second; a flood of denials is counted instead.
pub const EVENTS_PER_SECOND: u32 = 200;
/// Segments of ours that answer strangers, a second: replies to a flood are a flood.
pub const REPLIES_PER_SECOND: u32 = 20_000;
