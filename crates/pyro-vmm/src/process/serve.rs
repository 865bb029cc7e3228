//! The event loop of a running machine.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::engine::{Engine, Remains, Word};
use super::{console, send_event};
use crate::block::{Overlay, ReplaceError};
use crate::device::blk::Blk;
use crate::endpoint::{Endpoint, EndpointError};
use crate::jail::Jail;
use crate::limits;
use crate::poll::{Poller, Token};
use crate::protocol::control::{self, Asked, Received};
use crate::protocol::{Event, ExitReason, Started};
use crate::vhost_user::VhostUserDevice;
use crate::virtio_mmio::MmioDevice;

/// Numbers of the endpoints on the loop. The devices' are in the order in which they are added, without a gap.
pub(super) mod endpoint {
    pub(crate) const BLOCK: u16 = 0;
    pub(crate) const RNG: u16 = 1;
    pub(crate) const VSOCK: u16 = 2;
    pub(crate) const NETWORK: u16 = 3;
    /// All devices are below.
    const FIRST_OF_OTHERS: u16 = 16;
    pub(crate) const CONTROL: u16 = FIRST_OF_OTHERS;
    pub(crate) const MONITOR: u16 = FIRST_OF_OTHERS + 1;
    pub(crate) const CONSOLE: u16 = FIRST_OF_OTHERS + 2;
    pub(crate) const ENGINE: u16 = FIRST_OF_OTHERS + 3;
    pub(crate) const ENGINE_OUTPUT: u16 = FIRST_OF_OTHERS + 4;

    pub(super) fn is_device(number: u16) -> bool {
        number < FIRST_OF_OTHERS
    }
}

/// The block device, of which the host asks more than of others.
pub(super) trait DiskEndpoint: Endpoint {
    /// Seals the disk's writable layer and goes on in `new`.
    fn replace_delta(&mut self, new: File) -> Result<(), ReplaceError>;
}

impl DiskEndpoint for VhostUserDevice<Blk<Overlay>> {
    fn replace_delta(&mut self, new: File) -> Result<(), ReplaceError> {
        self.with_device(|block| block.disk_mut().replace_delta(new))
    }
}

impl DiskEndpoint for Arc<MmioDevice<Blk<Overlay>>> {
    fn replace_delta(&mut self, new: File) -> Result<(), ReplaceError> {
        self.with_device(|block| block.disk_mut().replace_delta(new))
    }
}

/// The machine's devices behind their transports.
pub(super) struct Devices {
    block: Box<dyn DiskEndpoint>,
    /// From number 1 on.
    others: Vec<Box<dyn Endpoint>>,
}

impl Devices {
    pub(super) fn new(block: impl DiskEndpoint + 'static) -> Self {
        Self { block: Box::new(block), others: Vec::new() }
    }

    pub(super) fn add(&mut self, device: impl Endpoint + 'static) {
        self.others.push(Box::new(device));
    }

    fn all(&mut self) -> impl Iterator<Item = &mut dyn Endpoint> {
        let block: &mut dyn Endpoint = self.block.as_mut();
        let others = self.others.iter_mut().map(|device| device.as_mut() as &mut dyn Endpoint);
        std::iter::once(block).chain(others)
    }

    fn at(&mut self, number: u16) -> Option<&mut dyn Endpoint> {
        self.all().nth(number.into())
    }
}

/// Where the machine is in its life.
enum Phase {
    /// The engine has not answered yet; it must do so until then.
    Starting(Instant),
    Running,
}

/// Why the loop ends.
enum End {
    /// The host went away.
    HostGone,
    /// The guest switched itself off.
    PoweredOff,
    /// The guest's CPU was reset; the console tells what for.
    Reset,
    /// The engine is gone or on its way, without having said why.
    EngineGone,
    /// The engine does not answer.
    EngineMute,
    /// Something here failed.
    Failed(String),
}

/// A machine with its devices attached.
pub(super) struct Serving {
    poller: Arc<Poller>,
    devices: Devices,
    engine: Box<dyn Engine>,
    jail: Jail,
    phase: Phase,
}

impl Serving {
    pub(super) fn new(poller: Arc<Poller>, devices: Devices, engine: Box<dyn Engine>, jail: Jail) -> Self {
        let phase = Phase::Starting(Instant::now() + limits::ENGINE_START);
        Self { poller, devices, engine, jail, phase }
    }

    /// Serves until the machine ends; `None` when the host is gone.
    pub(super) fn run(mut self, control: &OwnedFd) -> Option<Event> {
        let end = self.serve(control).unwrap_or_else(|error| End::Failed(error.to_string()));
        let reason = self.reason(end)?;
        Some(Event::Exited { reason, console_tail: self.engine.console_tail() })
    }

    fn serve(&mut self, control: &OwnedFd) -> io::Result<End> {
        if let Some(word) = self.engine.start()
            && let Some(end) = self.heed(word, control)?
        {
            return Ok(end);
        }
        loop {
            if let Some(end) = self.turn(control)? {
                return Ok(end);
            }
        }
    }

