//! Frames and messages. `parse` and `emit` are inverses; `parse` never panics and never allocates more
//! than [`MAX_PAYLOAD_BYTES`].
//!
//! A frame is `kind: u8`, `len: u32` little endian, then `len` bytes of payload. Control payloads are
//! JSON, data payloads are raw bytes.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Version of this protocol. Host and agent must agree exactly: both ship in one release.
pub const VERSION: u32 = 3;
/// The vsock port on which the agent listens; it answers the host's CID (2) alone.
pub const AGENT_PORT: u32 = 5005;
/// The host's vsock port to which the agent connects once, when it is ready; it sends [`FrameKind::Reply`]
/// with a [`Ready`] and keeps the connection open for as long as it lives.
pub const READY_PORT: u32 = 5006;
/// The vsock port on which the agent takes streams to the guest's own TCP ports. Without frames: the host sends
/// the port, [`PORT_BYTES`] little endian, the agent answers with one byte, a [`Forwarded`], and after
/// [`Forwarded::Connected`] everything is the stream's. Each direction ends by itself.
pub const FORWARD_PORT: u32 = 5007;
/// Bytes of a TCP port's number.
pub const PORT_BYTES: usize = 2;
/// Bytes before a frame's payload.
pub const HEADER_BYTES: usize = 5;
/// The largest payload of any frame: room for an argument list near the kernel's own limit.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;
/// The largest data chunk that either side puts into one frame; bounds what a slow reader holds up.
pub const DATA_CHUNK_BYTES: usize = 64 << 10;
/// How many bytes of standard input the host may have sent beyond what [`FrameKind::StdinCredit`] has
/// returned. Within it the agent never stops reading, so a signal always gets past a command that does
/// not read its input; a host that sends more is only slowed down.
pub const STDIN_WINDOW_BYTES: usize = 256 << 10;
/// Exit code reported for a command that ran out of time, as `timeout(1)` does.
pub const EXIT_TIMED_OUT: i32 = 124;

/// Secrets of one guest.
pub const MAX_SECRETS: usize = 256;
/// The longest name of a secret.
pub const MAX_SECRET_NAME_BYTES: usize = 64;
/// The longest value of a secret.
pub const MAX_SECRET_BYTES: usize = 64 << 10;
/// All values together; the guest holds them in memory.
pub const MAX_SECRETS_BYTES: usize = 4 << 20;
/// PEM text of certificate authorities of one guest: several times what operating systems come with.
pub const MAX_AUTHORITIES_BYTES: usize = 1 << 20;
/// Variables that name the file of all authorities, the image's and the host's.
pub const AUTHORITY_BUNDLE_VARIABLES: [&str; 11] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "NIX_SSL_CERT_FILE",
    "BUNDLE_SSL_CA_CERT",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
];
/// Variables that name a file of the host's authorities, for programs that have others built in.
pub const AUTHORITY_EXTRA_VARIABLES: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];
/// The variable that names a file of settings for apt.
pub const AUTHORITY_SETTINGS_VARIABLE: &str = "APT_CONFIG";
/// Paths of one `FilesOut`, and changes of one `Apply`; more is for several of them.
pub const MAX_BATCH: usize = 100_000;
/// Bytes of all paths and link targets of one `FilesOut` or `Apply`: what the agent holds in memory.
pub const MAX_BATCH_BYTES: usize = 32 << 20;
/// How long a file system stays frozen when the host does not thaw it.
pub const FREEZE_LIMIT_MS: u64 = 10_000;
/// How long the rest of a command's tree may take to end after its main process, once it was asked to.
pub const STOP_LIMIT_MS: u64 = 60_000;
/// The longest wait for a [`Probe`]: a day.
pub const READY_LIMIT_MS: u64 = 86_400_000;
/// Between two looks at a [`Probe`] at least.
pub const READY_INTERVAL_MS: u64 = 10;

/// What became of a stream to a port of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Forwarded {
    /// It leads there.
    Connected = 0,
    /// Nobody listens on that port, on `127.0.0.1` or on `::1`.
    Refused = 1,
    /// The guest's kernel did not answer.
    TimedOut = 2,
    /// Too many streams at a time.
    TooMany = 3,
}

