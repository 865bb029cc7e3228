//! A guest's memory as devices reach it.

use std::iter::FusedIterator;

use vm_memory::bitmap::BS;
use vm_memory::guest_memory::{GuestMemorySliceIterator, Result};
use vm_memory::{
    GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion as _,
    MemoryRegionAddress, Permissions, VolatileSlice,
};

/// Guest memory that finds quickly what lies within one region, as nearly everything does: a request looks a dozen
/// times into its ring.
#[derive(Clone, Debug)]
pub struct DeviceMemory(GuestMemoryMmap<()>);

impl DeviceMemory {
    /// The same memory.
    pub fn new(memory: GuestMemoryMmap<()>) -> Self {
        Self(memory)
    }

    /// The range, if it is not empty and within one region.
    #[inline]
    fn slice(&self, addr: GuestAddress, count: usize) -> Option<VolatileSlice<'_>> {
        let (region, offset) = self.0.iter().find_map(|region| {
            let offset = addr.0.checked_sub(region.start_addr().0)?;
            (offset < region.len()).then_some((region, offset))
        })?;
        let is_inside = count > 0 && count as u64 <= region.len() - offset;
        is_inside.then(|| region.get_slice(MemoryRegionAddress(offset), count).ok()).flatten()
    }
}

impl GuestMemory for DeviceMemory {
    type PhysicalMemory = GuestMemoryMmap<()>;
    type Bitmap = ();

    fn check_range(&self, addr: GuestAddress, count: usize, _: Permissions) -> bool {
        GuestMemoryBackend::check_range(&self.0, addr, count)
    }

    #[inline]
    fn get_slices<'a>(
        &'a self,
        addr: GuestAddress,
        count: usize,
        _: Permissions,
    ) -> Result<impl GuestMemorySliceIterator<'a, BS<'a, ()>>> {
        Ok(match self.slice(addr, count) {
            Some(slice) => Slices::One(Some(slice)),
            None => Slices::Several(GuestMemoryBackend::get_slices(&self.0, addr, count)),
        })
    }

    fn physical_memory(&self) -> Option<&Self::PhysicalMemory> {
        Some(&self.0)
    }
}

/// What a range consists of.
enum Slices<'a, I> {
    One(Option<VolatileSlice<'a>>),
    Several(I),
}

impl<'a, I: GuestMemorySliceIterator<'a, ()>> Iterator for Slices<'a, I> {
    type Item = Result<VolatileSlice<'a>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Slices::One(slice) => slice.take().map(Ok),
            Slices::Several(slices) => slices.next(),
        }
    }
}

impl<'a, I: GuestMemorySliceIterator<'a, ()>> FusedIterator for Slices<'a, I> {}

impl<'a, I: GuestMemorySliceIterator<'a, ()>> GuestMemorySliceIterator<'a, ()> for Slices<'a, I> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_is_found_as_the_memory_itself_finds_it() {
        // Two regions side by side, one apart.
        let ranges = [(0x1000, 0x1000), (0x2000, 0x800), (0x8000, 0x1000)];
        let memory =
            GuestMemoryMmap::from_ranges(&ranges.map(|(start, len)| (GuestAddress(start), len))).unwrap();
        let quick = DeviceMemory::new(memory.clone());
        let edges = [0, 0x1000, 0x2000, 0x2800, 0x8000, 0x9000, u64::MAX];
        let near = |edge: u64| [edge.saturating_sub(8), edge.saturating_sub(1), edge, edge.saturating_add(1)];
        let place = |slice: Result<VolatileSlice<'_>>| {
            slice.map(|slice| (slice.ptr_guard().as_ptr().addr(), slice.len()))
        };
        for addr in edges.into_iter().flat_map(near).map(GuestAddress) {
            for count in [0, 1, 8, 9, 0x800, 0x1000, 0x1800, 0x1801, usize::MAX] {
                let access = Permissions::ReadWrite;
                let found: Vec<_> =
                    quick.get_slices(addr, count, access).unwrap().map(place).map(|one| one.ok()).collect();
                let expected = GuestMemory::get_slices(&memory, addr, count, access).unwrap();
                let expected: Vec<_> = expected.map(place).map(|one| one.ok()).collect();
                assert_eq!(found, expected, "{count:#x} bytes at {addr:?}");
            }
        }
    }
}
