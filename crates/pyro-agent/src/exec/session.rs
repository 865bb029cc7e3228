//! The pump of one running command: host frames in, output out, until the command has ended and what it
//! wrote has been sent.
//!
//! ```text
//! Running --main process ended--> Draining --streams closed | grace over--> killed --streams empty--> done
//!    |  ^ time is up: the tree is killed and the main process's end awaited
//!    +--host gone--> Err, and the caller kills the tree
//! ```

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyro_agent::redact::{Needles, Redactor};
use pyro_agent::wire::{
    DATA_CHUNK_BYTES, Decoder, FrameKind, STDIN_WINDOW_BYTES, STOP_LIMIT_MS, TtySize, emit_json,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::outbox::Outbox;
use super::processes::Tree;
use crate::connection::Connection;
use crate::limits::{DRAIN_BYTES, DRAIN_GRACE, ECHO_IDLE, KILL_DEADLINE, OUTBOX_BYTES};
use crate::reaper::{Child, Ended};

/// What the outputs' bytes are sent as.
const KINDS: [FrameKind; 2] = [FrameKind::Stdout, FrameKind::Stderr];
/// End of transmission: what a terminal takes for the end of input.
const EOT: u8 = 4;
const STOP_LIMIT: Duration = Duration::from_millis(STOP_LIMIT_MS);

/// Our ends of a command's streams, none of which block.
#[derive(Debug)]
pub(crate) struct Pumped {
    pub(crate) input: Option<OwnedFd>,
    /// Standard output (or the terminal) and standard error.
    pub(crate) outputs: [Option<OwnedFd>; 2],
    pub(crate) terminal: Option<OwnedFd>,
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// `None` when even SIGKILL did not end the main process in time.
    pub(crate) ended: Option<Ended>,
    pub(crate) timed_out: bool,
    pub(crate) ran: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// `give_up` is set when the tree has been killed because its time was up.
    Running { give_up: Option<Instant> },
    /// The main process has ended; others may still write.
    Draining { until: Instant },
    /// Nothing of the tree lives; the streams hold what they hold.
    Killed { until: Instant },
}

/// One running command.
pub(crate) struct Session<'a> {
    socket: &'a OwnedFd,
    decoder: &'a mut Decoder,
    tree: &'a Tree,
    child: &'a Child,
    pumped: Pumped,
    deadline: Option<Instant>,
    started: Instant,
    ran: Duration,
    phase: Phase,
    timed_out: bool,
    outbox: Outbox,
    /// Per output; `None` when there is nothing to hide.
    redactors: Option<[Redactor; 2]>,
    /// When a terminal that stays idle shows what looks like a secret's first letters.
    let_go_at: Option<Instant>,
    /// Bytes on their way to the command.
    inbox: VecDeque<u8>,
    input_ends: bool,
    credit: usize,
    drained: usize,
    /// Tells when the tree has ended; there once the whole tree was asked to, where anything tells.
    ending: Option<File>,
}

/// What a poll found.
struct Events {
    host: PollFlags,
    child: bool,
    input: PollFlags,
    outputs: [bool; 2],
}

