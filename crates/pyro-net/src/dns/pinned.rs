//! Which names the guest was told for which address.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use crate::limits;
use crate::policy::Name;

/// Names by address. The oldest address is forgotten first.
#[derive(Default)]
pub(crate) struct Pinned {
    names: HashMap<IpAddr, Vec<Name>>,
    /// Addresses in the order in which they became known.
    order: VecDeque<IpAddr>,
}

impl Pinned {
    /// Remembers that `name` was answered with `address`; of many names the last ones count.
    pub(crate) fn pin(&mut self, address: IpAddr, name: &Name) {
        if !self.names.contains_key(&address) {
            if self.order.len() == limits::MAX_PINNED_ADDRESSES
                && let Some(oldest) = self.order.pop_front()
            {
                self.names.remove(&oldest);
            }
            self.order.push_back(address);
        }
        let names = self.names.entry(address).or_default();
        names.retain(|known| known != name);
        names.insert(0, name.clone());
        names.truncate(limits::MAX_PINNED_NAMES);
    }

    /// The names of `address`, the last one first.
    pub(crate) fn names(&self, address: IpAddr) -> &[Name] {
        self.names.get(&address).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_name_comes_first_and_the_oldest_address_is_forgotten() {
        let mut pinned = Pinned::default();
        let address = |n: u32| IpAddr::V4(n.into());
        let (a, b): (Name, Name) = ("a.b".parse().unwrap(), "c.d".parse().unwrap());
        for name in [&a, &b, &a] {
            pinned.pin(address(0), name);
        }
        assert_eq!(pinned.names(address(0)), [a.clone(), b]);
        for n in 1..=limits::MAX_PINNED_ADDRESSES as u32 {
            pinned.pin(address(n), &a);
        }
        assert!(pinned.names(address(0)).is_empty());
        assert_eq!(pinned.names.len(), limits::MAX_PINNED_ADDRESSES);
    }
}