impl Forwarded {
    /// From the byte on the wire; `None` for another one.
    pub fn parse(byte: u8) -> Option<Self> {
        [Self::Connected, Self::Refused, Self::TimedOut, Self::TooMany]
            .into_iter()
            .find(|what| *what as u8 == byte)
    }
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Host to agent, first frame of a connection: JSON [`Request`].
    Request = 1,
    /// Agent to host: JSON, the operation's result. Ends the operation.
    Reply = 2,
    /// Agent to host: JSON [`Failure`]. Ends the operation.
    Error = 3,
    /// Agent to host: JSON [`Exit`]. Ends an exec.
    Exit = 4,
    /// Host to agent: bytes for the command's standard input. An empty payload closes it.
    Stdin = 5,
    /// Agent to host: bytes of standard output (or of the terminal).
    Stdout = 6,
    /// Agent to host: bytes of standard error.
    Stderr = 7,
    /// Host to agent: JSON signal number for the command's process group.
    Signal = 8,
    /// Host to agent: JSON [`TtySize`].
    Resize = 9,
    /// Either way: raw bytes of a transfer. An empty payload ends it.
    Data = 10,
    /// Agent to host: JSON [`Started`], once, when the command has been executed.
    Started = 11,
    /// Agent to host: JSON count of `Stdin` bytes that are no longer held (the command took them, or closed
    /// its input); widens the host's window, see [`STDIN_WINDOW_BYTES`].
    StdinCredit = 12,
    /// Agent to host: JSON `{}`, once, when the file system is frozen.
    Frozen = 13,
    /// Host to agent: JSON signal number for every process of the command's tree. What is left of the tree when
    /// the main process has ended may go on ending for [`STOP_LIMIT_MS`].
    SignalTree = 14,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        use FrameKind::*;
        let control = [Request, Reply, Error, Exit, Signal, Resize, Started, StdinCredit, Frozen, SignalTree];
        let bytes = [Stdin, Stdout, Stderr, Data];
        control.into_iter().chain(bytes).find(|kind| *kind as u8 == byte)
    }
}

mod decoder;
mod files;
mod guest_path;
mod ready;
mod records;
pub use decoder::Decoder;
pub use files::{
    Applied, DirectoryMade, FileFacts, FileKind, FileMoved, FileRead, FileRemoved, FileTime, FileWritten,
    Listed, SecretsInstalled, Thawed,
};
pub use guest_path::GuestPath;
pub use ready::{Probe, Readied, Usage};
pub use records::{
    Change, ChangeAction, ChangeItem, Entry, Expected, FetchItem, MAX_PATH_BYTES, MAX_RECORD_BYTES,
    RecordCutter, RecordError, SecretItem, emit_entry, emit_path, fuzz_records, parse_path_record,
};
#[cfg(test)]
mod tests;

/// Why bytes are not a frame.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// The first byte names no kind.
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// The announced payload is over [`MAX_PAYLOAD_BYTES`].
    #[error("frame of {0} bytes is over the limit of {MAX_PAYLOAD_BYTES}")]
    TooLarge(u32),
}

/// A checked frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the payload is.
    pub kind: FrameKind,
    /// Payload length in bytes, at most [`MAX_PAYLOAD_BYTES`].
    pub len: usize,
}

impl Header {
    /// Checks the five bytes that precede a payload.
    pub fn parse(bytes: [u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let [kind, len @ ..] = bytes;
        let kind = FrameKind::from_byte(kind).ok_or(FrameError::UnknownKind(kind))?;
        let len = u32::from_le_bytes(len);
        if len as usize > MAX_PAYLOAD_BYTES {
            return Err(FrameError::TooLarge(len));
        }
        Ok(Self { kind, len: len as usize })
    }

    /// The five bytes that [`Header::parse`] reads.
    pub fn emit(self) -> [u8; HEADER_BYTES] {
        let len = u32::try_from(self.len).expect("payloads are bounded by MAX_PAYLOAD_BYTES");
        let [a, b, c, d] = len.to_le_bytes();
        [self.kind as u8, a, b, c, d]
    }
}

/// A whole frame of raw bytes. `payload` must be at most [`MAX_PAYLOAD_BYTES`].
pub fn emit_frame(kind: FrameKind, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.extend_from_slice(&Header { kind, len: payload.len() }.emit());
    frame.extend_from_slice(payload);
    frame
}

/// A whole frame with a JSON payload.
pub fn emit_json<T: Serialize>(kind: FrameKind, message: &T) -> Result<Vec<u8>, serde_json::Error> {
    Ok(emit_frame(kind, &serde_json::to_vec(message)?))
}

/// The first frame of every connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The sender's [`VERSION`]; another one is answered with [`Failure`] `version_mismatch`.
    pub version: u32,
    /// What to do.
    pub operation: Operation,
}