    fn turn(&mut self, control: &OwnedFd) -> io::Result<Option<End>> {
        let busy = self.devices.all().any(|device| device.has_work());
        let patience = match self.phase {
            _ if busy => Some(Duration::ZERO),
            Phase::Starting(until) => Some(until.saturating_duration_since(Instant::now())),
            Phase::Running => None,
        };
        let tokens = self.poller.wait(patience)?;
        for token in tokens {
            if let Some(end) = self.dispatch(token, control)? {
                return Ok(Some(end));
            }
        }
        for device in self.devices.all() {
            if device.has_work()
                && let Some(end) = device_end(device.resume().map(|_| ()))
            {
                return Ok(Some(end));
            }
        }
        match self.phase {
            Phase::Starting(until) if Instant::now() >= until => Ok(Some(End::EngineMute)),
            Phase::Starting(_) | Phase::Running => Ok(None),
        }
    }

    fn dispatch(&mut self, token: Token, control: &OwnedFd) -> io::Result<Option<End>> {
        if token.endpoint == endpoint::CONTROL {
            return self.answer(control);
        }
        if endpoint::is_device(token.endpoint) {
            let device = self.devices.at(token.endpoint);
            return Ok(device.and_then(|device| device_end(device.ready(token.source))));
        }
        while let Some(word) = self.engine.hear(token.endpoint)? {
            if let Some(end) = self.heed(word, control)? {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    fn answer(&mut self, control: &OwnedFd) -> io::Result<Option<End>> {
        match control::receive(control.as_fd())? {
            Received::Asked(Asked::ConsoleTail) => {
                send_event(control.as_fd(), &Event::Console { tail: self.engine.console_tail() })?;
                Ok(None)
            }
            Received::Asked(Asked::ReplaceDelta(new)) => self.replace_delta(new, control),
            Received::Asked(Asked::Pause) => {
                let word = self.engine.pause()?;
                word.map_or(Ok(None), |word| self.heed(word, control))
            }
            Received::Asked(Asked::Resume) => {
                let word = self.engine.resume()?;
                word.map_or(Ok(None), |word| self.heed(word, control))
            }
            Received::Nothing => Ok(None),
            Received::Closed => Ok(Some(End::HostGone)),
        }
    }

    /// Between two turns of the queues: each request before this one is answered, none after it has begun.
    fn replace_delta(&mut self, new: Option<File>, control: &OwnedFd) -> io::Result<Option<End>> {
        let replaced = match new {
            Some(new) => self.devices.block.replace_delta(new),
            None => Err(ReplaceError::New(io::Error::other("its descriptor did not arrive").into())),
        };
        let event = Event::DeltaReplaced { error: replaced.as_ref().err().map(ToString::to_string) };
        send_event(control.as_fd(), &event)?;
        Ok(match replaced {
            Err(error) if !error.is_survivable() => Some(End::Failed(error.to_string())),
            Ok(()) | Err(_) => None,
        })
    }

    fn heed(&mut self, word: Word, control: &OwnedFd) -> io::Result<Option<End>> {
        match word {
            Word::Started { name, pid } => {
                self.phase = Phase::Running;
                let started = Started { engine: name, engine_pid: pid, jail: self.jail.report() };
                send_event(control.as_fd(), &Event::Started(started))?;
                Ok(None)
            }
            Word::Paused => send_event(control.as_fd(), &Event::Paused).map(|()| None),
            Word::Resumed => send_event(control.as_fd(), &Event::Resumed).map(|()| None),
            Word::PoweredOff => Ok(Some(End::PoweredOff)),
            Word::Reset => Ok(Some(End::Reset)),
            Word::Gone => Ok(Some(End::EngineGone)),
            Word::Failed(message) => Ok(Some(End::Failed(message))),
        }
    }

    /// Ends the engine and finds out what happened.
    fn reason(&mut self, end: End) -> Option<ExitReason> {
        // The monitor may have said more than was read when a device's connection closed.
        let end = match end {
            End::EngineGone => match self.engine.hear(endpoint::MONITOR) {
                Ok(Some(Word::PoweredOff)) => End::PoweredOff,
                Ok(Some(Word::Reset)) => End::Reset,
                Ok(_) | Err(_) => End::EngineGone,
            },
            end => end,
        };
        let patience = match end {
            End::EngineGone => limits::ENGINE_EXIT,
            End::HostGone | End::PoweredOff | End::Reset | End::EngineMute | End::Failed(_) => Duration::ZERO,
        };
        let Remains { status, output: engine_output } = self.engine.end(patience);
        Some(match (end, &self.phase) {
            (End::HostGone, _) => return None,
            (End::PoweredOff, _) => ExitReason::PoweredOff,
            (End::Reset, _) => console::reset_reason(&self.engine.console_tail()),
            (End::Failed(message), _) => ExitReason::VmmFailed { message },
            (End::EngineGone, Phase::Running) => ExitReason::EngineDied { status, engine_output },
            (End::EngineGone, Phase::Starting(_)) => {
                ExitReason::StartFailed { message: format!("the engine ended with {status}"), engine_output }
            }
            (End::EngineMute, _) => ExitReason::StartFailed {
                message: format!("the engine did not answer within {} s", limits::ENGINE_START.as_secs()),
                engine_output,
            },
        })
    }
}

fn device_end(result: Result<(), EndpointError>) -> Option<End> {
    match result {
        Ok(()) => None,
        Err(EndpointError::Disconnected) => Some(End::EngineGone),
        Err(error) => Some(End::Failed(error.to_string())),
    }
}
