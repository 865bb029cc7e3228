//! Mappings inside guest RAM.
#![allow(unsafe_code)]

use std::io;

use rustix::mm::{Advice, madvise};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

use crate::engine::kvm::layout::{PAGE_BYTES, Range};

/// Whole pages within one region of guest RAM.
pub(super) struct HostRange<'a> {
    slice: VolatileSlice<'a>,
}

impl<'a> HostRange<'a> {
    /// `None` when `range` is something else.
    pub(super) fn of(memory: &'a GuestMemoryMmap<()>, range: Range) -> Option<Self> {
        let aligned = [range.start, range.len_bytes].iter().all(|value| value.is_multiple_of(PAGE_BYTES));
        let len = usize::try_from(range.len_bytes).ok().filter(|len| aligned && *len > 0)?;
        let slice = memory.get_slice(GuestAddress(range.start), len).ok()?;
        Some(HostRange { slice })
    }

    /// Keeps what a guest has in memory out of core files of this process.
    pub(super) fn exclude_from_dumps(&self) -> io::Result<()> {
        let address = self.slice.ptr_guard_mut();
        // SAFETY: the range is mapped while `self` borrows it; the advice changes none of its bytes.
        unsafe { madvise(address.as_ptr().cast(), self.slice.len(), Advice::LinuxDontDump) }?;
        Ok(())
    }
}