impl Request {
    /// A request of this version.
    pub fn new(operation: Operation) -> Self {
        Self { version: VERSION, operation }
    }
}

impl Request {
    /// Checks a `Request` payload. The version is judged first, so that a host of another release is told
    /// just that, whatever else it sent.
    pub fn parse(payload: &[u8]) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let bad = |error: serde_json::Error| Failure {
            code: FailureCode::BadRequest,
            message: format!("request does not parse: {error}"),
        };
        let Versioned { version } = serde_json::from_slice(payload).map_err(bad)?;
        if version != VERSION {
            return Err(Failure {
                code: FailureCode::VersionMismatch,
                message: format!("the host speaks protocol version {version}, this guest's agent {VERSION}"),
            });
        }
        serde_json::from_slice(payload).map_err(bad)
    }
}

/// What the host asks of the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Identity of this boot; sent once, before any user code runs. Answered with `{}`.
    Configure(Configure),
    /// Run a program. Answered with `Started`, output frames, then `Exit`.
    ///
    /// The exec lasts as long as its main process. When that has ended, what is left in the pipes is still
    /// delivered (processes that hold them get a tenth of a second to finish writing), then everything that
    /// the command left running is killed. Closing the connection kills the whole tree at once.
    Exec(Exec),
    /// Step the wall clock. Answered with `{}`.
    SetClock {
        /// Nanoseconds since the Unix epoch.
        unix_nanos: u64,
    },
    /// Kill every process, flush file systems and power the guest off. Answered with `{}` when all is on
    /// disk; the power goes when the host closes this connection, or shortly after.
    PowerOff,
    /// Send the tree at `path` as a POSIX.1-2001 pax tar (see `pyro_tree::pax`) in `Data` frames,
    /// then `Reply` [`TreeStats`]. Mounts below it appear as empty directories.
    TreeOut {
        /// Absolute guest path. Of a directory the archive's members are `.`, `./a`, `./a/b`, ...; of anything
        /// else, a symbolic link included, its name alone.
        path: String,
    },
    /// Receive a tar in `Data` frames and unpack it below `path`, never outside: `..`, absolute names and
    /// parents that are symbolic links are refused. Then `Reply` [`TreeStats`]. A refusal comes while the
    /// host may still be sending, and what it sends then is thrown away.
    TreeIn {
        /// Absolute guest path of an existing or new directory.
        path: String,
    },
    /// Memory, load and uptime. Answered with [`Metrics`].
    Metrics,
    /// Metadata of `path`, not followed if it is a link. Answered with [`FileFacts`].
    ///
    /// This and the other file operations take an absolute `path` at or below the directory `root`, and
    /// never leave it: `..` and parents that are symbolic links are refused.
    FileStat {
        /// Where to stay.
        root: GuestPath,
        /// What to look at.
        path: GuestPath,
    },
    /// Entries below a directory as [`Entry`] records in `Data` frames, then `Reply` [`Listed`]. Siblings
    /// come sorted by their bytes, a directory before what is in it. Anything but a directory gives one
    /// entry with an empty path.
    FileList {
        /// Where to stay.
        root: GuestPath,
        /// What to list.
        path: GuestPath,
        /// Whether to list what is in directories, too. Mounts are not entered.
        recursive: bool,
        /// Entries at most.
        limit: u64,
    },
    /// A regular file's bytes in `Data` frames, then `Reply` [`FileRead`].
    FileRead {
        /// Where to stay.
        root: GuestPath,
        /// What to read.
        path: GuestPath,
        /// Where to start.
        offset: u64,
        /// Bytes at most.
        max_bytes: u64,
    },
    /// Receive a file in `Data` frames and put it at `path` in one step, then `Reply` [`FileWritten`].
    FileWrite {
        /// Where to stay.
        root: GuestPath,
        /// What to write: nothing yet, or a regular file.
        path: GuestPath,
        /// Permission bits; without, an existing file's are kept and a new one gets 0644.
        mode: Option<u32>,
        /// Whether to make missing parents.
        create_parents: bool,
    },
    /// Remove a file, or with `recursive` a tree. Answered with [`FileRemoved`].
    FileRemove {
        /// Where to stay.
        root: GuestPath,
        /// What to remove.
        path: GuestPath,
        /// Whether it may be a directory.
        recursive: bool,
    },
    /// Make a directory. Answered with [`DirectoryMade`].
    FileMkdir {
        /// Where to stay.
        root: GuestPath,
        /// What to make.
        path: GuestPath,
        /// Whether to make missing parents, and to accept that it exists.
        parents: bool,
    },
    /// Rename. Answered with [`FileMoved`].
    FileMove {
        /// Where to stay.
        root: GuestPath,
        /// The old name.
        from: GuestPath,
        /// The new name.
        to: GuestPath,
        /// Whether it may be taken.
        replace: bool,
    },
    /// Metadata of everything below a directory, sorted as `FileList` does it: [`Entry`] records in `Data`
    /// frames, then `Reply` [`Listed`]. Mounts are not entered.
    Walk {
        /// Absolute path of a directory.
        path: GuestPath,
    },
    /// Receive paths relative to `root` ([`emit_path`] records in `Data` frames), then send a
    /// [`FetchItem`] for each in `Data` frames, then `Reply` `{}`.
    FilesOut {
        /// Absolute path of a directory.
        root: GuestPath,
        /// Larger files are not sent.
        max_bytes: u64,
    },
    /// Receive a transaction ([`ChangeItem`] records in `Data` frames), check its conditions, and apply all
    /// of it or nothing; then `Reply` [`Applied`].
    Apply {
        /// Absolute path of a directory.
        root: GuestPath,
        /// Whether to remove directories that the transaction leaves empty.
        prune: bool,
    },
    /// Receive a tar in `Data` frames into a place apart, then merge it into `path`: directories are
    /// merged, files replaced, and a directory and something else in one place refused before anything is
    /// changed. Then `Reply` [`TreeStats`].
    SyncIn {
        /// Where to stay.
        root: GuestPath,
        /// An existing or new directory.
        path: GuestPath,
    },
    /// Flush and freeze the root file system. The agent sends `Frozen`, and thaws when the host sends any
    /// frame (an empty `Data`) or closes, or [`FREEZE_LIMIT_MS`] later; then `Reply` [`Thawed`].
    Freeze,
    /// Receive [`SecretItem`] records in `Data` frames; they replace all secrets of the guest. Then `Reply`
    /// [`SecretsInstalled`].
    Secrets,
    /// Receive PEM text of certificate authorities in `Data` frames, at most [`MAX_AUTHORITIES_BYTES`]; commands that
    /// begin later trust these beside the image's own. They replace those that were sent before, and none takes them
    /// away. Then `Reply` `{}`.
    Authorities,
    /// Wait until something is ready. Answered with [`Readied`]; the host's close ends the wait.
    AwaitReady {
        /// What tells.
        probe: Probe,
        /// Between two looks where no event tells; at least [`READY_INTERVAL_MS`].
        interval_ms: u64,
        /// How long to wait, at most [`READY_LIMIT_MS`].
        timeout_ms: u64,
    },
    /// What the tree of an exec uses. Answered with [`Usage`].
    Usage {
        /// The exec's main process, as [`Started`] told it.
        pid: i32,
    },
}

