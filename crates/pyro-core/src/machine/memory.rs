//! The host's memory, as the bound of a guest's.
//!
//! A guest's memory is taken page by page, when the guest first touches it. It may therefore be more than the host
//! has left, and is only bounded by what the host has at all.

use super::MachineError;
use crate::limits::{MEM_MIB, OutOfRange};

/// What proc(5) `meminfo` tells, in MiB. Without it there is nothing to compare with; the machine's own start tells
/// then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HostMemory {
    total_mib: Option<u64>,
    available_mib: Option<u64>,
}

impl HostMemory {
    /// As it is now.
    pub(super) fn read() -> Self {
        std::fs::read_to_string("/proc/meminfo").map(|text| Self::parse(&text)).unwrap_or_default()
    }

    fn parse(meminfo: &str) -> Self {
        let mib = |name: &str| {
            let value = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            Some(value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? >> 10)
        };
        Self { total_mib: mib("MemTotal"), available_mib: mib("MemAvailable") }
    }

    /// `mem_mib`, if a guest can have that much here.
    pub(super) fn check(self, mem_mib: u64) -> Result<u64, MachineError> {
        let (min, max) = MEM_MIB.into_inner();
        let host_mib = self.total_mib.unwrap_or(max);
        let max = max.min(host_mib);
        if mem_mib > host_mib {
            return Err(MachineError::MoreThanHost { mem_mib, host_mib });
        }
        if !(min..=max).contains(&mem_mib) {
            return Err(OutOfRange { name: "mem_mib", value: mem_mib, min, max }.into());
        }
        Ok(mem_mib)
    }

    /// Refuses to start a guest that could not even boot: the kernel would kill some process instead.
    pub(super) fn check_available(self) -> Result<(), MachineError> {
        let needed_mib = *MEM_MIB.start();
        match self.available_mib {
            Some(available_mib) if available_mib < needed_mib => {
                Err(MachineError::Memory { needed_mib, available_mib })
            }
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:        4194304 kB\nMemFree: 9 kB\nMemAvailable:     262143 kB\n";

    fn refusal(host: HostMemory, mem_mib: u64) -> String {
        host.check(mem_mib).map(|_| String::new()).unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn memory_is_read_in_mib() {
        let memory = HostMemory::parse(MEMINFO);
        assert_eq!(memory, HostMemory { total_mib: Some(4096), available_mib: Some(255) });
        assert_eq!(HostMemory::parse("MemTotal: 9 pages\n"), HostMemory::default());
    }

    #[test]
    fn a_guest_gets_up_to_what_the_host_has() {
        let host = HostMemory::parse(MEMINFO);
        assert_eq!(refusal(host, 256), "");
        assert_eq!(refusal(host, 4096), "");
        assert_eq!(refusal(host, 4097), "mem_mib 4097 is more than this host has (4096 MiB)");
        assert_eq!(refusal(host, 255), "mem_mib must be between 256 and 4096, not 255");
    }

    #[test]
    fn no_guest_gets_more_than_machines_are_built_for() {
        let told = "mem_mib must be between 256 and 1048576, not 1048577";
        assert_eq!(refusal(HostMemory { total_mib: Some(2 << 20), available_mib: None }, 1_048_577), told);
        assert_eq!(refusal(HostMemory::default(), 1_048_576), "");
    }

    #[test]
    fn a_host_without_memory_left_starts_no_guest() {
        let told = HostMemory::parse(MEMINFO).check_available().unwrap_err().to_string();
        assert_eq!(told, "a guest needs 256 MiB of memory to boot, the host has 255 MiB available");
        assert!(HostMemory { total_mib: None, available_mib: Some(256) }.check_available().is_ok());
        assert!(HostMemory::default().check_available().is_ok());
    }
}
