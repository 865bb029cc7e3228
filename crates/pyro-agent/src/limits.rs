//! Bounds of the agent, each with its reason.

use std::time::Duration;

/// Connections served at a time. Each may hold one stdin window and one output frame, some 400 KiB, so the
/// worst case stays near 100 MiB; more is refused with an error rather than queued.
pub(crate) const MAX_CONNECTIONS: usize = 256;
/// Room for each read from the host: a whole data frame, of which the kernel gives what has come.
pub(crate) const READ_BYTES: usize = pyro_agent::wire::DATA_CHUNK_BYTES;
/// Connections that the kernel may hold until they are accepted.
pub(crate) const BACKLOG: i32 = 128;
/// Stack of a connection's thread: its loops recurse nowhere, its buffers are on the heap.
pub(crate) const THREAD_STACK_BYTES: usize = 256 << 10;
/// A host that connects sends its request at once.
pub(crate) const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// How long a finished connection waits for the host to close, so that no reset overtakes the last frame.
pub(crate) const LINGER: Duration = Duration::from_secs(1);
/// How long power-off waits for the host to take the reply.
pub(crate) const POWER_OFF_LINGER: Duration = Duration::from_millis(250);
/// Attempts to make the root disk read-only at power-off: some are enough against a thread that is in the way
/// for moments, and none are against a process.
pub(crate) const READ_ONLY_ATTEMPTS: usize = 50;
/// The root disk appears while the kernel probes its devices, before PID 1 runs; a machine where it takes
/// longer than this has none.
pub(crate) const ROOT_DISK_DEADLINE: Duration = Duration::from_secs(10);

/// Streams to ports of the guest at a time: a thousand, which load tests use, and some that are ending.
pub(crate) const MAX_FORWARDS: usize = 1100;
/// Streams that come in a burst, as all of a load test's do: as many as there may be.
pub(crate) const FORWARD_BACKLOG: i32 = MAX_FORWARDS as i32;
/// Bytes of one direction of a stream that are under way here.
pub(crate) const FORWARD_BUFFER_BYTES: usize = 64 << 10;
/// What one direction moves before the others get their turn.
pub(crate) const FORWARD_TURN_BYTES: usize = 512 << 10;
/// A port of the guest itself answers at once, unless a firewall drops what comes.
pub(crate) const FORWARD_CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Processes that outlive an exec's main process and hold its pipes may finish writing for this long
/// (`exec > >(tee log)` needs it); then the tree is killed.
pub(crate) const DRAIN_GRACE: Duration = Duration::from_millis(100);
/// Killed processes end at once unless the kernel holds them in uninterruptible sleep.
pub(crate) const KILL_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes read from an exec's pipes after its tree is dead: what full pipes can hold, in case somebody
/// outside the tree keeps writing.
pub(crate) const DRAIN_BYTES: usize = 4 << 20;
/// Output waiting for the host before the command's pipes are read again.
pub(crate) const OUTBOX_BYTES: usize = 128 << 10;
/// How long a terminal's output must stay idle until what looks like the first letters of a secret is shown:
/// shorter than a person notices, longer than a program needs between two writes.
pub(crate) const ECHO_IDLE: Duration = Duration::from_millis(20);
/// Rounds of the process-table scan that kills a tree without cgroups; each round finds what the one
/// before had not yet forked.
pub(crate) const KILL_ROUNDS: usize = 32;

/// Levels of cgroups that a command may nest below its own: enough for containers in containers.
pub(crate) const MAX_CGROUP_DEPTH: usize = 32;

/// A confined tree gets the kernel's threads divided by this: a fork bomb leaves the agent and three like it room.
pub(crate) const BOUNDED_TASKS_PART: u64 = 4;
/// What a confined tree leaves of the guest's memory: one part of this many, and no more than
/// [`BOUNDED_MEMORY_SPARED_BYTES`], which the agent and a few commands need.
pub(crate) const BOUNDED_MEMORY_PART: u64 = 8;
pub(crate) const BOUNDED_MEMORY_SPARED_BYTES: u64 = 64 << 20;

/// One attempt to connect to what should be ready.
pub(crate) const PROBE_CONNECT: Duration = Duration::from_secs(1);
/// One HTTP exchange with it.
pub(crate) const PROBE_EXCHANGE: Duration = Duration::from_secs(2);
/// Of an HTTP answer only the first line is read, which is not longer than this.
pub(crate) const PROBE_ANSWER_BYTES: usize = 4096;
/// After an event in a watched directory the next look comes this much later, so that a busy directory costs
/// little.
pub(crate) const PROBE_PAUSE: Duration = Duration::from_millis(5);
/// `/etc/hosts` is read up to here.
pub(crate) const MAX_HOSTS_BYTES: u64 = 256 << 10;

/// `/etc/passwd` and `/etc/group` are read up to here; longer ones are not of this world.
pub(crate) const MAX_ACCOUNT_FILE_BYTES: u64 = 4 << 20;
/// `HOST_NAME_MAX`.
pub(crate) const MAX_HOSTNAME_BYTES: usize = 64;
/// Entropy of one `Configure`: the kernel's pool is 256 bits, more adds nothing.
pub(crate) const MAX_ENTROPY_BYTES: usize = 512;
/// Open files that the agent and, as soft limit, each command may have; the hard limit is
/// [`MAX_OPEN_FILES_HARD`].
pub(crate) const MAX_OPEN_FILES: u64 = 65_536;
/// What a command may raise its limit to, as container runtimes allow.
pub(crate) const MAX_OPEN_FILES_HARD: u64 = 1_048_576;

/// An image's own certificate authorities: dozens of times what distributions come with.
pub(crate) const MAX_IMAGE_BUNDLE_BYTES: u64 = 8 << 20;

/// Names of directories that a walk holds at a time: a directory of a million files fits.
pub(crate) const MAX_WALK_NAME_BYTES: usize = 64 << 20;
/// Bytes of directory entries taken from the kernel at a time.
pub(crate) const READ_DIRECTORY_BYTES: usize = 64 << 10;
/// Levels of a tree that is removed: deeper than trees are moved, since programs made it.
pub(crate) const MAX_REMOVE_DEPTH: usize = 4096;
/// Secrets are files in memory; the values and their directory's own need.
pub(crate) const SECRETS_OPTIONS: &std::ffi::CStr = c"mode=700,size=16m,nr_inodes=1024";
