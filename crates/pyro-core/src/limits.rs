//! The bounds of what a caller may ask for, and of what this crate holds in memory.

use crate::problem::{Blame, Explain, Problem};
use std::ops::RangeInclusive;
use std::time::Duration;

/// Virtual CPUs of one machine. They may be more than the host has: it shares its own among them.
pub const VCPU_COUNT: RangeInclusive<u64> = 1..=32;
/// Guest memory, MiB. Below 256 a Debian userland swaps itself to death. The end is what machines are built for:
/// a guest gets no more than its host has, which is found when it is asked for
/// ([`MachineError::MoreThanHost`](crate::machine::MachineError::MoreThanHost)).
pub const MEM_MIB: RangeInclusive<u64> = 256..=(1 << 20);
/// Life of a one-shot machine, seconds.
pub const TTL_SECONDS: RangeInclusive<u64> = 60..=3600;
/// Life of a workspace without activity, seconds; 0 is for ever.
pub const WORKSPACE_TTL_SECONDS: RangeInclusive<u64> = 60..=31_536_000;
/// Time of one command, seconds. A day is beyond any machine's life.
pub const TIMEOUT_SECONDS: RangeInclusive<u64> = 1..=86_400;
/// What one machine may write to its disk, MiB. Less does not hold the guest's own start.
pub const DISK_MIB: RangeInclusive<u64> = 16..=65_536;
/// From the start of the machine's process to the agent's first word. Emulation on a busy host takes
/// seconds; a guest that needs more than this hangs.
pub const BOOT_DEADLINE: Duration = Duration::from_secs(60);
/// A supervisor's answer to any request but a boot.
pub const SUPERVISOR_DEADLINE: Duration = Duration::from_secs(15);
/// How long a guest may take to write everything to its disk before it is killed: it holds at most its own
/// memory's worth of unwritten data.
pub const POWER_OFF_DEADLINE: Duration = Duration::from_secs(60);
/// How long a supervisor waits for the one before it to let go of its workspace.
pub const MACHINE_LOCK_DEADLINE: Duration = Duration::from_secs(10);
/// How long a command waits for another one that is changing the same workspace's life: a boot, or a guest
/// that writes its memory to disk.
pub const OPERATION_LOCK_DEADLINE: Duration = Duration::from_secs(90);
/// How long a machine may take to seal its disk: it flushes what the guest has written.
pub const SEAL_DEADLINE: Duration = Duration::from_secs(60);
/// Clients of one supervisor at a time; others wait to be let in.
pub const MAX_CLIENTS: usize = 256;
/// Detached commands of one workspace at a time: the supervisor holds what is kept of their output.
pub const DETACHED_COMMANDS: usize = 64;
/// Shells of one workspace at a time, those that have ended and are not closed among them: the supervisor
/// holds a few MiB for each.
pub const SHELLS: usize = 64;
/// Output kept of one shell: its newest bytes.
pub const SHELL_BYTES: usize = 1 << 20;
/// What one read of a shell gives at most, bytes: all that is kept.
pub const SHELL_READ_BYTES: RangeInclusive<u64> = 1..=SHELL_BYTES as u64;
/// How long a shell's output must stay idle for a reader that waits for that, milliseconds.
pub const IDLE_MS: RangeInclusive<u64> = 1..=10_000;
/// How long a read of a shell waits, seconds.
pub const SHELL_WAIT_SECONDS: RangeInclusive<u64> = 1..=3600;
/// Text or pattern that a reader waits for.
pub const SHELL_PATTERN_BYTES: usize = 4 << 10;
/// From the hang-up of a shell that is closed to the kill of all its processes.
pub const SHELL_CLOSE_GRACE: Duration = Duration::from_secs(5);
/// From the signal that asks a service to end to the kill of all its processes.
pub const SERVICE_STOP_GRACE: Duration = Duration::from_secs(5);
/// How long the services of a workspace that is stopped may take to end, all at once; then their machine ends.
pub const SERVICES_STOP_DEADLINE: Duration = Duration::from_secs(8);
/// Time of a service to become ready, seconds: a day is beyond any patience.
pub const READY_TIMEOUT_SECONDS: RangeInclusive<u64> = 1..=86_400;
/// Between two looks at whether a service is ready, milliseconds.
pub const READY_INTERVAL_MS: RangeInclusive<u64> = 10..=60_000;
/// One run of a command that tells whether a service is ready.
pub const READY_COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// Text that names what tells whether a service is ready: an argument of Linux' own limit.
pub const READINESS_BYTES: usize = 64 << 10;
/// How often a service may fail in a row and be started again, where it is bounded at all.
pub const RESTARTS: RangeInclusive<u64> = 1..=1000;
/// From a service's failure to its next start: doubled with each failure in a row.
pub const BACKOFF: RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(30);
/// A service that was ready for this long has not failed in a row with the time before.
pub const BACKOFF_RESET: Duration = Duration::from_secs(10);
/// Bytes of one file of a service's log. Of each stream two are kept, the older one full.
pub const LOG_FILE_BYTES: u64 = 16 << 20;
/// Bytes of all network rules of a workspace together: they travel in one packet to its supervisor.
pub const NETWORK_RULES_BYTES: usize = 96 << 10;
/// Distinct denials that a machine's network remembers; commands look back to their own beginning.
pub const REMEMBERED_DENIALS: usize = 256;
/// Distinct denials that are told with a command's result.
pub const TOLD_DENIALS: usize = 32;
/// Open flows that are told at once, the last ones: at their longest they fit a packet.
pub const TOLD_OPEN_FLOWS: usize = 100;
/// Distinct destinations that a machine's network remembers: those of a large build are some tens.
pub const REMEMBERED_CONTACTS: usize = 1024;
/// Flow records that wait to be written; the stack never waits for the disk.
pub const FLOW_RECORDS_WAITING: usize = 1024;
/// Addresses of a name that a check looks at.
pub const CHECKED_ADDRESSES: usize = 32;
/// Ports that one service publishes.
pub const PUBLISHED_PORTS: usize = 64;
/// Ports that the services of a workspace publish together: some of each of very many services.
pub const WORKSPACE_PORTS: usize = 256;
/// Connections of a published port at a time. Each takes two of the supervisor's descriptors, of which hosts give a
/// process a few thousand at least.
pub const PUBLISH_MAX_CONNECTIONS: RangeInclusive<u64> = 1..=4096;
/// How long nothing may move on a connection of a published port, seconds; 0 is for ever. A week is beyond any
/// connection pool's patience.
pub const PUBLISH_IDLE_SECONDS: RangeInclusive<u64> = 1..=604_800;
/// A port of the host that a service is published on.
pub const HOST_PORT: RangeInclusive<u64> = 1025..=65_535;
/// A port of the guest.
pub const GUEST_PORT: RangeInclusive<u64> = 1..=65_535;

