//! Puts kernel, initramfs and what the kernel is told of its machine into the guest's RAM.
//!
//! Kernels are artifacts: their bytes are claims, parsed within bounds before anything of them is placed.

mod bzimage;
mod elf;
mod pvh;
#[cfg(test)]
pub(super) mod tests;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress, GuestMemory as _, GuestMemoryError, Permissions};

use super::layout::{self, PAGE_BYTES, Range};
use super::memory::{GuestRam, RamError};
use crate::device::iov::{FileIo as _, Target};
use bzimage::BzImage;
use elf::Elf;

/// Linux keeps this much of a command line, its end included (`COMMAND_LINE_SIZE` on x86).
const COMMAND_LINE_BYTES: usize = 2048;

/// Why a kernel cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("cannot read the kernel: {0}")]
    Kernel(#[source] io::Error),
    #[error("cannot read the initramfs: {0}")]
    Initramfs(#[source] io::Error),
    #[error("the kernel is neither an ELF file nor a bzImage")]
    Format,
    #[error("the kernel is not usable: {0}")]
    Malformed(&'static str),
    /// A part of the kernel belongs where the guest has no RAM, or where other things are.
    #[error("the kernel wants {len_bytes:#x} bytes at {address:#x}, where they cannot be")]
    Segment { address: u64, len_bytes: u64 },
    #[error("an initramfs of {len_bytes} bytes does not fit into the memory that the kernel leaves")]
    NoRoom { len_bytes: u64 },
    #[error("the command line has {0} bytes or one that is zero, {most} are possible", most = COMMAND_LINE_BYTES - 1)]
    CommandLine(usize),
    #[error(transparent)]
    Ram(#[from] RamError),
    #[error("cannot write to the guest's memory: {0}")]
    Access(#[from] GuestMemoryError),
}

/// How a kernel wants to be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Protected mode without paging, as Xen starts its guests.
    Pvh,
    /// Long mode, the 64-bit protocol of Linux (`Documentation/arch/x86/boot.rst`).
    Linux64,
}

/// Where the boot vCPU begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) protocol: Protocol,
    /// Guest-physical.
    pub(crate) instruction_pointer: u64,
    /// PVH's start information or Linux's zero page, guest-physical.
    pub(crate) parameters_address: u64,
}

/// Loads both files into `ram`, which nothing was written to yet but below [`layout::KERNEL_START`]. An empty
/// initramfs is none. The ACPI tables belong to [`layout::ACPI_START`] and are not this function's.
pub(crate) fn load(
    kernel: &File,
    initramfs: &File,
    command_line: &str,
    ram: &GuestRam,
) -> Result<Entry, LoadError> {
    let image = Image::open(kernel).map_err(LoadError::Kernel)?;
    let initramfs = Image::open(initramfs).map_err(LoadError::Initramfs)?;
    if command_line.len() >= COMMAND_LINE_BYTES || command_line.as_bytes().contains(&0) {
        return Err(LoadError::CommandLine(command_line.len()));
    }
    if elf::is_elf(&image)? {
        let elf = Elf::parse(&image, ram.low_end())?;
        let room = Range::between(elf.end(), ram.low_end());
        let module = place_initramfs(&initramfs, room, ram)?;
        for segment in elf.segments() {
            place(&image, *segment, ram)?;
        }
        write_command_line(command_line, ram)?;
        match elf.entry() {
            elf::Entry::Long(instruction_pointer) => {
                bzimage::write(&[], module, ram)?;
                let parameters_address = layout::ZERO_PAGE_ADDRESS;
                Ok(Entry { protocol: Protocol::Linux64, instruction_pointer, parameters_address })
            }
            elf::Entry::Pvh(entry) => {
                pvh::write(module, ram)?;
                let parameters_address = layout::START_INFO_ADDRESS;
                Ok(Entry { protocol: Protocol::Pvh, instruction_pointer: entry.into(), parameters_address })
            }
        }
    } else {
        let kernel = BzImage::parse(&image, ram.low_end())?;
        kernel.check_command_line(command_line)?;
        let room = Range::between(kernel.end(), ram.low_end().min(kernel.initramfs_ceiling()));
        let module = place_initramfs(&initramfs, room, ram)?;
        place(&image, kernel.segment(), ram)?;
        write_command_line(command_line, ram)?;
        kernel.write(module, ram)?;
        let parameters_address = layout::ZERO_PAGE_ADDRESS;
        Ok(Entry { protocol: Protocol::Linux64, instruction_pointer: kernel.entry(), parameters_address })
    }
}

/// A file of known length.
struct Image<'a> {
    file: &'a File,
    len_bytes: u64,
}

impl<'a> Image<'a> {
    fn open(file: &'a File) -> io::Result<Self> {
        Ok(Image { file, len_bytes: file.metadata()?.len() })
    }

    /// Whether `len_bytes` from `offset` are within the file.
    fn holds(&self, offset: u64, len_bytes: u64) -> bool {
        offset.checked_add(len_bytes).is_some_and(|end| end <= self.len_bytes)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), LoadError> {
        self.file.read_exact_at(bytes, offset).map_err(LoadError::Kernel)
    }
}

/// A part of a file and where it belongs; parsers have checked that both exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    file_offset: u64,
    address: u64,
    file_bytes: u64,
    /// At least `file_bytes`; the rest is zero.
    memory_bytes: u64,
}

