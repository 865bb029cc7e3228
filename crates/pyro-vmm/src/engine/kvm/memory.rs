//! The guest's RAM: private memory of this process, page by page from the host when the guest first touches it.

mod sys;

use std::io;

use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionCollectionError, GuestRegionMmap, MmapRegion,
};

use super::layout::{self, PAGE_BYTES, Range};
use sys::HostRange;

/// A huge page of x86 processors.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// More than the holes between a program's libraries have, so that no mapping of this size is put into one; a multiple
/// of [`HUGE_PAGE_BYTES`].
const FILL_BYTES: usize = 64 << 20;
/// How often RAM is placed anew when another thread's mapping came in between; then it is taken where it is, for it
/// works as well there, only slower.
const PLACEMENT_ATTEMPTS: u32 = 16;

/// Why there is no such memory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RamError {
    /// A machine's RAM is whole pages.
    #[error("{0} bytes are no size of a machine's memory")]
    Size(u64),
    /// The host has no address space left.
    #[error("cannot reserve the guest's memory: {0}")]
    Map(#[from] MmapRegionError),
    #[error("cannot arrange the guest's memory: {0}")]
    Arrange(#[from] GuestRegionCollectionError),
    /// Not a range of pages within one region of RAM.
    #[error("{len_bytes:#x} bytes at {address:#x} are not pages of the guest's memory")]
    NotRam { address: u64, len_bytes: u64 },
    #[error("cannot keep the guest's memory out of core files: {0}")]
    Dumps(#[from] io::Error),
}

/// A region of RAM as KVM's memory slots want it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) guest_address: u64,
    pub(crate) len_bytes: u64,
    /// Where this process has it.
    pub(crate) host_address: u64,
}

/// All RAM of a guest.
pub(crate) struct GuestRam {
    memory: GuestMemoryMmap<()>,
}

impl GuestRam {
    /// Reserves `ram_bytes`. Nothing is taken from the host before it is touched, and nothing is promised: the
    /// host may commit more than it has.
    pub(crate) fn new(ram_bytes: u64) -> Result<Self, RamError> {
        if ram_bytes <= layout::KERNEL_START || !ram_bytes.is_multiple_of(PAGE_BYTES) {
            return Err(RamError::Size(ram_bytes));
        }
        let mut regions = Vec::new();
        for Range { start, len_bytes } in layout::ram_ranges(ram_bytes) {
            let len = usize::try_from(len_bytes).map_err(|_| RamError::Size(ram_bytes))?;
            let region =
                GuestRegionMmap::new(reserve(len)?, GuestAddress(start)).ok_or(RamError::Size(ram_bytes))?;
            regions.push(region);
        }
        let ram = GuestRam { memory: GuestMemoryMmap::from_regions(regions)? };
        for range in layout::ram_ranges(ram_bytes) {
            ram.host_range(range)?.exclude_from_dumps()?;
        }
        Ok(ram)
    }

    /// The memory for devices and for what is written before the start.
    pub(crate) fn memory(&self) -> &GuestMemoryMmap<()> {
        &self.memory
    }

    /// The regions, in ascending order.
    pub(crate) fn regions(&self) -> impl Iterator<Item = Region> + '_ {
        self.memory.iter().map(|region| Region {
            guest_address: region.start_addr().raw_value(),
            len_bytes: region.len(),
            host_address: region.as_ptr().addr() as u64,
        })
    }

    /// How much there is.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.memory.iter().map(GuestMemoryRegion::len).sum()
    }

    /// Where the RAM that starts at 0 ends.
    pub(crate) fn low_end(&self) -> u64 {
        self.len_bytes().min(layout::LOW_RAM_END)
    }

    fn host_range(&self, range: Range) -> Result<HostRange<'_>, RamError> {
        let not_ram = RamError::NotRam { address: range.start, len_bytes: range.len_bytes };
        HostRange::of(&self.memory, range).ok_or(not_ram)
    }
}

