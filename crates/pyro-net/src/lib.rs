//! A guest's network in user space: addresses, policy, DNS, and a stack that carries TCP, UDP and ICMP echo between
//! one descriptor and the host's sockets.
//!
//! Knows nothing of machines, workspaces, the command line or the agent. Who uses it hands in the link's descriptor,
//! a [`Policy`], perhaps a [`Proxy`], who dials ([`Dialer`]) and who resolves names ([`Resolver`]), and gets one
//! [`FlowEvent`] a flow.

pub mod address;
pub mod dialer;
pub mod dns;
pub mod event;
#[doc(hidden)]
pub mod fuzz;
pub mod guest;
pub mod limits;
mod link;
pub mod network;
pub mod opening;
mod packet;
pub mod policy;
mod poller;
pub mod proxy;
pub mod stack;

pub use dialer::{Dialer, HostDialer};
pub use dns::{HostResolver, Resolver};
pub use event::{End, EventSink, FlowEvent, FlowState, OpenFlow, OpenFlows, Proxied, Subject};
pub use network::Network;
pub use packet::Dropped;
pub use policy::{Mode, Policy, Rule};
pub use proxy::{Proxy, ProxyError};
pub use stack::{Setup, Stack, Turn};