/// From the signal that asks a command to end to the kill of all its processes.
pub const KILL_GRACE: Duration = Duration::from_secs(10);
/// How long a caller may wait for something to happen, seconds: as long as a workspace may live.
pub const WAIT_SECONDS: RangeInclusive<u64> = 1..=31_536_000;
/// How long a supervisor that ends looks for clients that have connected meanwhile: the kernel holds them ready.
pub const LATE_CLIENT: Duration = Duration::from_millis(1);
/// How long a supervisor that ends waits for its clients to take its last word.
pub const CLIENT_LINGER: Duration = Duration::from_secs(2);
/// How long a supervisor without clients keeps its code in memory for the next one.
pub const REST_DELAY: Duration = Duration::from_secs(1);
/// Output kept per stream where a result carries it as a value (`--json`). More is cut and said so.
pub const CAPTURE_BYTES: usize = 16 << 20;
/// Certificate authorities of one guest: several times what operating systems come with.
pub const AUTHORITIES: u64 = 1000;
/// A file of certificate authorities, with comments; with more the agent would not take its certificates either.
pub const AUTHORITY_FILE_BYTES: usize = 2 << 20;
/// The largest message between a client and a supervisor; a console tail is its largest part.
pub const PACKET_BYTES: usize = 192 << 10;

/// What one read of a file gives at most, bytes.
pub const FILE_BYTES: RangeInclusive<u64> = 1..=(64 << 20);
/// Entries of one listing; more is cut and said so.
pub const LIST_ENTRIES: usize = 200_000;
/// A diff's patch is told up to here; what follows is told to differ.
pub const DIFF_BYTES: usize = 64 << 20;

/// A number outside its bounds.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{name} must be between {min} and {max}, not {value}")]
pub struct OutOfRange {
    /// The field, as callers write it.
    pub name: &'static str,
    /// What was asked for.
    pub value: u64,
    /// Smallest value allowed.
    pub min: u64,
    /// Largest value allowed.
    pub max: u64,
}

impl Explain for OutOfRange {
    fn explain(&self) -> Problem {
        Problem::new("out_of_range", Blame::Caller, self)
    }
}

/// `value` if it lies in `range`.
pub fn check(name: &'static str, value: u64, range: &RangeInclusive<u64>) -> Result<u64, OutOfRange> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(OutOfRange { name, value, min: *range.start(), max: *range.end() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_names_the_field_the_value_and_the_bounds() {
        assert_eq!(check("vcpu_count", 32, &VCPU_COUNT), Ok(32));
        let error = check("vcpu_count", 33, &VCPU_COUNT).unwrap_err();
        assert_eq!(error.to_string(), "vcpu_count must be between 1 and 32, not 33");
        assert!(check("vcpu_count", 0, &VCPU_COUNT).is_err());
    }
}
