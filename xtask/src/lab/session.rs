//! One L1 from its start to its end: QEMU, the three ports, and what the host makes of them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::image::Image;
use super::machine::{self, Job, PORTS, Size};
use crate::output;

/// QEMU connects to its sockets before it starts anything.
const CONNECT_TIME: Duration = Duration::from_secs(30);
/// Seconds on an idle machine; a busy one may be twenty times slower.
const BOOT_TIME: Duration = Duration::from_secs(180);
/// From the command's end to the arrival of its last output, which is on its way already.
const FLUSH_TIME: Duration = Duration::from_secs(30);
/// Between two looks for a connection.
const LOOK: Duration = Duration::from_millis(5);
/// Pieces of output that wait to be shown; behind them QEMU waits, and the command.
const WAITING_PIECES: usize = 64;
/// Lines of L1's console that are shown when it dies.
const CONSOLE_TAIL_LINES: usize = 30;

/// What came of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It exited, or a signal killed it: the shell's number for that.
    Exited(u8),
    /// Its time was up.
    TimeUp,
}

/// What is told by a port.
enum Event {
    Output(Stream, Vec<u8>),
    Control(String),
    /// QEMU has closed a port: it has ended.
    Closed,
}

#[derive(Clone, Copy)]
enum Stream {
    Stdout,
    Stderr,
}

/// L1's last line on the control port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exit {
    pub(super) status: u8,
    pub(super) stdout_bytes: u64,
    pub(super) stderr_bytes: u64,
}

/// `exit STATUS BYTES BYTES`
pub(super) fn parse_exit(line: &str) -> Option<Exit> {
    let mut words = line.strip_prefix("exit ")?.split(' ');
    let status = words.next()?.parse().ok()?;
    let stdout_bytes = words.next()?.parse().ok()?;
    let stderr_bytes = words.next()?.parse().ok()?;
    words.next().is_none().then_some(Exit { status, stdout_bytes, stderr_bytes })
}

/// Boots L1 with `scratch` as what it writes to, runs the job's command and shows what it prints.
pub(super) fn run(
    image: &Image,
    size: Size,
    scratch: &Path,
    job: &Job,
    limit: Option<Duration>,
) -> Result<Ended> {
    let script = job.script()?;
    let run = tempfile::Builder::new().prefix("pyro-lab-").tempdir().context("cannot make a directory")?;
    fs::write(run.path().join("initrd"), image.initrd()?).context("cannot write the initrd")?;
    let listeners = PORTS.map(|name| UnixListener::bind(run.path().join(name)));
    let words = machine::qemu_words(image, size, scratch, &job.shares, run.path());
    let mut session = Session { qemu: spawn(&words, run.path())?, run: run.path(), started: Instant::now() };
    let mut streams = Vec::new();
    for listener in listeners {
        streams.push(session.accept(&listener.context("cannot listen")?)?);
    }
    let control = streams[0].try_clone().context("cannot clone a socket")?;
    let events = listen(streams)?;
    session.talk(&events, control, &script, limit)
}

/// QEMU dies with us, however we do.
fn spawn(words: &[std::ffi::OsString], run: &Path) -> Result<Child> {
    let log = File::create(run.join("qemu.log")).context("cannot make QEMU's log")?;
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args(words)
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("cannot clone QEMU's log")?)
        .stderr(log)
        .spawn()
        .context("cannot run qemu-system-x86_64; `cargo xtask setup` installs it")
}

/// A thread for each port, in the order of [`PORTS`].
fn listen(streams: Vec<UnixStream>) -> Result<Receiver<Event>> {
    let (sender, events) = mpsc::sync_channel(WAITING_PIECES);
    let [control, stdout, stderr]: [UnixStream; 3] =
        streams.try_into().ok().context("there is a stream for each port")?;
    let lines = sender.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(control).lines().map_while(Result::ok) {
            if lines.send(Event::Control(line)).is_err() {
                return;
            }
        }
        let _ = lines.send(Event::Closed);
    });
    for (stream, kind) in [(stdout, Stream::Stdout), (stderr, Stream::Stderr)] {
        let sender = sender.clone();
        std::thread::spawn(move || copy(stream, kind, &sender));
    }
    Ok(events)
}

