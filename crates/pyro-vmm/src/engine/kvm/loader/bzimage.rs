//! Compressed kernels, and what any kernel is told that is entered by Linux's 64-bit boot protocol.
//!
//! `Documentation/arch/x86/boot.rst` and `zero-page.rst` of Linux; offsets are those of `struct boot_params`,
//! which are the file's as well.

use vm_memory::{Bytes, GuestAddress};

use super::{Image, LoadError, Segment, u16_at, u32_at, u64_at};
use crate::engine::kvm::layout::{self, PAGE_BYTES, Range};
use crate::engine::kvm::memory::GuestRam;
use crate::engine::kvm::registers;

const SECTOR_BYTES: u64 = 512;
/// Up to where a setup header can reach: there the zero page has other things.
const HEADER_END: usize = 0x290;
const SETUP_SECTS: usize = 0x1F1;
const BOOT_FLAG: usize = 0x1FE;
/// The jump over the header; its second byte tells the header's end.
const JUMP: usize = 0x200;
const HEADER_MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21C;
const CMD_LINE_PTR: usize = 0x228;
const INITRD_ADDR_MAX: usize = 0x22C;
const XLOADFLAGS: usize = 0x236;
const CMDLINE_SIZE: usize = 0x238;
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;

/// Of the zero page alone.
const ACPI_RSDP_ADDR: usize = 0x070;
const E820_ENTRIES: usize = 0x1E8;
const E820_TABLE: usize = 0x2D0;
const E820_ENTRY_BYTES: usize = 20;

/// The first version that says whether there is a 64-bit entry.
const OLDEST_VERSION: u16 = 0x020C;
/// The protected-mode code belongs above 1 MiB.
const LOADED_HIGH: u8 = 1;
const XLF_KERNEL_64: u16 = 1;
/// Where the 64-bit entry is in the loaded code.
const ENTRY_64: u64 = 0x200;
/// The number for loaders without one of their own.
const UNDEFINED_LOADER: u8 = 0xFF;

/// What our page tables reach, and therefore where the kernel must unpack itself.
pub(super) const IDENTITY_MAPPED_BYTES: u64 = 1 << 30;
const LARGE_PAGE_BYTES: u64 = 2 << 20;
const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;

/// A kernel that can be loaded where it wants to be.
pub(super) struct BzImage {
    /// The first bytes of the file, up to the setup header's end.
    header: Vec<u8>,
    segment: Segment,
}

impl BzImage {
    /// Reads the setup header.
    pub(super) fn parse(image: &Image<'_>, low_ram_end: u64) -> Result<Self, LoadError> {
        let mut header = vec![0; HEADER_END];
        if !image.holds(0, HEADER_END as u64) {
            return Err(LoadError::Format);
        }
        image.read(0, &mut header)?;
        if u16_at(&header, BOOT_FLAG) != 0xAA55 || &header[HEADER_MAGIC..VERSION] != b"HdrS" {
            return Err(LoadError::Format);
        }
        let loads = header[LOADFLAGS] & LOADED_HIGH != 0 && u16_at(&header, XLOADFLAGS) & XLF_KERNEL_64 != 0;
        if u16_at(&header, VERSION) < OLDEST_VERSION || !loads {
            return Err(LoadError::Malformed("it has no 64-bit entry"));
        }
        let end = HEADER_MAGIC + usize::from(header[JUMP + 1]);
        if !(INIT_SIZE + 4..=HEADER_END).contains(&end) {
            return Err(LoadError::Malformed("its setup header has an impossible length"));
        }
        header.truncate(end);
        let setup_sectors = match header[SETUP_SECTS] {
            0 => 4,
            sectors => u64::from(sectors),
        };
        let file_offset = (setup_sectors + 1) * SECTOR_BYTES;
        let file_bytes = image.len_bytes.saturating_sub(file_offset);
        if file_bytes <= ENTRY_64 {
            return Err(LoadError::Malformed("its code is not in the file"));
        }
        let segment = Segment {
            file_offset,
            address: u64_at(&header, PREF_ADDRESS),
            file_bytes,
            memory_bytes: file_bytes.max(u32_at(&header, INIT_SIZE).into()),
        };
        if !segment.fits(low_ram_end.min(IDENTITY_MAPPED_BYTES)) {
            return Err(segment.refused());
        }
        Ok(BzImage { header, segment })
    }