/// Identity of one boot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Configure {
    /// Host name to set, at most 64 bytes.
    pub hostname: String,
    /// Wall clock, nanoseconds since the Unix epoch.
    pub unix_nanos: u64,
    /// Fresh random bytes for the guest's pool, hexadecimal.
    pub entropy_hex: String,
    /// The guest's interface; without, it has none.
    #[serde(default)]
    pub network: Option<Network>,
}

/// The guest's only interface beside `lo`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its addresses, the IPv4 one first; a guest without IPv6 does without the others.
    pub addresses: Vec<LinkAddress>,
    /// For `/etc/resolv.conf`.
    pub name_servers: Vec<IpAddr>,
    /// The longest IP packet, bytes.
    pub mtu: u16,
}

/// An address on a link and the way to everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkAddress {
    /// The guest's own.
    pub address: IpAddr,
    /// Bits of the link's network.
    pub prefix: u8,
    /// The default route.
    pub gateway: IpAddr,
}

/// A program to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    /// Program and arguments, executed as they are; the program is looked up in `PATH` when it holds no `/`.
    pub argv: Vec<String>,
    /// Variables on top of the agent's defaults (`PATH`, `HOME`, `USER`, `LANG`, with a terminal `TERM`).
    pub env: Vec<(String, String)>,
    /// Working directory; must exist. `None` is `/workspace` when it exists, else `/`.
    pub cwd: Option<String>,
    /// `USER`, `USER:GROUP` or numeric ids, looked up in the guest's own files. `None` is root.
    pub user: Option<String>,
    /// Whether `Stdin` frames follow; otherwise standard input is `/dev/null`.
    pub stdin: bool,
    /// Run in a new terminal of this size.
    pub tty: Option<TtySize>,
    /// Kill the whole process tree after this many milliseconds.
    pub timeout_ms: Option<u64>,
    /// Installed secrets and the variables that get their values. Whatever is installed is redacted from
    /// the command's output.
    #[serde(default)]
    pub secret_env: Vec<(String, String)>,
    /// Keep the tree from taking all of the guest's processes and memory, and account for what it takes.
    #[serde(default)]
    pub confined: bool,
}

