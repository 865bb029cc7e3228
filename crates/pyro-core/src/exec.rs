//! Commands in a guest: the host's side of the agent's wire format.

use crate::problem::{Blame, Explain, Problem};
pub use pyro_agent::wire::Exit;
use pyro_agent::wire::{
    self, Failure, FailureCode, FrameError, FrameKind, HEADER_BYTES, Header, Operation, Request, Started,
    TtySize,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Semaphore;

/// A command to run in a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments, executed as they are; a program without `/` is looked up in the guest's `PATH`.
    pub argv: Vec<String>,
    /// Variables on top of the guest's defaults.
    pub env: Vec<(String, String)>,
    /// Working directory, which must exist. `None`: `/workspace` where it exists, else `/`.
    pub cwd: Option<String>,
    /// `USER`, `USER:GROUP` or numeric ids; `None` is root.
    pub user: Option<String>,
    /// Whether [`ExecInput::stdin`] will be used; otherwise the command reads an empty standard input.
    pub stdin: bool,
    /// Run in a terminal of this many columns and rows; output then arrives as [`ExecEvent::Stdout`] alone.
    pub tty: Option<(u16, u16)>,
    /// Kill the command's whole process tree after this long.
    pub timeout: Option<Duration>,
    /// Secrets that the guest holds, and the variables that get their values.
    pub secret_env: Vec<(String, String)>,
    /// Keep its process tree from taking all of the guest's processes and memory, and account for what it takes.
    #[serde(default)]
    pub confined: bool,
}

impl ExecRequest {
    /// `argv` with everything else at its default.
    pub fn new(argv: Vec<String>) -> Self {
        Self {
            argv,
            env: Vec::new(),
            cwd: None,
            user: None,
            stdin: false,
            tty: None,
            timeout: None,
            secret_env: Vec::new(),
            confined: false,
        }
    }

    /// `text` run by the guest's login shell.
    pub fn shell(text: &str) -> Self {
        Self::new(["/bin/sh", "-lc", text].map(str::to_owned).to_vec())
    }

    fn to_wire(&self) -> wire::Exec {
        wire::Exec {
            argv: self.argv.clone(),
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            user: self.user.clone(),
            stdin: self.stdin,
            tty: self.tty.map(|(cols, rows)| TtySize { cols, rows }),
            timeout_ms: self.timeout.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            secret_env: self.secret_env.clone(),
            confined: self.confined,
        }
    }
}

/// Why talking to the agent failed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The agent refused, or the guest's system did.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// The connection ended in the middle: the machine or its agent died.
    #[error("the connection to the guest ended")]
    Disconnected,
    /// The guest sent what no agent sends.
    #[error("the guest broke the protocol: {0}")]
    Protocol(String),
    /// The host's side of the connection failed.
    #[error("the connection to the guest failed")]
    Io(#[source] io::Error),
}

impl From<io::Error> for AgentError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Self::Disconnected
            }
            _ => Self::Io(error),
        }
    }
}

impl From<FrameError> for AgentError {
    fn from(error: FrameError) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl Explain for AgentError {
    fn explain(&self) -> Problem {
        match self {
            Self::Refused(failure) => {
                let (code, blame) = match failure.code {
                    FailureCode::VersionMismatch => ("agent_version", Blame::Host),
                    FailureCode::BadRequest => ("bad_request", Blame::Caller),
                    FailureCode::NotFound => ("not_found", Blame::Caller),
                    FailureCode::PermissionDenied => ("permission_denied", Blame::Caller),
                    FailureCode::Conflict => ("conflict", Blame::Caller),
                    FailureCode::Os => ("guest_os", Blame::Guest),
                };
                Problem::new(code, blame, self)
            }
            Self::Disconnected => Problem::new("guest_disconnected", Blame::Guest, self),
            Self::Protocol(_) => Problem::new("guest_protocol", Blame::Guest, self),
            Self::Io(_) => Problem::new("agent_io", Blame::Host, self),
        }
    }
}

/// One connection to the agent.
pub(crate) struct AgentStream {
    pub(crate) reader: FrameReader,
    pub(crate) writer: OwnedWriteHalf,
}

impl AgentStream {
    pub(crate) fn new(stream: UnixStream) -> Self {
        let (read, writer) = stream.into_split();
        Self { reader: FrameReader { stream: read, buffer: Vec::new(), start: 0 }, writer }
    }

    /// Both directions apart, for transfers that listen while they send.
    pub(crate) fn into_halves(self) -> (FrameReader, OwnedWriteHalf) {
        (self.reader, self.writer)
    }

    pub(crate) async fn request(&mut self, operation: Operation) -> Result<(), AgentError> {
        let frame = wire::emit_json(FrameKind::Request, &Request::new(operation))
            .map_err(|error| AgentError::Protocol(error.to_string()))?;
        if frame.len() > HEADER_BYTES + wire::MAX_PAYLOAD_BYTES {
            return Err(AgentError::Refused(Failure {
                code: FailureCode::BadRequest,
                message: format!("the request takes {} bytes, over the limit", frame.len()),
            }));
        }
        Ok(self.writer.write_all(&frame).await?)
    }