/// Address space of `len` bytes at a multiple of [`HUGE_PAGE_BYTES`] where possible, as every region of RAM begins
/// at one for the guest: only then one huge page of the host can be one for the guest, which else leaves for each of
/// its small pages.
///
/// Linux places mappings of such a size by itself so since 6.7, and before that each directly below the one before. So
/// there is one whose end is not of interest, one that fills up, and then the one that is meant. Where another thread
/// got memory in between, it is tried again.
fn reserve(len: usize) -> Result<MmapRegion<()>, MmapRegionError> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let fill = |len| MmapRegion::<()>::build(None, len, libc::PROT_NONE, flags);
    let place = || {
        let last = fill(FILL_BYTES)?;
        let misplaced = last.as_ptr().addr().wrapping_sub(len) % HUGE_PAGE_BYTES;
        let _fill = fill(FILL_BYTES + misplaced)?;
        MmapRegion::build(None, len, libc::PROT_READ | libc::PROT_WRITE, flags)
    };
    let mut region = place()?;
    for _ in 1..PLACEMENT_ATTEMPTS {
        if region.as_ptr().addr().is_multiple_of(HUGE_PAGE_BYTES) {
            break;
        }
        region = place()?;
    }
    Ok(region)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    const MIB: u64 = 1 << 20;

    fn read(ram: &GuestRam, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        ram.memory().read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    #[test]
    fn more_memory_than_the_host_has_is_reserved_around_the_devices() {
        let ram = GuestRam::new(64 << 30).unwrap();
        let regions: Vec<Region> = ram.regions().collect();
        assert_eq!((regions[0].guest_address, regions[0].len_bytes), (0, layout::LOW_RAM_END));
        assert_eq!((regions[1].guest_address, regions[1].len_bytes), (1 << 32, 61 << 30));
        assert_eq!((ram.len_bytes(), ram.low_end()), (64 << 30, layout::LOW_RAM_END));
        let value = [1, 2, 3];
        ram.memory().write_slice(&value, GuestAddress((65 << 30) - 3)).unwrap();
        assert_eq!(read(&ram, (65 << 30) - 3, 3), value);
        assert!(ram.memory().write_slice(&value, GuestAddress(layout::LOW_RAM_END - 2)).is_err());
    }

    #[test]
    fn huge_pages_of_the_host_can_be_the_guests() {
        for mib in [2, 256, 257, 4096] {
            let ram = GuestRam::new(mib * MIB).unwrap();
            let mut regions = ram.regions();
            assert!(
                regions.all(|region| region.host_address % (HUGE_PAGE_BYTES as u64) == 0),
                "{mib} MiB: {:?}",
                ram.regions().collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn the_host_does_not_dump_the_guests_memory() {
        let ram = GuestRam::new(16 * MIB).unwrap();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let host = ram.regions().next().unwrap().host_address;
        for address in [host, host + 16 * MIB - 1] {
            let flags = flags_at(&smaps, address);
            assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
            assert!(flags.split(' ').all(|flag| flag != "ex" && flag != "sh"), "{flags}");
        }
    }

    /// The line `VmFlags` of the mapping that `address` is in.
    fn flags_at(smaps: &str, address: u64) -> &str {
        let mut inside = false;
        for line in smaps.lines() {
            if let Some((start, end)) = line.split(' ').next().and_then(|range| range.split_once('-')) {
                let bound = |text| u64::from_str_radix(text, 16);
                if let (Ok(start), Ok(end)) = (bound(start), bound(end)) {
                    inside = (start..end).contains(&address);
                }
            } else if inside && let Some(flags) = line.strip_prefix("VmFlags: ") {
                return flags;
            }
        }
        panic!("nothing is mapped at {address:#x}");
    }

    #[test]
    fn ram_is_whole_pages_and_enough_for_a_kernel() {
        for size in [0, MIB, 16 * MIB + 1, u64::MAX - 4095] {
            assert!(GuestRam::new(size).is_err(), "{size}");
        }
    }
}