fn copy(mut stream: UnixStream, kind: Stream, sender: &SyncSender<Event>) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(len @ 1..) = stream.read(&mut piece) {
        if sender.send(Event::Output(kind, piece[..len].to_vec())).is_err() {
            return;
        }
    }
}

/// A running QEMU, killed when dropped.
struct Session<'a> {
    qemu: Child,
    run: &'a Path,
    started: Instant,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Session<'_> {
    fn accept(&mut self, listener: &UnixListener) -> Result<UnixStream> {
        listener.set_nonblocking(true).context("cannot listen without waiting")?;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).context("cannot wait for a socket")?;
                    return Ok(stream);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("cannot accept QEMU's connection"),
            }
            if self.qemu.try_wait().context("cannot wait for QEMU")?.is_some() {
                bail!("QEMU does not start\n{}", self.last_words());
            }
            ensure!(self.started.elapsed() < CONNECT_TIME, "QEMU does not connect");
            std::thread::sleep(LOOK);
        }
    }

    /// Answers L1 until the command has ended and all of its output is shown.
    fn talk(
        &mut self,
        events: &Receiver<Event>,
        mut control: UnixStream,
        script: &str,
        limit: Option<Duration>,
    ) -> Result<Ended> {
        let (mut stdout_bytes, mut stderr_bytes) = (0, 0);
        let mut exit: Option<Exit> = None;
        // Of whatever is awaited next.
        let mut deadline = Some(self.started + BOOT_TIME);
        let mut is_up = false;
        loop {
            if let Some(exit) = exit
                && stdout_bytes >= exit.stdout_bytes
                && stderr_bytes >= exit.stderr_bytes
            {
                return Ok(Ended::Exited(exit.status));
            }
            match next(events, deadline) {
                Ok(Event::Output(Stream::Stdout, bytes)) => {
                    stdout_bytes += bytes.len() as u64;
                    output::stdout(&bytes);
                }
                Ok(Event::Output(Stream::Stderr, bytes)) => {
                    stderr_bytes += bytes.len() as u64;
                    output::stderr(&bytes);
                }
                Ok(Event::Control(line)) if line == "ready" && !is_up => {
                    is_up = true;
                    let _ = fs::remove_file(self.run.join("initrd"));
                    output::note(&format!("L1 is up after {}", output::seconds(self.started.elapsed())));
                    deadline = limit.map(|limit| Instant::now() + limit);
                    control
                        .write_all(format!("{}\n{script}", script.len()).as_bytes())
                        .context("L1 is deaf")?;
                }
                Ok(Event::Control(line)) => {
                    exit = Some(parse_exit(&line).with_context(|| format!("L1 says {line:?}"))?);
                    deadline = Some(Instant::now() + FLUSH_TIME);
                }
                Ok(Event::Closed) | Err(RecvTimeoutError::Disconnected) => {
                    bail!("L1 died before its command had ended\n{}", self.last_words())
                }
                Err(RecvTimeoutError::Timeout) if exit.is_some() => {
                    bail!("the end of the command's output does not arrive\n{}", self.last_words())
                }
                Err(RecvTimeoutError::Timeout) if !is_up => {
                    bail!("L1 does not come up within {}\n{}", output::seconds(BOOT_TIME), self.last_words())
                }
                Err(RecvTimeoutError::Timeout) => return Ok(Ended::TimeUp),
            }
        }
    }

    /// What QEMU and L1's kernel said last.
    fn last_words(&self) -> String {
        let mut text = String::new();
        for name in ["qemu.log", "console.log"] {
            let log = fs::read(self.run.join(name)).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(CONSOLE_TAIL_LINES)..] {
                text += &format!("{name}: {line}\n");
            }
        }
        if text.is_empty() { "its console says nothing".to_owned() } else { text.trim_end().to_owned() }
    }
}

fn next(events: &Receiver<Event>, deadline: Option<Instant>) -> Result<Event, RecvTimeoutError> {
    match deadline {
        Some(deadline) => events.recv_timeout(deadline.saturating_duration_since(Instant::now())),
        None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
    }
}
