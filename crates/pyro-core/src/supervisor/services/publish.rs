//! Ports of the host that lead to a service.

use super::Shared;
use crate::limits::WORKSPACE_PORTS;
use crate::services::{PortLimits, PortRequest, PublishedPort};
use crate::store::NetworkPolicy;
use crate::supervisor::ports::GuestPort;
use pyro_proxy::{Listener, PublishedPort as Serving};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// Those that are published; dropped, they are free again.
#[derive(Default)]
pub(super) struct Published {
    serving: Vec<Serving>,
    ports: Vec<PublishedPort>,
    /// Their part of what the workspace may publish.
    room: Option<OwnedSemaphorePermit>,
}

impl Published {
    pub(super) fn is_empty(&self) -> bool {
        self.serving.is_empty()
    }

    /// For the records; `None` where there is none.
    pub(super) fn to_json(&self) -> Option<String> {
        let text = || serde_json::to_string(&self.ports).expect("ports are numbers and texts");
        (!self.ports.is_empty()).then(text)
    }

    /// Frees them, with every connection closed when this returns.
    pub(super) async fn close(&mut self) {
        self.ports.clear();
        for port in self.serving.drain(..) {
            port.close().await;
        }
        self.room = None;
    }
}

/// Takes all of `wanted` and lets connections in, or takes none and says why.
pub(super) fn publish(
    shared: &Shared,
    wanted: &[PortRequest],
    limits: PortLimits,
) -> Result<Published, String> {
    if wanted.is_empty() {
        return Ok(Published::default());
    }
    // It may have changed since the service was asked for.
    let policy = shared.store.get(shared.id).map_err(|error| error.to_string())?.network_policy;
    if policy != NetworkPolicy::EgressAndPublishedPorts {
        return Err(format!(
            "the workspace's network_policy is '{policy}', under which nothing is published"
        ));
    }
    let streams = shared.ports.get().ok_or("the machine does not run")?;
    let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
    let room = Arc::clone(&shared.port_room).try_acquire_many_owned(count).map_err(|_| {
        let left = shared.port_room.available_permits();
        format!("a workspace publishes at most {WORKSPACE_PORTS} ports, and {left} are left of them")
    })?;
    let take = |port: &PortRequest| {
        Listener::bind(port.host_port).map_err(|error| match port.host_port {
            Some(host) => format!("port 127.0.0.1:{host} of the host cannot be had: {error}"),
            None => format!("the host has no port for port {}: {error}", port.guest_port),
        })
    };
    let listeners = wanted.iter().map(take).collect::<Result<Vec<_>, _>>()?;
    let mut published = Published { room: Some(room), ..Published::default() };
    for (listener, port) in listeners.into_iter().zip(wanted) {
        let address = listener.address();
        published.ports.push(PublishedPort {
            host: address.ip().to_string(),
            host_port: address.port(),
            guest_port: port.guest_port,
            protocol: "tcp".to_owned(),
        });
        let to = GuestPort { streams: streams.clone(), port: port.guest_port };
        published.serving.push(listener.serve(to, limits.of_proxy()));
    }
    Ok(published)
}
