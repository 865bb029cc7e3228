//! virtio-blk: requests parsed, bounded and passed to a [`Disk`].

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_queue::{DescriptorChain, Queue};
use vm_memory::GuestMemory;

use super::chain::{Chain, Served, drain};
use super::iov::{Source, Target};
use super::{COMMON_FEATURES, Device, DeviceError, Outcome, read_from};
use crate::block::{IoError, Layers, Overlay, Storage};

#[cfg(test)]
mod tests;

const SECTOR_BYTES: u64 = 512;
/// Room for a deep queue; also the work budget of one call.
const QUEUE_SIZE: u16 = 256;
/// Data segments of one request; header and status are two more descriptors.
const SEG_MAX: u32 = 126;
/// The most data of one request. Linux asks for at most a few MiB; a hostile guest could name 4 GiB.
const MAX_REQUEST_BYTES: usize = 64 << 20;
/// The most sectors of one discard or write-zeroes segment, 1 GiB: bounds the walk over the table.
const MAX_ZERO_SECTORS: u32 = 2 << 20;
/// What a guest is told to discard at least, 64 KiB: less is hardly worth a request.
const DISCARD_SECTORS: u32 = 128;
/// The most such segments of one request.
const MAX_ZERO_SEGMENTS: u32 = 16;
const HEADER_BYTES: usize = 16;
const SEGMENT_BYTES: usize = 16;
const ID_BYTES: usize = 20;

/// What a block device reads and writes.
pub trait Disk: Send {
    /// The size in bytes; what is beyond the last whole sector is not visible.
    fn size_bytes(&self) -> u64;
    /// True when the guest may not write.
    fn is_read_only(&self) -> bool;
    /// Reads at `at`.
    fn read(&mut self, target: &mut Target<'_>, at: u64) -> Result<(), IoError>;
    /// Writes at `at`.
    fn write(&mut self, source: &Source<'_>, at: u64) -> Result<(), IoError>;
    /// Makes everything written durable.
    fn flush(&mut self) -> Result<(), IoError>;
    /// The range's contents are no longer needed.
    fn discard(&mut self, at: u64, len: u64) -> Result<(), IoError>;
    /// The range reads as zeroes from now on.
    fn write_zeroes(&mut self, at: u64, len: u64) -> Result<(), IoError>;
}

impl<S: Storage + Send> Disk for Overlay<S> {
    fn size_bytes(&self) -> u64 {
        Overlay::size_bytes(self)
    }
    fn is_read_only(&self) -> bool {
        false
    }
    fn read(&mut self, target: &mut Target<'_>, at: u64) -> Result<(), IoError> {
        Overlay::read(self, target, at)
    }
    fn write(&mut self, source: &Source<'_>, at: u64) -> Result<(), IoError> {
        Overlay::write(self, source, at)
    }
    fn flush(&mut self) -> Result<(), IoError> {
        Overlay::flush(self)
    }
    fn discard(&mut self, at: u64, len: u64) -> Result<(), IoError> {
        Overlay::discard(self, at, len)
    }
    fn write_zeroes(&mut self, at: u64, len: u64) -> Result<(), IoError> {
        Overlay::write_zeroes(self, at, len)
    }
}

/// Layers alone are a disk that is only read. The device refuses writes before they come here.
impl<S: Storage + Send> Disk for Layers<S> {
    fn size_bytes(&self) -> u64 {
        Layers::size_bytes(self)
    }
    fn is_read_only(&self) -> bool {
        true
    }
    fn read(&mut self, target: &mut Target<'_>, at: u64) -> Result<(), IoError> {
        let (len, size_bytes) = (target.len() as u64, Layers::size_bytes(self));
        // Layers are zeroes without end to what is stacked on them, but not to a guest.
        if at.checked_add(len).is_none_or(|end| end > size_bytes) {
            return Err(IoError::OutOfRange { at, len, size_bytes });
        }
        Ok(Layers::read(self, target, at)?)
    }
    fn write(&mut self, _: &Source<'_>, _: u64) -> Result<(), IoError> {
        Err(std::io::Error::from(std::io::ErrorKind::ReadOnlyFilesystem).into())
    }
    fn flush(&mut self) -> Result<(), IoError> {
        Ok(())
    }
    fn discard(&mut self, _: u64, _: u64) -> Result<(), IoError> {
        Err(std::io::Error::from(std::io::ErrorKind::ReadOnlyFilesystem).into())
    }
    fn write_zeroes(&mut self, _: u64, _: u64) -> Result<(), IoError> {
        Err(std::io::Error::from(std::io::ErrorKind::ReadOnlyFilesystem).into())
    }
}

/// A request's fixed part, as the guest wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    kind: u32,
    sector: u64,
}

impl Header {
    fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let mut sector = [0; 8];
        sector.copy_from_slice(&bytes[8..]);
        let kind = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Header { kind, sector: u64::from_le_bytes(sector) }
    }
}

