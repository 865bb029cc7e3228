//! Bounds, each with its reason.

use std::time::Duration;

/// What one answer holds of one stream, patch or file where the caller names no bound: a model reads it all, and
/// clients cut off what is longer than some ten thousand words.
pub const TEXT_BYTES: u64 = 16 << 10;
/// What a caller may ask for at once.
pub const MOST_TEXT_BYTES: u64 = 256 << 10;
/// What is read of a file where the caller names no bound.
pub const READ_BYTES: u64 = 64 << 10;
/// What a caller may read of a file at once.
pub const MOST_READ_BYTES: u64 = 1 << 20;
/// Entries of listings in one answer; the rest is had with `offset`.
pub const ENTRIES: usize = 200;
/// What a caller may ask for at once.
pub const MOST_ENTRIES: usize = 2000;
/// The arguments of one call, as JSON: a file of a megabyte with every byte escaped has room.
pub const ARGUMENT_BYTES: usize = 8 << 20;
/// One message of a client on standard streams: the arguments of a call, and what is around them.
pub const MESSAGE_BYTES: usize = ARGUMENT_BYTES + (1 << 20);
/// Calls at once; one more is refused and not queued.
pub const CALLS: usize = 128;
/// One-shot machines that one server keeps.
pub const MACHINES: usize = 16;
/// Between two notes of progress, so that a transfer does not flood its client.
pub const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// How long a call says nothing of itself at most: clients give up after a minute of silence, or sooner.
pub const PROGRESS_SILENCE: Duration = Duration::from_secs(5);
/// How long a client may take to tell its roots.
pub const ROOTS_DEADLINE: Duration = Duration::from_secs(5);
/// How long calls that were cut off may take to undo what they began.
pub const SETTLE_DEADLINE: Duration = Duration::from_secs(20);
/// How long a clone of the project may take.
pub const CLONE_DEADLINE: Duration = Duration::from_secs(600);
/// A bearer token, bytes before hex.
pub const TOKEN_BYTES: usize = 32;
/// Connections of HTTP clients at once.
pub const CONNECTIONS: usize = 256;
/// Before the next connection is looked for where none can be taken, for lack of descriptors: nothing tells when there
/// are some again.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long the end of standard output is waited for after that of standard input: the protocol's library lets calls go
/// on for half of it.
pub const UNREAD_PATIENCE: Duration = Duration::from_secs(10);
