//! Guest memory of this process's own, page by page given back to the host.

use std::ops::Range;
use std::sync::Arc;

use vm_memory::bitmap::Bitmap;
use vm_memory::{
    Address as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap, GuestMemoryRegion as _,
    GuestRegionMmap,
};

use super::{PAGE_BYTES, Reclaim, sys};

/// Private anonymous guest memory.
pub struct PrivateMemory<B: Bitmap = ()> {
    memory: Arc<GuestMemoryMmap<B>>,
    /// Whole pages, in ascending order.
    kept: Vec<Range<u64>>,
}

impl<B: Bitmap> PrivateMemory<B> {
    /// `memory`, of which regions that are shared or show a file are left alone, and `kept` too: ranges where a
    /// file was mapped over a region's own memory. A page of a file that is given back would show the file again,
    /// not zeroes, and not what the guest has written to it.
    pub fn new(memory: Arc<GuestMemoryMmap<B>>, kept: &[Range<GuestAddress>]) -> Self {
        let whole = |range: &Range<GuestAddress>| {
            let end = range.end.raw_value();
            let start = range.start.raw_value() / PAGE_BYTES * PAGE_BYTES;
            start..end.checked_next_multiple_of(PAGE_BYTES).unwrap_or(u64::MAX)
        };
        let mut kept: Vec<Range<u64>> = kept.iter().map(whole).collect();
        kept.sort_unstable_by_key(|range| range.start);
        PrivateMemory { memory, kept }
    }
}

fn is_private<B: Bitmap>(region: &GuestRegionMmap<B>) -> bool {
    region.flags() & libc::MAP_ANONYMOUS != 0 && region.flags() & libc::MAP_PRIVATE != 0
}

/// The parts of `range` outside of `kept`, which is in ascending order.
fn without(range: Range<u64>, kept: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut parts = Vec::new();
    let mut at = range.start;
    for one in kept {
        parts.push(at..one.start.min(range.end));
        at = at.max(one.end);
    }
    parts.push(at..range.end);
    parts.retain(|part| !part.is_empty());
    parts
}

impl<B: Bitmap + Send + Sync> Reclaim for PrivateMemory<B> {
    fn reclaim(&mut self, address: GuestAddress, len: u64) {
        let end = address.raw_value().saturating_add(len);
        for part in without(address.raw_value()..end, &self.kept) {
            for region in self.memory.iter().filter(|region| is_private(region)) {
                let first = region.start_addr().raw_value();
                let (start, end) = (part.start.max(first), part.end.min(first.saturating_add(region.len())));
                if start < end {
                    // What cannot be given back stays, and the guest loses nothing.
                    let _ = sys::discard(region, (start - first) as usize, (end - start) as usize);
                }
            }
        }
    }
}
