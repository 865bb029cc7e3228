//! The system call that gives pages back.
#![allow(unsafe_code)]

use std::io;

use vm_memory::bitmap::Bitmap;
use vm_memory::{MmapRegion, VolatileMemory as _};

/// Frees the pages of a part of `mapping`, which is private and anonymous: it reads as zeroes from here on.
pub(super) fn discard<B: Bitmap>(mapping: &MmapRegion<B>, offset: usize, len: usize) -> io::Result<()> {
    let part = mapping.get_slice(offset, len).map_err(io::Error::other)?;
    part.bitmap().mark_dirty(0, len);
    let start = part.ptr_guard_mut();
    // SAFETY: the part was found to lie inside the mapping, which is borrowed and so stays mapped. Guest memory
    // is never borrowed as a Rust reference, so that it may change under everybody.
    match unsafe { libc::madvise(start.as_ptr().cast(), len, libc::MADV_DONTNEED) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How many pages of a part of `mapping` take memory.
#[cfg(test)]
pub(super) fn resident_pages<B: Bitmap>(mapping: &MmapRegion<B>, offset: usize, len: usize) -> usize {
    let part = mapping.get_slice(offset, len).unwrap();
    let mut pages = vec![0; len / super::PAGE_BYTES as usize];
    let start = part.ptr_guard().as_ptr().cast_mut().cast();
    // SAFETY: the kernel writes one byte a page, for which there is room, and only looks at the mapping.
    assert_eq!(unsafe { libc::mincore(start, len, pages.as_mut_ptr()) }, 0);
    pages.iter().filter(|page| *page & 1 == 1).count()
}
