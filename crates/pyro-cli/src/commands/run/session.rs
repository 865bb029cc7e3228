//! One run from environment to exit code.

use super::terminal::{self, RawMode};
use crate::cli::{block_on, config};
use crate::output::{self, Format, PullProgress};
use pyro_core::exec::{AgentError, ExecEvent, ExecInput, ExecOutput, ExecRequest};
use pyro_core::limits::CAPTURE_BYTES;
use pyro_core::machine::{BootImage, Machine, MachineError, MachineId, MachineRequest};
use pyro_core::{Config, Explain, Problem, environments};
use serde_json::json;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code when it cannot be told how the guest's command ended.
const EXIT_UNKNOWN: u8 = 125;
/// How output that nobody reads any more ends a program: 128 + SIGPIPE.
const EXIT_BROKEN_PIPE: u8 = 141;

/// A run, checked.
pub(crate) struct Plan {
    pub(crate) environment: String,
    pub(crate) shown_command: String,
    pub(crate) machine: MachineRequest,
    pub(crate) exec: ExecRequest,
    pub(crate) format: Format,
}

/// How the command's part of a run ended.
enum Outcome {
    Exited { exit_code: i32, duration_ms: u64, captured: Captured },
    Interrupted(u8),
    Failed { problem: Problem, started: bool },
    OutputClosed,
}

/// Carries out `plan` and tells its result.
pub(crate) fn run_plan(plan: Plan) -> ExitCode {
    let format = plan.format;
    let work = async {
        match config(format) {
            Ok(config) => run(&config, plan).await,
            Err(code) => code,
        }
    };
    block_on(format, work).unwrap_or_else(|code| code)
}

async fn run(config: &Config, plan: Plan) -> ExitCode {
    let format = plan.format;
    if let Err(error) = environments::check(&plan.environment) {
        return output::problem(&error.explain(), format);
    }
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return output::problem(&problem_of_signals(&error), format),
    };
    let phase = |text: String| {
        if format == Format::Human {
            output::note(format_args!("[run] phase={text}"));
        }
    };
    phase(format!("create environment={}", plan.environment));
    let progress = Arc::new(PullProgress::new(format));
    let installed = tokio::select! {
        installed = environments::ensure(config, &plan.environment, progress) => installed,
        code = signals.next() => return ExitCode::from(code),
    };
    let environment = match installed {
        Ok(installed) => installed,
        Err(error) => return output::problem(&error.explain(), format),
    };
    let id = MachineId::random();
    phase(format!("start vm_id={id}"));
    let image = BootImage { kernel: environment.kernel.clone(), rootfs: environment.rootfs.clone() };
    let machine = tokio::select! {
        machine = Machine::start(config, id.clone(), &image, &plan.machine) => machine,
        code = signals.next() => return ExitCode::from(code),
    };
    let mut machine = match machine {
        Ok(machine) => machine,
        Err(error) => return output::problem(&error.explain(), format),
    };
    phase(format!("execute vm_id={id}"));
    let exec = environments::with_image_defaults(&environment, plan.exec.clone());
    let outcome = tokio::select! {
        outcome = execute(&mut machine, &exec, format) => outcome,
        code = signals.next() => Outcome::Interrupted(code),
    };
    let stopped = machine.stop().await;
    tell(&plan, &environment, &id, outcome, stopped)
}

fn problem_of_signals(error: &io::Error) -> Problem {
    Problem::new("no_signals", pyro_core::Blame::Host, error)
}

