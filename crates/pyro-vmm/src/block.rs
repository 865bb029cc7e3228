//! Copy-on-write disks: an immutable base, sealed deltas on it, and one delta that is written.
//!
//! A delta is a sparse file: a header, a table of two bits for each block of 4 KiB, then the blocks, each at its own
//! place, so that there is nothing to allocate and nothing to compact. A block either *falls through* to the layer
//! below, *reads as zeroes*, or is *present* here.
//!
//! Nothing is durable before a flush. A flush makes the blocks durable first and the table after them, so whatever
//! subset of writes a crash leaves behind, the table never names a block whose contents were not durable before. A
//! block's bytes in the file mean nothing while the table does not name it, and are overwritten before it does.
//!
//! Everything here works on files that somebody else opened. A delta has one writer: an unsealed one that
//! outlives its machine is locked by whoever writes it, and read by nobody else meanwhile. The lock is a
//! `flock`, so it belongs to the open file description: descriptors that were inherited or sent share it,
//! and it ends with the last of them. A machine's process thus holds it as long as it lives, whatever
//! becomes of the process that opened the file. Sealed deltas need no lock.

mod format;
mod layers;
mod offline;
mod overlay;
mod reader;
mod storage;
mod table;

pub use format::{BLOCK_BYTES, FormatError, LayerId, MAX_DISK_BYTES};
pub use layers::{Layers, MAX_LAYERS, OpenError};
pub use offline::{DeltaFacts, allocated_bytes, create_delta, inspect, merge, seal};
pub use overlay::{Durability, IoError, Overlay, ReplaceError};
pub use reader::{DiskReader, export_raw};
pub(crate) use storage::MemoryFile;
pub use storage::{Lock, Storage};

/// Opens hostile bytes as a delta, once as they are and once behind a header that is right, and uses what
/// opens. Never panics. For fuzzing.
#[doc(hidden)]
pub fn fuzz_delta(bytes: &[u8]) {
    use_hostile(bytes.to_vec());
    use_hostile(format::with_valid_header(bytes));
}

fn use_hostile(bytes: Vec<u8>) {
    use crate::device::iov::{Source, Target};
    let file = storage::MemoryFile::new(bytes);
    let Ok(mut disk) = Overlay::open(Layers::empty(), file, Durability::Durable, u64::MAX) else {
        return;
    };
    let (mut buf, size) = (vec![0u8; 192 << 10], disk.size_bytes());
    let places = [0, 1, BLOCK_BYTES - 7, size / 2, size.saturating_sub(buf.len() as u64)];
    for at in places {
        let _ = disk.read(&mut Target::from_slice(&mut buf), at);
        let _ = disk.write_zeroes(at, 70_000);
        if at < 1 << 20 {
            let _ = disk.write(&Source::from_slice(&buf[..70_000]), at);
        }
        let _ = disk.discard(at, 200_000);
    }
    let _ = disk.flush();
    if disk.replace_delta(storage::MemoryFile::new(Vec::new())).is_ok() {
        let _ = disk.read(&mut Target::from_slice(&mut buf), 0);
    }
}

#[cfg(test)]
mod tests;
