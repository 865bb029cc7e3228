//! What the event loop knows of a device: something to be told of events and to be asked for left work.

use vhost::vhost_user::Error as VhostError;

use crate::device::DeviceError;
use crate::poll::Source;

/// Why an endpoint cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The emulator closed the connection: it is gone.
    #[error("the emulator closed a device's connection")]
    Disconnected,
    /// The emulator and this program do not understand each other.
    #[error("the vhost-user protocol failed: {0}")]
    Protocol(VhostError),
    /// The device cannot go on.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// One device behind its transport, whatever the two are.
pub trait Endpoint: Send {
    /// Something happened at `source`.
    fn ready(&mut self, source: Source) -> Result<(), EndpointError>;
    /// Goes on with work that was left for the next turn; tells whether more is left.
    fn resume(&mut self) -> Result<bool, EndpointError>;
    /// Whether [`Endpoint::resume`] has work.
    fn has_work(&self) -> bool;
}