/// A terminal's size in character cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtySize {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

/// The command runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// Process id inside the guest.
    pub pid: i32,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status when it exited by itself.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the agent ended it because its time was up.
    pub timed_out: bool,
    /// From `execve` to exit, milliseconds of guest time.
    pub duration_ms: u64,
}

impl Exit {
    /// The shell's convention: the status, 128 + signal, or 124 on time-out.
    pub fn status(&self) -> i32 {
        match (self.timed_out, self.code, self.signal) {
            (true, _, _) => EXIT_TIMED_OUT,
            (false, Some(code), _) => code,
            (false, None, Some(signal)) => 128 + signal,
            (false, None, None) => 125,
        }
    }
}

/// What the agent says when it is ready to serve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// The agent's [`VERSION`].
    pub version: u32,
    /// The agent's package version.
    pub agent: String,
    /// The guest kernel's release.
    pub kernel: String,
    /// Microseconds from kernel start to here.
    pub uptime_us: u64,
}

/// An operation that the agent refused or could not do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable word for programs, such as `not_found`.
    pub code: FailureCode,
    /// For people: lower case, with the offending value.
    pub message: String,
}

/// Kinds of [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// Host and agent are of different releases.
    VersionMismatch,
    /// The request does not parse or breaks a limit.
    BadRequest,
    /// No such program, directory or user.
    NotFound,
    /// The program may not be executed or the path not be used.
    PermissionDenied,
    /// Something else is there, or has changed meanwhile.
    Conflict,
    /// The guest refused for another reason (out of memory, disk full, ...).
    Os,
}

/// What a tree transfer moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeStats {
    /// Members, directories included.
    pub entry_count: u64,
    /// Bytes of file contents, holes not counted.
    pub bytes_written: u64,
    /// Sockets and device nodes that were left out.
    #[serde(default)]
    pub skipped_count: u64,
}

/// A look at the guest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Bytes of memory the kernel can use.
    pub mem_total_bytes: u64,
    /// Bytes available without swapping.
    pub mem_available_bytes: u64,
    /// One-minute load average.
    pub load_1m: f64,
    /// Seconds since boot.
    pub uptime_s: f64,
}

/// Drives everything that reads bytes here, for fuzzing: `bytes` as a stream cut into pieces of `cut`.
pub fn fuzz_stream(bytes: &[u8], cut: usize) {
    let mut decoder = Decoder::new();
    for piece in bytes.chunks(cut.max(1)) {
        decoder.feed(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some((_, payload))) => drop(Request::parse(&payload)),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}