impl Events {
    fn none() -> Self {
        Self { host: PollFlags::empty(), child: false, input: PollFlags::empty(), outputs: [false; 2] }
    }
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        connection: &'a mut Connection,
        tree: &'a Tree,
        child: &'a Child,
        pumped: Pumped,
        deadline: Option<Instant>,
        needles: &Arc<Needles>,
    ) -> Self {
        let (socket, decoder) = connection.parts();
        Self {
            socket,
            decoder,
            tree,
            child,
            pumped,
            deadline,
            started: Instant::now(),
            ran: Duration::ZERO,
            phase: Phase::Running { give_up: None },
            timed_out: false,
            outbox: Outbox::default(),
            redactors: (!needles.is_empty()).then(|| [0, 1].map(|_| Redactor::new(Arc::clone(needles)))),
            let_go_at: None,
            inbox: VecDeque::new(),
            input_ends: false,
            credit: 0,
            drained: 0,
            ending: None,
        }
    }

    /// Runs to the end; an error means that the host is gone or does not speak the protocol.
    pub(crate) fn pump(mut self) -> io::Result<Outcome> {
        // Frames that came along with the request.
        self.take_frames()?;
        while !self.is_done() {
            let events = self.poll()?;
            self.serve_host(events.host)?;
            self.write_input(events.input);
            for (index, readable) in events.outputs.into_iter().enumerate() {
                if readable {
                    self.read_output(index);
                }
            }
            self.let_go();
            self.return_credit()?;
            self.advance(events.child);
        }
        Ok(Outcome { ended: self.child.status(), timed_out: self.timed_out, ran: self.ran })
    }

    fn is_done(&self) -> bool {
        let streams_done = self.pumped.outputs.iter().all(Option::is_none);
        matches!(self.phase, Phase::Killed { .. }) && streams_done && self.outbox.is_empty()
    }

    /// The next moment at which something happens by itself.
    fn wake_at(&self) -> Option<Instant> {
        [self.next_phase_at(), self.let_go_at].into_iter().flatten().min()
    }

    fn next_phase_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running { give_up: None } => self.deadline,
            Phase::Running { give_up } => give_up,
            Phase::Draining { until } => Some(until),
            Phase::Killed { until } => {
                let streams_done = self.pumped.outputs.iter().all(Option::is_none);
                // Only the host is awaited when all is read, or nothing may be read until it takes more.
                (!streams_done && self.outbox.len() < OUTBOX_BYTES).then_some(until)
            }
        }
    }

    fn poll(&self) -> io::Result<Events> {
        let mut host = PollFlags::RDHUP;
        host.set(PollFlags::IN, self.inbox.len() < STDIN_WINDOW_BYTES);
        host.set(PollFlags::OUT, !self.outbox.is_empty());
        let input = if self.inbox.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let mut polls = vec![PollFd::new(self.socket, host)];
        let mut add = |fd, flags| {
            polls.push(PollFd::from_borrowed_fd(fd, flags));
            polls.len() - 1
        };
        let running = matches!(self.phase, Phase::Running { .. });
        let child_at = running.then(|| add(self.child.ended_event(), PollFlags::IN));
        // A pipe without readers is told apart by POLLERR; a terminal is watched as an output already.
        let watch_input = !self.inbox.is_empty() || self.pumped.terminal.is_none();
        let input_at = self.pumped.input.as_ref().filter(|_| watch_input).map(|fd| add(fd.as_fd(), input));
        let room = self.outbox.len() < OUTBOX_BYTES;
        let outputs_at = [0, 1].map(|index| {
            let output = self.pumped.outputs[index].as_ref().filter(|_| room);
            output.map(|fd| add(fd.as_fd(), PollFlags::IN))
        });
        let ending = self.ending.as_ref().filter(|_| matches!(self.phase, Phase::Draining { .. }));
        let ending_at = ending.map(|events| add(events.as_fd(), PollFlags::PRI));
        let timeout = self.wake_at().map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match rustix::event::poll(&mut polls, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Events::none()),
            Err(error) => return Err(error.into()),
        }
        let seen = |at: Option<usize>| at.map_or(PollFlags::empty(), |at| polls[at].revents());
        if let (Some(events), false) = (ending, seen(ending_at).is_empty()) {
            // It stays raised until it is read.
            let _ = rustix::io::pread(events, &mut [0; 64], 0);
        }
        Ok(Events {
            host: polls[0].revents(),
            child: !seen(child_at).is_empty(),
            input: seen(input_at),
            outputs: outputs_at.map(|at| !seen(at).is_empty()),
        })
    }

    fn serve_host(&mut self, events: PollFlags) -> io::Result<()> {
        if events.intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if events.contains(PollFlags::OUT) {
            self.flush()?;
        }
        if events.contains(PollFlags::IN) {
            let mut chunk = [0; 16 << 10];
            match rustix::net::recv(self.socket, &mut chunk[..], rustix::net::RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Err(io::ErrorKind::ConnectionAborted.into()),
                Ok((_, len)) => {
                    self.decoder.feed(&chunk[..len]);
                    self.take_frames()?;
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn take_frames(&mut self) -> io::Result<()> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        while let Some((kind, payload)) =
            self.decoder.next_frame().map_err(|error| invalid(error.to_string()))?
        {
            match kind {
                FrameKind::Stdin => self.queue_input(&payload),
                FrameKind::Signal => {
                    let signal = serde_json::from_slice(&payload).map_err(|e| invalid(e.to_string()))?;
                    self.signal(signal);
                }
                FrameKind::SignalTree => {
                    let signal = serde_json::from_slice(&payload).map_err(|e| invalid(e.to_string()))?;
                    self.signal_tree(signal);
                }
                FrameKind::Resize => {
                    let size: TtySize =
                        serde_json::from_slice(&payload).map_err(|e| invalid(e.to_string()))?;
                    if let Some(terminal) = &self.pumped.terminal {
                        // A terminal that went away has no size.
                        let _ = super::resize(terminal, size);
                    }
                }
                other => return Err(invalid(format!("{other:?} frame during an exec"))),
            }
        }
        Ok(())
    }

    fn queue_input(&mut self, bytes: &[u8]) {
        if self.pumped.input.is_none() || self.input_ends {
            self.credit += bytes.len();
        } else if !bytes.is_empty() {
            self.inbox.extend(bytes);
        } else if self.pumped.terminal.is_some() {
            self.inbox.push_back(EOT);
        } else {
            self.input_ends = true;
            self.write_input(PollFlags::empty());
        }
    }

    fn write_input(&mut self, events: PollFlags) {
        if let Some(input) = &self.pumped.input
            && events.intersects(PollFlags::OUT | PollFlags::ERR | PollFlags::HUP)
        {
            match rustix::io::write(input, self.inbox.as_slices().0) {
                Ok(len) => {
                    self.inbox.drain(..len);
                    self.credit += len;
                }
                Err(Errno::AGAIN | Errno::INTR) if !events.contains(PollFlags::ERR) => {}
                // The command has closed its input; a pipe says so, and what is left has no reader.
                Err(_) => self.close_input(),
            }
            if events.contains(PollFlags::ERR) {
                self.close_input();
            }
        }
        if self.input_ends && self.inbox.is_empty() {
            self.pumped.input = None;
        }
    }

    fn close_input(&mut self) {
        self.credit += self.inbox.len();
        self.inbox.clear();
        self.pumped.input = None;
    }

    fn read_output(&mut self, index: usize) {
        let Some(output) = &self.pumped.outputs[index] else { return };
        let read = match &mut self.redactors {
            None => self.outbox.fill(KINDS[index], |room| rustix::io::read(output, room)),
            Some(redactors) => {
                let mut chunk = vec![0; DATA_CHUNK_BYTES];
                let read = rustix::io::read(output, &mut chunk[..]);
                let mut clear = Vec::new();
                redactors[index].push(&chunk[..*read.as_ref().unwrap_or(&0)], &mut clear);
                self.outbox.push_chunks(KINDS[index], &clear);
                let can_let_go = self.pumped.terminal.is_some() && redactors[index].can_let_go();
                self.let_go_at = can_let_go.then(|| Instant::now() + ECHO_IDLE);
                read
            }
        };
        match read {
            Ok(0) => self.close_output(index),
            Ok(len) => {
                if matches!(self.phase, Phase::Killed { .. }) {
                    self.drained += len;
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal that nobody holds any more says EIO.
            Err(_) => self.close_output(index),
        }
    }

    /// A terminal's echo waits for the next letter only for a moment.
    fn let_go(&mut self) {
        if self.let_go_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.let_go_at = None;
        if let Some([redactor, _]) = &mut self.redactors {
            let mut clear = Vec::new();
            redactor.let_go(&mut clear);
            self.outbox.push_chunks(KINDS[0], &clear);
        }
    }

    /// Nothing more comes from it; what looked like the start of a secret was none.
    fn close_output(&mut self, index: usize) {
        self.pumped.outputs[index] = None;
        if let Some(redactors) = &mut self.redactors {
            let mut clear = Vec::new();
            redactors[index].finish(&mut clear);
            self.outbox.push_chunks(KINDS[index], &clear);
        }
    }

    fn return_credit(&mut self) -> io::Result<()> {
        // Credit is worth a frame when it is a good part of the window.
        let due = self.credit >= STDIN_WINDOW_BYTES / 4 || (self.credit > 0 && self.inbox.is_empty());
        if due && self.outbox.len() < OUTBOX_BYTES {
            let frame = emit_json(FrameKind::StdinCredit, &self.credit).map_err(io::Error::other)?;
            self.outbox.push(&frame);
            self.credit = 0;
        }
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
            match rustix::net::send(self.socket, self.outbox.unsent(), flags) {
                Ok(len) => self.outbox.take(len),
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// To the terminal's foreground group, or to the command's own; SIGKILL to the whole tree.
    fn signal(&self, number: i32) {
        if number == libc::SIGKILL {
            return self.tree.kill(self.child.pid());
        }
        let Some(signal) = Signal::from_named_raw(number) else { return };
        let foreground = self.pumped.terminal.as_ref().and_then(|tty| rustix::termios::tcgetpgrp(tty).ok());
        let own = Pid::from_raw(self.child.pid()).filter(|_| self.child.status().is_none());
        if let Some(group) = foreground.or(own) {
            // The group may have ended this instant.
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }

    /// Asks the whole tree to end; what is left of it when its main process has ended gets time to do so.
    fn signal_tree(&mut self, number: i32) {
        if number == libc::SIGKILL {
            return self.tree.kill(self.child.pid());
        }
        let Some(signal) = Signal::from_named_raw(number) else { return };
        if self.ending.is_none() {
            self.ending = self.tree.events();
        }
        self.tree.signal(self.child.pid(), signal);
    }

    fn advance(&mut self, child_ended: bool) {
        let now = Instant::now();
        match self.phase {
            Phase::Running { .. } if child_ended => {
                self.ran = self.started.elapsed();
                self.close_input();
                if self.tree.is_populated(self.child.pid()) {
                    let grace = if self.ending.is_some() { STOP_LIMIT } else { DRAIN_GRACE };
                    self.phase = Phase::Draining { until: now + grace };
                } else {
                    self.phase = Phase::Killed { until: now + DRAIN_GRACE };
                }
            }
            Phase::Running { give_up: None } if self.deadline.is_some_and(|deadline| deadline <= now) => {
                self.timed_out = true;
                self.tree.kill(self.child.pid());
                self.phase = Phase::Running { give_up: Some(now + KILL_DEADLINE) };
            }
            Phase::Running { give_up: Some(give_up) } if give_up <= now => {
                self.ran = self.started.elapsed();
                self.phase = Phase::Killed { until: now };
            }
            Phase::Running { .. } => {}
            Phase::Draining { until } => {
                let is_silent = self.pumped.outputs.iter().all(Option::is_none);
                if until <= now
                    || (is_silent && self.ending.is_none())
                    || !self.tree.is_populated(self.child.pid())
                {
                    self.tree.kill(self.child.pid());
                    self.tree.wait_empty(KILL_DEADLINE);
                    self.phase = Phase::Killed { until: Instant::now() + DRAIN_GRACE };
                }
            }
            Phase::Killed { until } => self.give_up_idle_outputs(until <= now),
        }
    }

    /// With the tree dead the streams close as soon as they are read; one that somebody outside the tree
    /// holds open is left when it is idle, or has given more than it could have held.
    fn give_up_idle_outputs(&mut self, time_is_up: bool) {
        let too_much = self.drained > DRAIN_BYTES;
        for index in 0..self.pumped.outputs.len() {
            let Some(output) = &self.pumped.outputs[index] else { continue };
            let idle = !super::is_ready(output, PollFlags::IN);
            if time_is_up && (idle || too_much) {
                self.close_output(index);
            }
        }
    }
}
