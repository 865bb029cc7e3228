//! Device cores served over vhost-user: the transport of the emulated engine.
//!
//! The specification is QEMU's `docs/interop/vhost-user.rst`. Messages are parsed by the `vhost` crate; here
//! is what they mean for one device's queues and memory. Everything runs on the caller's event loop: an
//! [`Endpoint`] says which descriptors to watch and what to do when one is ready.

pub mod fuzz;
mod rings;
#[cfg(test)]
mod tests;

use crate::device::Device;
use crate::endpoint::{Endpoint, EndpointError};
use crate::poll::{Poller, Source, Token};
use rings::Rings;
use rustix::net::RecvFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};
use vhost::vhost_user::message::FrontendReq;
use vhost::vhost_user::{BackendReqHandler, Error as VhostError, VhostUserBackendReqHandlerMut as _};

/// A message's head (request, flags, size) and the state of a ring (index, value).
const EARLY_ENABLE_BYTES: usize = 12 + 8;

/// A device core at its connection.
pub struct VhostUserDevice<D: Device + 'static> {
    handler: BackendReqHandler<Mutex<Rings<D>>>,
    /// The handler's connection, to look ahead.
    stream: OwnedFd,
    rings: Arc<Mutex<Rings<D>>>,
}

impl<D: Device + 'static> VhostUserDevice<D> {
    /// Serves `device` to the emulator at the other end of `stream`; watches the descriptors that this
    /// takes with `poller`, as endpoint `index`; the device's host side once there is memory to serve it with.
    pub fn new(index: u16, device: D, stream: UnixStream, poller: &Arc<Poller>) -> std::io::Result<Self> {
        poller.add(stream.as_fd(), Token { endpoint: index, source: Source::Messages })?;
        let peeked = stream.try_clone()?.into();
        let rings = Arc::new(Mutex::new(Rings::new(index, device, Arc::clone(poller))));
        let handler = BackendReqHandler::from_stream(stream, Arc::clone(&rings));
        Ok(Self { handler, stream: peeked, rings })
    }

    /// Runs `f` on the device core, for what the host asks of it outside its queues.
    pub fn with_device<T>(&self, f: impl FnOnce(&mut D) -> T) -> T {
        f(&mut self.lock().served.device)
    }

    /// QEMU enables a network's rings before it sets features, and only then; the handler would refuse that.
    /// Takes such a message.
    fn take_early_enable(&self) -> Option<()> {
        let mut rings = self.lock();
        if rings.has_features() {
            return None;
        }
        let mut message = [0; EARLY_ENABLE_BYTES];
        let peek = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let (_, len) = rustix::net::recv(&self.stream, &mut message[..], peek).ok()?;
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| message[at + byte]));
        if len < EARLY_ENABLE_BYTES || word(0) != u32::from(FrontendReq::SET_VRING_ENABLE) || word(8) != 8 {
            return None;
        }
        // A number that is none is the handler's to refuse.
        rings.set_vring_enable(word(12), word(16) == 1).ok()?;
        rustix::net::recv(&self.stream, &mut message[..], RecvFlags::DONTWAIT).ok().map(|_| ())
    }

    fn lock(&self) -> MutexGuard<'_, Rings<D>> {
        self.rings.lock().expect("one thread serves all endpoints and ends at the first panic")
    }
}

impl<D: Device + 'static> Endpoint for VhostUserDevice<D> {
    fn ready(&mut self, source: Source) -> Result<(), EndpointError> {
        match source {
            Source::Messages if self.take_early_enable().is_some() => Ok(()),
            Source::Messages => match self.handler.handle_request() {
                Ok(()) => Ok(()),
                Err(VhostError::Disconnected | VhostError::SocketBroken(_)) => {
                    Err(EndpointError::Disconnected)
                }
                // A frontend may ask for what a device has not got, and is told so in the answer.
                Err(VhostError::InvalidOperation(_)) => Ok(()),
                Err(error) => Err(EndpointError::Protocol(error)),
            },
            Source::Queue(index) => Ok(self.lock().kicked(index)?),
            Source::Host => Ok(self.lock().host_ready()?),
        }
    }

    fn resume(&mut self) -> Result<bool, EndpointError> {
        let mut rings = self.lock();
        rings.resume()?;
        Ok(rings.served.again != 0)
    }

    fn has_work(&self) -> bool {
        self.lock().served.again != 0
    }
}