    /// The next frame, which must be of `kind` or an error.
    pub(crate) async fn expect_json<T: DeserializeOwned>(
        &mut self,
        kind: FrameKind,
    ) -> Result<T, AgentError> {
        let (header, payload) = self.reader.next().await?;
        expect(header.kind, kind)?;
        parse_json(&payload)
    }
}

pub(crate) fn expect(got: FrameKind, wanted: FrameKind) -> Result<(), AgentError> {
    if got == wanted {
        return Ok(());
    }
    Err(AgentError::Protocol(format!("{got:?} came where {wanted:?} was due")))
}

pub(crate) fn parse_json<T: DeserializeOwned>(payload: &[u8]) -> Result<T, AgentError> {
    serde_json::from_slice(payload).map_err(|error| AgentError::Protocol(error.to_string()))
}

/// Reads frames with few system calls: small frames arrive many at a time.
pub(crate) struct FrameReader {
    stream: OwnedReadHalf,
    buffer: Vec<u8>,
    start: usize,
}

impl FrameReader {
    /// The next frame; the agent's `Error` frames become errors. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<(Header, Vec<u8>), AgentError> {
        self.fill(HEADER_BYTES).await?;
        let bytes = self.buffer[self.start..self.start + HEADER_BYTES].try_into().expect("five bytes");
        let header = Header::parse(bytes)?;
        self.fill(HEADER_BYTES + header.len).await?;
        let payload_start = self.start + HEADER_BYTES;
        let payload = self.buffer[payload_start..payload_start + header.len].to_vec();
        self.start = payload_start + header.len;
        if header.kind == FrameKind::Error {
            return Err(AgentError::Refused(parse_json(&payload)?));
        }
        Ok((header, payload))
    }

    async fn fill(&mut self, wanted: usize) -> Result<(), AgentError> {
        while self.buffer.len() - self.start < wanted {
            self.buffer.drain(..self.start);
            self.start = 0;
            self.buffer.reserve(wanted.max(wire::DATA_CHUNK_BYTES));
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(AgentError::Disconnected);
            }
        }
        Ok(())
    }
}

/// What a running command does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecEvent {
    /// Bytes of standard output, or of the terminal.
    Stdout(Vec<u8>),
    /// Bytes of standard error.
    Stderr(Vec<u8>),
    /// It ended; nothing follows.
    Exited(Exit),
}

/// The command's input side. Dropping both halves kills the command's process tree.
pub struct ExecInput {
    writer: OwnedWriteHalf,
    pid: i32,
    /// Bytes of standard input that the agent will take; refilled by what [`ExecOutput`] reads.
    credit: Arc<Semaphore>,
}

/// The command's output side. Not reading it stops the command when its pipes are full.
pub struct ExecOutput {
    reader: FrameReader,
    credit: Arc<Semaphore>,
}

impl ExecInput {
    /// Sends bytes to the command's standard input; waits while the command does not read, for which
    /// [`ExecOutput::next`] must be called meanwhile.
    pub async fn stdin(&mut self, mut bytes: &[u8]) -> Result<(), AgentError> {
        while !bytes.is_empty() {
            let (chunk, rest) = bytes.split_at(bytes.len().min(wire::DATA_CHUNK_BYTES));
            let wanted = u32::try_from(chunk.len()).expect("a chunk is 64 KiB");
            let permits = self.credit.acquire_many(wanted).await.map_err(|_| AgentError::Disconnected)?;
            permits.forget();
            self.writer.write_all(&wire::emit_frame(FrameKind::Stdin, chunk)).await?;
            bytes = rest;
        }
        Ok(())
    }

    /// Waits until the agent takes input, and tells how much at least. Cancel safe.
    pub(crate) async fn room(&self) -> Result<usize, AgentError> {
        // Given back at once: whoever asks is the only one who sends.
        drop(self.credit.acquire().await.map_err(|_| AgentError::Disconnected)?);
        Ok(self.credit.available_permits().min(wire::DATA_CHUNK_BYTES))
    }

    /// Closes the command's standard input.
    pub async fn close_stdin(&mut self) -> Result<(), AgentError> {
        Ok(self.writer.write_all(&wire::emit_frame(FrameKind::Stdin, &[])).await?)
    }

    /// Sends a signal, by its Linux number, to the command's process group.
    pub async fn signal(&mut self, signal: i32) -> Result<(), AgentError> {
        self.json(FrameKind::Signal, &signal).await
    }

    /// Sends a signal to every process of the command's tree. What is left of it when its main process has ended
    /// may take some time to end.
    pub async fn signal_tree(&mut self, signal: i32) -> Result<(), AgentError> {
        self.json(FrameKind::SignalTree, &signal).await
    }

