//! An address for each allowed name: a flow's destination then is the name, on shared hosts too.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::guest::{NAMES_V4, NAMES_V6};
use crate::limits;
use crate::policy::Name;

/// The network's own address and some for nobody are left out.
const FIRST: u32 = 256;

/// Names in the order in which they were first asked for. None is ever given up: a guest may keep an address.
#[derive(Default)]
pub(crate) struct Synthetic {
    numbers: HashMap<Name, u32>,
    names: Vec<Name>,
}

impl Synthetic {
    /// The addresses of `name`, its own for the machine's life; `None` when there are too many names.
    pub(crate) fn addresses(&mut self, name: &Name) -> Option<[IpAddr; 2]> {
        let number = match self.numbers.get(name) {
            Some(number) => *number,
            None if self.names.len() < limits::MAX_SYNTHETIC_NAMES => {
                let number = self.names.len() as u32;
                self.names.push(name.clone());
                self.numbers.insert(name.clone(), number);
                number
            }
            None => return None,
        };
        let offset = number + FIRST;
        let IpAddr::V4(v4) = NAMES_V4.network() else { return None };
        let IpAddr::V6(v6) = NAMES_V6.network() else { return None };
        Some([
            Ipv4Addr::from_bits(v4.to_bits() + offset).into(),
            Ipv6Addr::from_bits(v6.to_bits() + u128::from(offset)).into(),
        ])
    }

    /// Whether `address` is of the kind that names get.
    pub(crate) fn holds(address: IpAddr) -> bool {
        NAMES_V4.contains(address) || NAMES_V6.contains(address)
    }

    /// The name to which `address` was given.
    pub(crate) fn name(&self, address: IpAddr) -> Option<&Name> {
        let offset = match (address, NAMES_V4.network(), NAMES_V6.network()) {
            (IpAddr::V4(v4), IpAddr::V4(first), _) => u128::from(v4.to_bits().checked_sub(first.to_bits())?),
            (IpAddr::V6(v6), _, IpAddr::V6(first)) => v6.to_bits().checked_sub(first.to_bits())?,
            (IpAddr::V4(_) | IpAddr::V6(_), _, _) => return None,
        };
        self.names.get(usize::try_from(offset.checked_sub(u128::from(FIRST))?).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_its_own_addresses_and_keeps_them() {
        let mut synthetic = Synthetic::default();
        let (a, b): (Name, Name) = ("a.b".parse().unwrap(), "c.d".parse().unwrap());
        let first = synthetic.addresses(&a).unwrap();
        let second = synthetic.addresses(&b).unwrap();
        assert_eq!(synthetic.addresses(&a), Some(first));
        for (address, name) in
            first.iter().map(|address| (address, &a)).chain(second.iter().map(|address| (address, &b)))
        {
            assert_eq!(synthetic.name(*address), Some(name));
            assert!(Synthetic::holds(*address));
        }
        for nobody in ["198.18.0.0", "198.18.200.1", "1.1.1.1", "::1"] {
            assert_eq!(synthetic.name(nobody.parse().unwrap()), None);
        }
    }

    #[test]
    fn there_is_an_end_to_names() {
        let mut synthetic = Synthetic::default();
        for number in 0..limits::MAX_SYNTHETIC_NAMES {
            let [v4, _] = synthetic.addresses(&format!("n{number}.example").parse().unwrap()).unwrap();
            assert!(NAMES_V4.contains(v4));
        }
        assert_eq!(synthetic.addresses(&"one.more".parse().unwrap()), None);
    }
}
