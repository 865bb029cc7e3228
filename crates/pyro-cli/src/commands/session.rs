//! One running command between its caller and its guest: streams, terminal, signals, exit codes.

pub(crate) mod terminal;

use crate::output::Format;
use pyro_core::exec::{AgentError, ExecEvent, ExecInput, ExecOutput, ExecRequest, Exit};
use pyro_core::limits::CAPTURE_BYTES;
use pyro_core::{Blame, Problem};
use std::io::{self, IsTerminal};
use std::process::ExitCode;
pub(crate) use terminal::size as terminal_size;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code when it cannot be told how the guest's command ended.
pub(crate) const EXIT_UNKNOWN: u8 = 125;
/// Exit code when the time for waiting was over, as `timeout(1)` has it.
pub(crate) const EXIT_TIMED_OUT: u8 = 124;
/// How output that nobody reads any more ends a program: 128 + SIGPIPE.
pub(crate) const EXIT_BROKEN_PIPE: u8 = 141;

/// pyro's exit code for a command that ended with `status`.
pub(crate) fn exit_code(status: i32) -> ExitCode {
    // Linux exit codes are a byte; the agent's convention keeps within it.
    ExitCode::from(u8::try_from(status).unwrap_or(EXIT_UNKNOWN))
}

/// How a command's streams came to their end.
pub(crate) enum Ended {
    Exited(Exit),
    /// Nobody reads our own output any more.
    OutputClosed,
}

/// Passes the command's streams on until it has ended. Dropping the future leaves the terminal as it was.
pub(crate) async fn converse(
    input: &mut ExecInput,
    output: &mut ExecOutput,
    request: &ExecRequest,
    sink: &mut Sink,
) -> Result<Ended, AgentError> {
    let _raw_mode = request.tty.map(|_| terminal::RawMode::enter());
    let feed = feed(input, request.stdin, request.tty.is_some());
    let drain = drain(output, sink);
    tokio::pin!(feed);
    tokio::select! {
        ended = drain => ended,
        never = &mut feed => match never {},
    }
}

async fn drain(output: &mut ExecOutput, sink: &mut Sink) -> Result<Ended, AgentError> {
    loop {
        let written = match output.next().await? {
            ExecEvent::Stdout(bytes) => sink.stdout(&bytes).await,
            ExecEvent::Stderr(bytes) => sink.stderr(&bytes).await,
            ExecEvent::Exited(exit) => return Ok(Ended::Exited(exit)),
        };
        if written.is_err() {
            return Ok(Ended::OutputClosed);
        }
    }
}

/// Feeds the command's input for as long as it runs; ends only by being dropped.
async fn feed(input: &mut ExecInput, with_stdin: bool, with_tty: bool) -> std::convert::Infallible {
    let mut stdin = tokio::io::stdin();
    let mut resized = signal(SignalKind::window_change()).ok().filter(|_| with_tty);
    let mut open = with_stdin;
    let mut buffer = vec![0; 64 << 10];
    loop {
        // A guest that is gone is told by the output side; here it only ends the feeding.
        let fed = tokio::select! {
            read = stdin.read(&mut buffer), if open => match read {
                Ok(0) | Err(_) => {
                    open = false;
                    input.close_stdin().await
                }
                Ok(len) => input.stdin(&buffer[..len]).await,
            },
            Some(()) = next_signal(&mut resized) => match terminal::size() {
                Some((cols, rows)) => input.resize(cols, rows).await,
                None => Ok(()),
            },
            else => Err(AgentError::Disconnected),
        };
        if fed.is_err() {
            return std::future::pending().await;
        }
    }
}

/// The next one; none ever where it cannot be listened to.
pub(crate) async fn next_signal(signal: &mut Option<Signal>) -> Option<()> {
    signal.as_mut()?.recv().await
}

/// Signals that end pyro's work, each with its exit code.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    pub(crate) fn listen() -> Result<Self, Problem> {
        let listen = |kind| signal(kind).map_err(|error| Problem::new("no_signals", Blame::Host, &error));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    pub(crate) async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
            _ = self.hangup.recv() => 129,
        }
    }
}

/// What a sink does with the bytes beyond keeping them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Keep what is not shown: the result of `--json`.
    Unshown,
    /// Keep everything, also what is shown: for a record.
    All,
}

/// Where the command's output goes: on to our own streams, or into a bounded result, or both.
pub(crate) struct Sink {
    format: Format,
    keep: Keep,
    pub(crate) stdout: Capture,
    pub(crate) stderr: Capture,
    /// Whether the cursor of the stream that the summary goes to is in the middle of a line.
    mid_line: bool,
    /// Whether both streams are seen in one place.
    shared_screen: bool,
}

/// The beginning of a stream.
#[derive(Debug, Default)]
pub(crate) struct Capture {
    pub(crate) bytes: Vec<u8>,
    pub(crate) truncated: bool,
}

impl Capture {
    fn push(&mut self, bytes: &[u8]) {
        let room = CAPTURE_BYTES - self.bytes.len();
        self.truncated |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

impl Sink {
    pub(crate) fn new(format: Format, keep: Keep) -> Self {
        Self {
            format,
            keep,
            stdout: Capture::default(),
            stderr: Capture::default(),
            mid_line: false,
            shared_screen: io::stdout().is_terminal() && io::stderr().is_terminal(),
        }
    }

    /// What separates the command's output from a line of ours: nothing, or an end of line.
    pub(crate) fn separator(&self) -> &'static str {
        if self.format == Format::Human && self.mid_line { "\n" } else { "" }
    }

    fn keeps(&self) -> bool {
        self.keep == Keep::All || self.format == Format::Json
    }

    async fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.keeps() {
            self.stdout.push(bytes);
        }
        if self.shared_screen {
            self.passed(bytes);
        }
        match self.format {
            Format::Json => Ok(()),
            Format::Human => pass_on(tokio::io::stdout(), bytes).await,
        }
    }

    async fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.keeps() {
            self.stderr.push(bytes);
        }
        self.passed(bytes);
        match self.format {
            Format::Json => Ok(()),
            Format::Human => pass_on(tokio::io::stderr(), bytes).await,
        }
    }

    fn passed(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last() {
            self.mid_line = *last != b'\n';
        }
    }
}

/// Writes and flushes, so that output is seen as it comes.
async fn pass_on(mut stream: impl AsyncWrite + Unpin, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_is_bounded_and_says_so() {
        let mut capture = Capture::default();
        capture.push(&vec![b'x'; CAPTURE_BYTES - 1]);
        capture.push(b"y");
        assert!(!capture.truncated);
        capture.push(b"z");
        assert!(capture.truncated && capture.bytes.len() == CAPTURE_BYTES);
    }

    #[test]
    fn our_line_is_separated_from_output_without_an_end_of_line() {
        let mut sink = Sink::new(Format::Human, Keep::Unshown);
        assert_eq!(sink.separator(), "");
        sink.passed(b"half");
        sink.passed(b"");
        assert_eq!(sink.separator(), "\n");
        sink.passed(b" and whole\n");
        assert_eq!(sink.separator(), "");
    }

    #[tokio::test]
    async fn a_json_result_keeps_what_it_does_not_show() {
        let mut sink = Sink::new(Format::Json, Keep::Unshown);
        sink.stdout(b"out").await.unwrap();
        sink.stderr(b"err").await.unwrap();
        assert_eq!((sink.stdout.text(), sink.stderr.text()), ("out".to_owned(), "err".to_owned()));
        assert_eq!(sink.separator(), "");
    }
}