/// Why a request fails, as the guest is told.
enum Refusal {
    IoError,
    Unsupported,
}

impl From<IoError> for Refusal {
    fn from(_: IoError) -> Self {
        Refusal::IoError
    }
}

/// The device.
pub struct Blk<D> {
    disk: D,
    id: [u8; ID_BYTES],
    /// The guest flushes by itself; otherwise each write is made durable before it is answered.
    write_back: bool,
}

impl<D: Disk> Blk<D> {
    /// A device for `disk`. `id` is what the guest sees as the serial number, cut after 20 bytes.
    pub fn new(disk: D, id: &str) -> Self {
        let mut bytes = [0; ID_BYTES];
        let len = id.len().min(ID_BYTES);
        bytes[..len].copy_from_slice(&id.as_bytes()[..len]);
        Blk { disk, id: bytes, write_back: false }
    }

    /// The disk, to be flushed and counted.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    fn serve<'a, M: GuestMemory>(&mut self, chain: DescriptorChain<&'a M>, mem: &'a M) -> u32 {
        let Ok(mut chain) = Chain::parse(chain, mem) else {
            return 0;
        };
        // The status is the last byte the guest gave to write; without one nothing can be answered.
        let Some(room) = chain.writable.len().checked_sub(1) else {
            return 0;
        };
        let mut header = [0; HEADER_BYTES];
        let done = match chain.readable.copy_to(&mut header) {
            HEADER_BYTES => {
                let payload = chain.readable.part(HEADER_BYTES, usize::MAX);
                self.request(Header::parse(&header), &payload, &mut chain.writable.part(0, room))
            }
            _ => Err(Refusal::IoError),
        };
        let (status, written) = match done {
            Ok(written) => (VIRTIO_BLK_S_OK, written),
            Err(Refusal::IoError) => (VIRTIO_BLK_S_IOERR, 0),
            Err(Refusal::Unsupported) => (VIRTIO_BLK_S_UNSUPP, 0),
        };
        chain.writable.part(room, 1).copy_from(&[status as u8]);
        written as u32 + 1
    }

    /// Does what is asked and returns how many bytes of `room` were written.
    fn request(
        &mut self,
        header: Header,
        payload: &Source<'_>,
        room: &mut Target<'_>,
    ) -> Result<usize, Refusal> {
        match header.kind {
            VIRTIO_BLK_T_IN => {
                let at = place(header.sector, room.len())?;
                self.disk.read(room, at)?;
                Ok(room.len())
            }
            VIRTIO_BLK_T_OUT => {
                self.check_writable()?;
                let at = place(header.sector, payload.len())?;
                self.disk.write(payload, at)?;
                self.flush_unless_write_back()
            }
            VIRTIO_BLK_T_FLUSH => {
                self.disk.flush()?;
                Ok(0)
            }
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => {
                self.check_writable()?;
                self.zero(header.kind, payload)?;
                self.flush_unless_write_back()
            }
            VIRTIO_BLK_T_GET_ID => Ok(room.copy_from(&self.id[..ID_BYTES.min(room.len())])),
            _ => Err(Refusal::Unsupported),
        }
    }

    fn check_writable(&self) -> Result<(), Refusal> {
        if self.disk.is_read_only() { Err(Refusal::IoError) } else { Ok(()) }
    }

    fn flush_unless_write_back(&mut self) -> Result<usize, Refusal> {
        if !self.write_back {
            self.disk.flush()?;
        }
        Ok(0)
    }

    fn zero(&mut self, kind: u32, payload: &Source<'_>) -> Result<(), Refusal> {
        let mut bytes = [0; SEGMENT_BYTES * MAX_ZERO_SEGMENTS as usize];
        if payload.is_empty() || payload.len() > bytes.len() || !payload.len().is_multiple_of(SEGMENT_BYTES) {
            return Err(Refusal::IoError);
        }
        let len = payload.copy_to(&mut bytes);
        for segment in bytes[..len].chunks_exact(SEGMENT_BYTES) {
            let (sector, rest) = segment.split_at(8);
            let sector = u64::from_le_bytes(sector.try_into().map_err(|_| Refusal::IoError)?);
            let sectors = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
            let flags = u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]);
            // Bit 0 asks write-zeroes to give the space back, which it does anyway; a discard has no flags.
            if flags > 1 || (kind == VIRTIO_BLK_T_DISCARD && flags != 0) {
                return Err(Refusal::Unsupported);
            }
            if sectors > MAX_ZERO_SECTORS {
                return Err(Refusal::IoError);
            }
            let at = sector.checked_mul(SECTOR_BYTES).ok_or(Refusal::IoError)?;
            let len = u64::from(sectors) * SECTOR_BYTES;
            match kind {
                VIRTIO_BLK_T_DISCARD => self.disk.discard(at, len)?,
                _ => self.disk.write_zeroes(at, len)?,
            }
        }
        Ok(())
    }

    fn config(&self) -> [u8; 60] {
        let mut config = [0; 60];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(self.disk.size_bytes() / SECTOR_BYTES).to_le_bytes());
        put(12, &SEG_MAX.to_le_bytes());
        put(20, &(SECTOR_BYTES as u32).to_le_bytes());
        put(36, &MAX_ZERO_SECTORS.to_le_bytes());
        put(40, &MAX_ZERO_SEGMENTS.to_le_bytes());
        put(44, &DISCARD_SECTORS.to_le_bytes());
        put(48, &MAX_ZERO_SECTORS.to_le_bytes());
        put(52, &MAX_ZERO_SEGMENTS.to_le_bytes());
        put(56, &[1]);
        config
    }
}

