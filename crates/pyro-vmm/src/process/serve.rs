//! The event loop of a running machine.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::console::ConsoleReader;
use super::engine::EngineProcess;
use super::host_ports::HostPorts;
use super::send_event;
use crate::block::{Overlay, ReplaceError};
use crate::device::blk::Blk;
use crate::device::net::Net;
use crate::device::rng::Rng;
use crate::device::vsock::Vsock;
use crate::engine::emulated::{Monitor, MonitorEvent};
use crate::jail::Jail;
use crate::limits;
use crate::poll::{Poller, Token};
use crate::protocol::control::{self, Asked, Received};
use crate::protocol::{Event, ExitReason, Started};
use crate::vhost_user::{Endpoint, EndpointError, VhostUserDevice};

/// Numbers of the endpoints on the loop.
pub(super) mod endpoint {
    pub(crate) const BLOCK: u16 = 0;
    pub(crate) const RNG: u16 = 1;
    pub(crate) const VSOCK: u16 = 2;
    pub(crate) const CONTROL: u16 = 3;
    pub(crate) const MONITOR: u16 = 4;
    pub(crate) const CONSOLE: u16 = 5;
    pub(crate) const ENGINE: u16 = 6;
    pub(crate) const ENGINE_OUTPUT: u16 = 7;
    pub(crate) const NETWORK: u16 = 8;
}

/// The machine's devices, each with its own type so that the host can ask something of one.
pub(super) struct Devices {
    pub(super) block: VhostUserDevice<Blk<Overlay>>,
    pub(super) rng: VhostUserDevice<Rng>,
    pub(super) vsock: VhostUserDevice<Vsock<HostPorts>>,
    pub(super) network: Option<VhostUserDevice<Net>>,
}

impl Devices {
    fn all(&mut self) -> impl Iterator<Item = &mut dyn Endpoint> {
        let always: [&mut dyn Endpoint; 3] = [&mut self.block, &mut self.rng, &mut self.vsock];
        always.into_iter().chain(self.network.as_mut().map(|device| device as &mut dyn Endpoint))
    }

    fn at(&mut self, number: u16) -> Option<&mut dyn Endpoint> {
        match number {
            endpoint::BLOCK => Some(&mut self.block),
            endpoint::RNG => Some(&mut self.rng),
            endpoint::VSOCK => Some(&mut self.vsock),
            endpoint::NETWORK => self.network.as_mut().map(|device| device as &mut dyn Endpoint),
            _ => None,
        }
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
    monitor: Monitor,
    console: ConsoleReader,
    engine: EngineProcess,
    pub(super) jail: Jail,
    phase: Phase,
}

impl Serving {
    pub(super) fn new(
        poller: Arc<Poller>,
        devices: Devices,
        monitor: Monitor,
        console: ConsoleReader,
        engine: EngineProcess,
        jail: Jail,
    ) -> Self {
        let phase = Phase::Starting(Instant::now() + limits::ENGINE_START);
        Self { poller, devices, monitor, console, engine, jail, phase }
    }

    /// Serves until the machine ends; `None` when the host is gone.
    pub(super) fn run(mut self, control: &OwnedFd) -> Option<Event> {
        let end = loop {
            match self.turn(control) {
                Ok(None) => {}
                Ok(Some(end)) => break end,
                Err(error) => break End::Failed(error.to_string()),
            }
        };
        let reason = self.reason(end)?;
        Some(Event::Exited { reason, console_tail: self.console.tail() })
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
        match token.endpoint {
            endpoint::CONTROL => self.answer(control),
            endpoint::MONITOR => self.hear_monitor(control),
            endpoint::CONSOLE => {
                if self.console.read().is_err() {
                    self.poller.remove(self.console.as_fd())?;
                }
                Ok(None)
            }
            endpoint::ENGINE => Ok(Some(End::EngineGone)),
            endpoint::ENGINE_OUTPUT => {
                if !self.engine.read_output() {
                    self.poller.remove(self.engine.output_fd())?;
                }
                Ok(None)
            }
            device => match self.devices.at(device) {
                Some(device) => Ok(device_end(device.ready(token.source))),
                None => Ok(None),
            },
        }
    }

    fn answer(&mut self, control: &OwnedFd) -> io::Result<Option<End>> {
        match control::receive(control.as_fd())? {
            Received::Asked(Asked::ConsoleTail) => {
                send_event(control.as_fd(), &Event::Console { tail: self.console.tail() })?;
                Ok(None)
            }
            Received::Asked(Asked::ReplaceDelta(new)) => self.replace_delta(new, control),
            Received::Nothing => Ok(None),
            Received::Closed => Ok(Some(End::HostGone)),
        }
    }

    /// Between two turns of the queues: each request before this one is answered, none after it has begun.
    fn replace_delta(&mut self, new: Option<File>, control: &OwnedFd) -> io::Result<Option<End>> {
        let replaced = match new {
            Some(new) => self.devices.block.with_device(|block| block.disk_mut().replace_delta(new)),
            None => Err(ReplaceError::New(io::Error::other("its descriptor did not arrive").into())),
        };
        let event = Event::DeltaReplaced { error: replaced.as_ref().err().map(ToString::to_string) };
        send_event(control.as_fd(), &event)?;
        Ok(match replaced {
            Err(error) if !error.is_survivable() => Some(End::Failed(error.to_string())),
            Ok(()) | Err(_) => None,
        })
    }

    fn hear_monitor(&mut self, control: &OwnedFd) -> io::Result<Option<End>> {
        loop {
            match self.monitor.read() {
                Ok(None) => return Ok(None),
                Ok(Some(MonitorEvent::Ready { version })) => self.started(&version, control)?,
                Ok(Some(MonitorEvent::PoweredOff)) => return Ok(Some(End::PoweredOff)),
                Ok(Some(MonitorEvent::Reset)) => return Ok(Some(End::Reset)),
                Ok(Some(MonitorEvent::Ended)) | Err(_) => return Ok(Some(End::EngineGone)),
            }
        }
    }

    fn started(&mut self, version: &str, control: &OwnedFd) -> io::Result<()> {
        self.phase = Phase::Running;
        let started = Started {
            engine: format!("emulated (QEMU {version})"),
            engine_pid: self.engine.pid(),
            jail: self.jail.report(),
        };
        send_event(control.as_fd(), &Event::Started(started))
    }

    /// Ends the engine and finds out what happened.
    fn reason(&mut self, end: End) -> Option<ExitReason> {
        // The monitor may have said more than was read when a device's connection closed.
        let end = match end {
            End::EngineGone => match self.monitor.read() {
                Ok(Some(MonitorEvent::PoweredOff)) => End::PoweredOff,
                Ok(Some(MonitorEvent::Reset)) => End::Reset,
                Ok(_) | Err(_) => End::EngineGone,
            },
            end => end,
        };
        let patience = match end {
            End::EngineGone => limits::ENGINE_EXIT,
            End::HostGone | End::PoweredOff | End::Reset | End::EngineMute | End::Failed(_) => Duration::ZERO,
        };
        let status = self.engine.end(patience);
        // What the guest wrote last may still be on its way; the engine is dead, so it has an end.
        while self.console.read().is_ok_and(|more| more) {}
        let engine_output = self.engine.output();
        Some(match (end, &self.phase) {
            (End::HostGone, _) => return None,
            (End::PoweredOff, _) => ExitReason::PoweredOff,
            (End::Reset, _) => self.console.reset_reason(),
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