    /// The command's main process in its guest.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Tells the command's terminal its new size.
    pub async fn resize(&mut self, cols: u16, rows: u16) -> Result<(), AgentError> {
        self.json(FrameKind::Resize, &TtySize { cols, rows }).await
    }

    async fn json<T: serde::Serialize>(&mut self, kind: FrameKind, message: &T) -> Result<(), AgentError> {
        let frame =
            wire::emit_json(kind, message).map_err(|error| AgentError::Protocol(error.to_string()))?;
        Ok(self.writer.write_all(&frame).await?)
    }
}

impl ExecOutput {
    /// Waits for the next event. Cancel safe.
    pub async fn next(&mut self) -> Result<ExecEvent, AgentError> {
        loop {
            let (header, payload) = self.reader.next().await?;
            match header.kind {
                FrameKind::Stdout => return Ok(ExecEvent::Stdout(payload)),
                FrameKind::Stderr => return Ok(ExecEvent::Stderr(payload)),
                FrameKind::Exit => return Ok(ExecEvent::Exited(parse_json(&payload)?)),
                FrameKind::StdinCredit => self.refill(parse_json(&payload)?)?,
                other => return Err(AgentError::Protocol(format!("{other:?} came during a command"))),
            }
        }
    }

    fn refill(&self, bytes: usize) -> Result<(), AgentError> {
        // Never more than the window: a guest cannot make the host hold or send without bound.
        let window = wire::STDIN_WINDOW_BYTES;
        if bytes > window || self.credit.available_permits() > window - bytes {
            return Err(AgentError::Protocol(format!(
                "it returned {bytes} bytes of input that it never had"
            )));
        }
        self.credit.add_permits(bytes);
        Ok(())
    }
}

/// Runs a command over a fresh connection to the agent; returns when the guest has executed it.
pub(crate) async fn start(
    stream: UnixStream,
    request: &ExecRequest,
) -> Result<(ExecInput, ExecOutput), AgentError> {
    let mut stream = AgentStream::new(stream);
    stream.request(Operation::Exec(request.to_wire())).await?;
    let Started { pid } = stream.expect_json(FrameKind::Started).await?;
    let credit = Arc::new(Semaphore::new(wire::STDIN_WINDOW_BYTES));
    let input = ExecInput { writer: stream.writer, pid, credit: Arc::clone(&credit) };
    Ok((input, ExecOutput { reader: stream.reader, credit }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    async fn say(stream: &mut UnixStream, kind: FrameKind, payload: &str) {
        stream.write_all(&wire::emit_frame(kind, payload.as_bytes())).await.unwrap();
    }

    #[tokio::test]
    async fn output_arrives_in_order_and_apart() {
        let (ours, mut theirs) = agent();
        say(&mut theirs, FrameKind::Started, r#"{"pid":7}"#).await;
        say(&mut theirs, FrameKind::Stdout, "out").await;
        say(&mut theirs, FrameKind::Stderr, "err").await;
        let exit = r#"{"code":3,"signal":null,"timed_out":false,"duration_ms":9}"#;
        say(&mut theirs, FrameKind::Exit, exit).await;
        let (_input, mut output) = start(ours, &ExecRequest::shell("x")).await.unwrap();
        assert_eq!(output.next().await.unwrap(), ExecEvent::Stdout(b"out".to_vec()));
        assert_eq!(output.next().await.unwrap(), ExecEvent::Stderr(b"err".to_vec()));
        let ExecEvent::Exited(exit) = output.next().await.unwrap() else { panic!("no exit") };
        assert_eq!(exit.status(), 3);
    }

    #[tokio::test]
    async fn a_refusal_carries_the_agents_words_and_blames_the_caller() {
        let (ours, mut theirs) = agent();
        say(&mut theirs, FrameKind::Error, r#"{"code":"not_found","message":"no program `x`"}"#).await;
        let error = start(ours, &ExecRequest::shell("x")).await.err().unwrap();
        let problem = error.explain();
        assert_eq!((problem.blame, problem.message.as_str()), (Blame::Caller, "no program `x`"));
    }

    #[tokio::test]
    async fn a_lying_guest_is_an_error_and_not_an_allocation() {
        for bytes in
            [&[1u8, 0xff, 0xff, 0xff, 0xff][..], &[99, 0, 0, 0, 0], &[2, 4, 0, 0, 0, b'{', b'{', b'{', b'{']]
        {
            let (ours, mut theirs) = agent();
            theirs.write_all(bytes).await.unwrap();
            let error = start(ours, &ExecRequest::shell("x")).await.err().unwrap();
            assert!(matches!(error, AgentError::Protocol(_)), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_guest_that_dies_mid_frame_is_disconnected() {
        let (ours, mut theirs) = agent();
        theirs.write_all(&[FrameKind::Started as u8, 9, 0]).await.unwrap();
        drop(theirs);
        let error = start(ours, &ExecRequest::shell("x")).await.err().unwrap();
        assert!(matches!(error, AgentError::Disconnected), "{error:?}");
    }
}