    /// The code, and the room that it needs to unpack itself.
    pub(super) fn segment(&self) -> Segment {
        self.segment
    }

    /// Behind all that the kernel needs before it manages its memory.
    pub(super) fn end(&self) -> u64 {
        self.segment.end()
    }

    /// The 64-bit entry.
    pub(super) fn entry(&self) -> u64 {
        self.segment.address + ENTRY_64
    }

    /// Where the initramfs must end.
    pub(super) fn initramfs_ceiling(&self) -> u64 {
        u64::from(u32_at(&self.header, INITRD_ADDR_MAX)) + 1
    }

    pub(super) fn check_command_line(&self, command_line: &str) -> Result<(), LoadError> {
        let len = command_line.len();
        if len as u64 > u64::from(u32_at(&self.header, CMDLINE_SIZE)) {
            return Err(LoadError::CommandLine(len));
        }
        Ok(())
    }

    /// Writes what this kernel is told, as [`self::write()`] does.
    pub(super) fn write(&self, initramfs: Range, ram: &GuestRam) -> Result<(), LoadError> {
        write(&self.header[SETUP_SECTS..], initramfs, ram)
    }
}

/// Writes the zero page, the segment descriptors and the page tables. An empty `initramfs` is none. A kernel without a
/// setup header, an empty `header`, reads nothing of it but what is set here.
pub(super) fn write(header: &[u8], initramfs: Range, ram: &GuestRam) -> Result<(), LoadError> {
    let write = |bytes: &[u8], address| ram.memory().write_slice(bytes, GuestAddress(address));
    let bytes_of = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    write(&zero_page(header, initramfs, ram.len_bytes()), layout::ZERO_PAGE_ADDRESS)?;
    write(&bytes_of(&registers::descriptors()), layout::GDT_ADDRESS)?;
    write(&bytes_of(&page_tables()), layout::PAGE_TABLES_ADDRESS)?;
    Ok(())
}

fn zero_page(header: &[u8], initramfs: Range, ram_bytes: u64) -> Vec<u8> {
    let mut page = vec![0; PAGE_BYTES as usize];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    put(SETUP_SECTS, header);
    put(TYPE_OF_LOADER, &[UNDEFINED_LOADER]);
    // Both are below 4 GiB: low RAM ends there.
    put(RAMDISK_IMAGE, &(initramfs.start as u32).to_le_bytes());
    put(RAMDISK_SIZE, &(initramfs.len_bytes as u32).to_le_bytes());
    put(CMD_LINE_PTR, &(layout::COMMAND_LINE_ADDRESS as u32).to_le_bytes());
    put(ACPI_RSDP_ADDR, &layout::RSDP_ADDRESS.to_le_bytes());
    let map = layout::memory_map(ram_bytes);
    put(E820_ENTRIES, &[map.len() as u8]);
    for (index, (range, kind)) in map.into_iter().enumerate() {
        let at = E820_TABLE + index * E820_ENTRY_BYTES;
        put(at, &range.start.to_le_bytes());
        put(at + 8, &range.len_bytes.to_le_bytes());
        put(at + 16, &(kind as u32).to_le_bytes());
    }
    page
}

/// One table each of the three upper levels, which map the first GiB to itself in pages of 2 MiB.
fn page_tables() -> Vec<u64> {
    let entries = (PAGE_BYTES / 8) as usize;
    let mut tables = vec![0; 2 * entries];
    let table = |index: u64| (layout::PAGE_TABLES_ADDRESS + index * PAGE_BYTES) | PRESENT_WRITABLE;
    tables[0] = table(1);
    tables[entries] = table(2);
    let pages = IDENTITY_MAPPED_BYTES / LARGE_PAGE_BYTES;
    tables.extend((0..pages).map(|page| (page * LARGE_PAGE_BYTES) | PRESENT_WRITABLE | LARGE_PAGE));
    tables
}
