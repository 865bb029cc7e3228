//! Guest memory of this process's own, page by page given back to the host.

use std::sync::Arc;

use vm_memory::bitmap::Bitmap;
use vm_memory::{
    Address as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap, GuestMemoryRegion as _,
    GuestRegionMmap,
};

use super::{Reclaim, sys};

/// Private anonymous guest memory.
pub struct PrivateMemory<B: Bitmap = ()> {
    memory: Arc<GuestMemoryMmap<B>>,
}

impl<B: Bitmap> PrivateMemory<B> {
    /// `memory`, of which regions that are shared or show a file are left alone: a page of a file that is given back
    /// would show the file again, not zeroes, and not what the guest has written to it.
    pub fn new(memory: Arc<GuestMemoryMmap<B>>) -> Self {
        PrivateMemory { memory }
    }
}

fn is_private<B: Bitmap>(region: &GuestRegionMmap<B>) -> bool {
    region.flags() & libc::MAP_ANONYMOUS != 0 && region.flags() & libc::MAP_PRIVATE != 0
}

impl<B: Bitmap + Send + Sync> Reclaim for PrivateMemory<B> {
    fn reclaim(&mut self, address: GuestAddress, len: u64) {
        let (from, to) = (address.raw_value(), address.raw_value().saturating_add(len));
        for region in self.memory.iter().filter(|region| is_private(region)) {
            let first = region.start_addr().raw_value();
            let (start, end) = (from.max(first), to.min(first.saturating_add(region.len())));
            if start < end {
                // What cannot be given back stays, and the guest loses nothing.
                let _ = sys::discard(region, (start - first) as usize, (end - start) as usize);
            }
        }
    }
}