impl Segment {
    fn end(&self) -> u64 {
        self.address + self.memory_bytes
    }

    /// Whether it lies in the part of low RAM that is the kernel's.
    fn fits(&self, low_ram_end: u64) -> bool {
        let end = self.address.checked_add(self.memory_bytes);
        self.address >= layout::KERNEL_START && end.is_some_and(|end| end <= low_ram_end)
    }

    fn refused(&self) -> LoadError {
        LoadError::Segment { address: self.address, len_bytes: self.memory_bytes }
    }
}

/// Copies the file's part of a segment. Mapping the file would leave these bytes where they are, and share them among
/// machines, but the host's page cache has small pages: the guest would leave for each of them, twice for those that it
/// writes to, which are most, for kernels patch themselves.
fn place(kernel: &Image<'_>, segment: Segment, ram: &GuestRam) -> Result<(), LoadError> {
    let Segment { file_offset, address, file_bytes, .. } = segment;
    copy(kernel.file, file_offset, address, file_bytes, ram, LoadError::Kernel)
}

/// Reads a part of a file into RAM.
fn copy(
    file: &File,
    file_offset: u64,
    address: u64,
    len_bytes: u64,
    ram: &GuestRam,
    failed: fn(io::Error) -> LoadError,
) -> Result<(), LoadError> {
    let len = usize::try_from(len_bytes).map_err(|error| failed(io::Error::other(error)))?;
    let mut target = Target::empty();
    for slice in ram.memory().get_slices(GuestAddress(address), len, Permissions::Write)? {
        target.push_guest(&slice?);
    }
    let mut done = 0;
    while done < len {
        match file.read_target_at(&mut target.part(done, usize::MAX), file_offset + done as u64) {
            Ok(0) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

/// Copies the initramfs as high as possible into `room`, out of the way of a kernel that moves itself. The range
/// is as long as the file; the rest of its last page is zero.
fn place_initramfs(initramfs: &Image<'_>, room: Range, ram: &GuestRam) -> Result<Range, LoadError> {
    let len_bytes = initramfs.len_bytes;
    if len_bytes == 0 {
        return Ok(Range { start: 0, len_bytes: 0 });
    }
    let no_room = LoadError::NoRoom { len_bytes };
    let Some(pages) = len_bytes.checked_next_multiple_of(PAGE_BYTES) else { return Err(no_room) };
    let ceiling = room.end() - room.end() % PAGE_BYTES;
    let Some(start) = ceiling.checked_sub(pages).filter(|start| *start >= room.start) else {
        return Err(no_room);
    };
    copy(initramfs.file, 0, start, len_bytes, ram, LoadError::Initramfs)?;
    Ok(Range { start, len_bytes })
}

fn write_command_line(command_line: &str, ram: &GuestRam) -> Result<(), LoadError> {
    let mut bytes = command_line.as_bytes().to_vec();
    bytes.push(0);
    Ok(ram.memory().write_slice(&bytes, GuestAddress(layout::COMMAND_LINE_ADDRESS))?)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// The bytes at a place that the caller knows to exist: all are read from buffers of fixed length.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// RAM of the machine that [`fuzz_kernel`] loads into: a kernel of the usual 16 MiB and its pages fit.
const FUZZ_RAM_BYTES: u64 = 32 << 20;

/// Loads `bytes` as kernel and as initramfs. True when they are a kernel.
///
/// # Panics
///
/// When what was loaded is not where it may be.
pub(crate) fn fuzz_kernel(bytes: &[u8]) -> bool {
    let file = rustix::fs::memfd_create("kernel", rustix::fs::MemfdFlags::CLOEXEC).map(File::from);
    let (Ok(file), Ok(ram)) = (file, GuestRam::new(FUZZ_RAM_BYTES)) else { return false };
    if file.write_all_at(bytes, 0).is_err() {
        return false;
    }
    let Ok(entry) = load(&file, &file, "fuzz", &ram) else { return false };
    let kernel = layout::KERNEL_START..FUZZ_RAM_BYTES;
    assert!(kernel.contains(&entry.instruction_pointer));
    true
}