/// The byte at which a transfer of whole sectors starts.
fn place(sector: u64, len: usize) -> Result<u64, Refusal> {
    if len > MAX_REQUEST_BYTES || !(len as u64).is_multiple_of(SECTOR_BYTES) {
        return Err(Refusal::IoError);
    }
    sector.checked_mul(SECTOR_BYTES).ok_or(Refusal::IoError)
}

impl<D: Disk> Device for Blk<D> {
    fn virtio_id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        let always = [VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH];
        let writable = [VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES];
        let own: &[u32] = if self.disk.is_read_only() { &[VIRTIO_BLK_F_RO] } else { &writable };
        always.iter().chain(own).fold(COMMON_FEATURES, |features, bit| features | 1 << bit)
    }

    fn acknowledge(&mut self, features: u64) {
        self.write_back = features & (1 << VIRTIO_BLK_F_FLUSH) != 0;
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_from(&self.config(), offset, data);
    }

    fn process<M: GuestMemory>(
        &mut self,
        index: u16,
        queues: &mut [Queue],
        mem: &M,
    ) -> Result<Outcome, DeviceError> {
        let queue = queues.get_mut(usize::from(index)).ok_or(DeviceError::NoSuchQueue(index))?;
        drain(index, queue, mem, QUEUE_SIZE.into(), |chain| Served::Used(self.serve(chain, mem)))
    }

    fn reset(&mut self) {
        self.write_back = false;
    }
}