fn tell(
    plan: &Plan,
    environment: &environments::Installed,
    id: &MachineId,
    outcome: Outcome,
    stopped: Result<(), MachineError>,
) -> ExitCode {
    let (exit_code, duration_ms, captured) = match outcome {
        Outcome::Exited { exit_code, duration_ms, captured } => (exit_code, duration_ms, captured),
        Outcome::Interrupted(code) => return ExitCode::from(code),
        Outcome::OutputClosed => return ExitCode::from(EXIT_BROKEN_PIPE),
        Outcome::Failed { problem, started } => {
            let code = output::problem(&problem, plan.format);
            return if started { ExitCode::from(EXIT_UNKNOWN) } else { code };
        }
    };
    if let Err(error) = &stopped {
        output::problem(&error.explain(), Format::Human);
    }
    match plan.format {
        Format::Human => output::note(format_args!(
            "[run] environment={} execution_mode=guest_vsock exit_code={exit_code} duration_ms={duration_ms}",
            plan.environment
        )),
        Format::Json => output::json(&json!({
            "vm_id": id.as_str(),
            "environment": plan.environment,
            "environment_version": environment.version,
            "command": plan.shown_command,
            "stdout": captured.stdout.text(),
            "stdout_truncated": captured.stdout.truncated,
            "stderr": captured.stderr.text(),
            "stderr_truncated": captured.stderr.truncated,
            "exit_code": exit_code,
            "duration_ms": duration_ms,
            "execution_mode": "guest_vsock",
            "cleanup": {
                "vm_id": id.as_str(),
                "deleted": stopped.is_ok(),
                "reason": "post_exec_cleanup",
            },
        })),
    }
    // Linux exit codes are a byte; the agent's convention keeps within it.
    ExitCode::from(u8::try_from(exit_code).unwrap_or(EXIT_UNKNOWN))
}

async fn execute(machine: &mut Machine, request: &ExecRequest, format: Format) -> Outcome {
    let (input, mut command_output) = match machine.exec(request).await {
        Ok(halves) => halves,
        Err(error) => return Outcome::Failed { problem: error.explain(), started: false },
    };
    let raw_mode = request.tty.map(|_| RawMode::enter());
    let mut sink = Sink::new(format);
    let outcome = {
        let feed = feed(input, request.stdin, request.tty.is_some());
        let drain = drain(&mut command_output, &mut sink);
        tokio::pin!(feed);
        tokio::select! {
            outcome = drain => outcome,
            never = &mut feed => match never {},
        }
    };
    drop(raw_mode);
    match outcome {
        Ok(Drained::Exited { exit_code, duration_ms }) => {
            Outcome::Exited { exit_code, duration_ms, captured: sink.captured }
        }
        Ok(Drained::OutputClosed) => Outcome::OutputClosed,
        Err(AgentError::Disconnected) => {
            Outcome::Failed { problem: machine.why_disconnected().await.explain(), started: true }
        }
        Err(error) => Outcome::Failed { problem: error.explain(), started: true },
    }
}

enum Drained {
    Exited { exit_code: i32, duration_ms: u64 },
    OutputClosed,
}

async fn drain(output: &mut ExecOutput, sink: &mut Sink) -> Result<Drained, AgentError> {
    loop {
        let written = match output.next().await? {
            ExecEvent::Stdout(bytes) => sink.stdout(&bytes).await,
            ExecEvent::Stderr(bytes) => sink.stderr(&bytes).await,
            ExecEvent::Exited(exit) => {
                return Ok(Drained::Exited { exit_code: exit.status(), duration_ms: exit.duration_ms });
            }
        };
        if written.is_err() {
            return Ok(Drained::OutputClosed);
        }
    }
}

/// Feeds the command's input for as long as it runs; ends only by being dropped.
async fn feed(mut input: ExecInput, with_stdin: bool, with_tty: bool) -> std::convert::Infallible {
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

async fn next_signal(signal: &mut Option<Signal>) -> Option<()> {
    signal.as_mut()?.recv().await
}

/// Signals that end a run, each with its exit code.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
            _ = self.hangup.recv() => 129,
        }
    }
}

/// Where the command's output goes: on to our own streams, or into a bounded result.
struct Sink {
    format: Format,
    captured: Captured,
}

#[derive(Default)]
struct Captured {
    stdout: Capture,
    stderr: Capture,
}

#[derive(Default)]
struct Capture {
    bytes: Vec<u8>,
    truncated: bool,
}

impl Capture {
    fn push(&mut self, bytes: &[u8]) {
        let room = CAPTURE_BYTES - self.bytes.len();
        self.truncated |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

impl Sink {
    fn new(format: Format) -> Self {
        Self { format, captured: Captured::default() }
    }

    async fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.format {
            Format::Json => self.captured.stdout.push(bytes),
            Format::Human => pass_on(tokio::io::stdout(), bytes).await?,
        }
        Ok(())
    }

    async fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.format {
            Format::Json => self.captured.stderr.push(bytes),
            Format::Human => pass_on(tokio::io::stderr(), bytes).await?,
        }
        Ok(())
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
}
