//! The guest's interface: addresses, the way out and the name servers, as the host says.
//!
//! A guest without an interface is told of none, and keeps its image's `/etc/resolv.conf`.

mod netlink;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use pyro_agent::wire::{Failure, FailureCode, Network};

use crate::connection::{failure, os_failure};
use netlink::Route;

/// The only interface that a machine has beside `lo`.
const INTERFACE: &str = "eth0";
/// More than any resolver of a C library looks at is a mistake (`MAXNS` of resolv.h is 3).
const MAX_NAME_SERVERS: usize = 3;

/// Brings the interface up and writes `/etc/resolv.conf`.
pub(crate) fn configure(network: &Network) -> Result<(), Failure> {
    check(network)?;
    let index = fs::read_to_string(format!("/sys/class/net/{INTERFACE}/ifindex"))
        .and_then(|text| text.trim().parse::<i32>().map_err(io::Error::other))
        .map_err(|error| os_failure("this guest has no interface eth0", &error))?;
    // The addresses are given; nobody else on this link gives any. A kernel without IPv6 has no such settings.
    for (setting, value) in [("accept_ra", "0"), ("autoconf", "0"), ("accept_dad", "0")] {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{INTERFACE}/{setting}"), value);
    }
    let interface = |error| os_failure("cannot set up eth0", &error);
    let route = Route::open().map_err(interface)?;
    route.set_up(index, network.mtu).map_err(interface)?;
    for (number, address) in network.addresses.iter().enumerate() {
        let set = route
            .add_address(index, address.address, address.prefix)
            .and_then(|()| route.add_default_route(index, address.gateway));
        match set {
            // A kernel without IPv6 does with IPv4 alone.
            Err(_) if number > 0 => {}
            set => set.map_err(interface)?,
        }
    }
    write_resolver(Path::new("/etc"), &network.name_servers)
        .map_err(|error| os_failure("cannot write /etc/resolv.conf", &error))
}

fn check(network: &Network) -> Result<(), Failure> {
    let bad = |message: String| Err(failure(FailureCode::BadRequest, message));
    if network.addresses.is_empty() || network.name_servers.len() > MAX_NAME_SERVERS {
        return bad(format!("an interface needs an address and at most {MAX_NAME_SERVERS} name servers"));
    }
    for address in &network.addresses {
        let bits = if address.address.is_ipv4() { 32 } else { 128 };
        if address.address.is_ipv4() != address.gateway.is_ipv4() || address.prefix > bits {
            return bad(format!("{address:?} is no address with its gateway"));
        }
    }
    Ok(())
}

/// In place of whatever is there: an image's file, or a link to one that a service of the image would write.
fn write_resolver(etc: &Path, name_servers: &[IpAddr]) -> io::Result<()> {
    let mut text = String::new();
    for address in name_servers {
        let _ = writeln!(text, "nameserver {address}");
    }
    let path = etc.join("resolv.conf");
    let is_file = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file());
    if is_file && fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    let aside = etc.join(".resolv.conf.pyro");
    let _ = fs::remove_file(&aside);
    fs::write(&aside, text)?;
    fs::rename(&aside, &path)
}
