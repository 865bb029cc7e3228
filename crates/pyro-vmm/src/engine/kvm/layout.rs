//! The machine's address map: where RAM, devices and what the kernel is given lie, and on which lines devices
//! interrupt.
//!
//! ```text
//!            0  RAM
//!       A_0000  reserved: holds what the kernel is given at its start, behind it RAM as well
//!      10_0000  RAM: the kernel, at the end the initramfs
//!    C000_0000  nothing
//!    D000_0000  virtio-mmio registers, a page a device
//!    FEC0_0000  I/O APIC, local APIC, KVM's own pages
//!  1_0000_0000  the rest of RAM
//! ```

/// The unit of mappings.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// RAM ends here or goes on at [`HIGH_RAM_START`]; the last GiB below 4 GiB is for devices. Also keeps all of
/// low RAM within the 32 bits that boot parameters have for the initramfs.
pub(crate) const LOW_RAM_END: u64 = 0xC000_0000;
/// Where RAM goes on.
pub(crate) const HIGH_RAM_START: u64 = 1 << 32;

/// On a PC RAM ends here, and kernels expect no RAM up to [`KERNEL_START`].
pub(crate) const CONVENTIONAL_RAM_END: u64 = 0xA_0000;
/// The lowest address of a kernel: all below is ours or of the kernel's real-mode start of further CPUs.
pub(crate) const KERNEL_START: u64 = 0x10_0000;

/// ACPI tables, with the RSDP first. Where firmware of PCs has it, so that kernels which search find it too.
pub(crate) const ACPI_START: u64 = 0xE_0000;
/// Room for the tables; a machine of most devices and vCPUs takes a tenth.
#[cfg(test)]
pub(crate) const ACPI_BYTES: u64 = 0x1_0000;
/// The address of the root system description pointer.
pub(crate) const RSDP_ADDRESS: u64 = ACPI_START;
/// PVH's start information, with the list of its modules behind it.
pub(crate) const START_INFO_ADDRESS: u64 = 0xF_0000;
/// PVH's memory map.
pub(crate) const MEMORY_MAP_ADDRESS: u64 = 0xF_1000;
/// The kernel's command line; ends with a zero, within a page.
pub(crate) const COMMAND_LINE_ADDRESS: u64 = 0xF_2000;
/// The page with the machine's generation. A page of its own, as the specification wants it.
pub(crate) const GENERATION_PAGE: u64 = 0xF_3000;
/// Where in it the 16 bytes are: Microsoft's "Virtual Machine Generation ID" asks for a multiple of 8.
pub(crate) const GENERATION_ADDRESS: u64 = GENERATION_PAGE;
/// The zero page of Linux's 64-bit boot protocol.
pub(crate) const ZERO_PAGE_ADDRESS: u64 = 0xF_4000;
/// The segment descriptors of the same.
pub(crate) const GDT_ADDRESS: u64 = 0xF_5000;
/// The page tables of the same, three pages.
pub(crate) const PAGE_TABLES_ADDRESS: u64 = 0xF_6000;

/// Registers of the first virtio-mmio device; far from everything that PC firmware would place.
pub(crate) const DEVICES_START: u64 = 0xD000_0000;
/// Each device has a page, so that one can be mapped or trapped without its neighbours.
pub(crate) const DEVICE_BYTES: u64 = PAGE_BYTES;
/// As many as have a line of the I/O APIC each.
pub(crate) const MAX_DEVICES: u8 = 16;

/// The I/O APIC where every PC has it; KVM's is fixed there.
pub(crate) const IO_APIC_ADDRESS: u64 = 0xFEC0_0000;
/// The local APICs, likewise.
pub(crate) const LOCAL_APIC_ADDRESS: u64 = 0xFEE0_0000;
/// One page for `KVM_SET_IDENTITY_MAP_ADDR`, which Intel's processors without unrestricted guests need.
pub(crate) const KVM_IDENTITY_MAP_ADDRESS: u64 = 0xFFFB_C000;
/// Three pages for `KVM_SET_TSS_ADDR`, for the same processors.
pub(crate) const KVM_TSS_ADDRESS: u64 = 0xFFFB_D000;

/// COM1: a 16550.
pub(crate) const SERIAL_PORT: u16 = 0x3F8;
/// Ports of a 16550.
pub(crate) const SERIAL_PORTS: u8 = 8;
/// COM1's line.
pub(crate) const SERIAL_GSI: u32 = 4;
/// The line that says the generation has changed.
pub(crate) const GENERATION_GSI: u32 = 22;

/// ACPI's sleep control register. A port and not memory: one exit that needs no instruction decoded.
pub(crate) const SLEEP_CONTROL_PORT: u16 = 0x600;
/// ACPI's sleep status register; reads as zero, and what is written is of no consequence.
pub(crate) const SLEEP_STATUS_PORT: u16 = 0x601;
/// ACPI's reset register.
pub(crate) const RESET_PORT: u16 = 0x602;
/// The sleep type of the state that is off (S5).
pub(crate) const SLEEP_TYPE_OFF: u8 = 5;
/// What the guest writes to [`SLEEP_CONTROL_PORT`] to power off: type and SLP_EN (ACPI 6.5, 4.8.3.7).
pub(crate) const POWER_OFF_VALUE: u8 = SLEEP_TYPE_OFF << 2 | 1 << 5;
/// What the guest writes to [`RESET_PORT`] to restart.
pub(crate) const RESET_VALUE: u8 = 1;

/// Where device `index` has its registers.
pub(crate) fn device_address(index: u8) -> u64 {
    DEVICES_START + u64::from(index) * DEVICE_BYTES
}

/// The line of device `index`: 5 to 21 without 8. Below lie the lines of a PC's timer and serial ports, 8 is its
/// clock's, and KVM's I/O APIC has 24 in all.
pub(crate) fn device_gsi(index: u8) -> u32 {
    let gsi = 5 + u32::from(index);
    if gsi < 8 { gsi } else { gsi + 1 }
}

/// A run of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) len_bytes: u64,
}

impl Range {
    /// From `start` up to `end`, which is not part of it.
    pub(crate) const fn between(start: u64, end: u64) -> Self {
        Range { start, len_bytes: end.saturating_sub(start) }
    }

    /// The first address behind it.
    pub(crate) const fn end(self) -> u64 {
        self.start + self.len_bytes
    }
}

/// Where `ram_bytes` of RAM lie: one range, or two around the devices.
pub(crate) fn ram_ranges(ram_bytes: u64) -> Vec<Range> {
    let low = ram_bytes.min(LOW_RAM_END);
    let high = Range { start: HIGH_RAM_START, len_bytes: ram_bytes - low };
    [Range { start: 0, len_bytes: low }, high].into_iter().filter(|range| range.len_bytes > 0).collect()
}

/// What the kernel may do with a range of addresses (ACPI 6.5, table 15.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Ram = 1,
    Reserved = 2,
}

/// The memory map that the kernel is told. What is not in it is free for devices.
pub(crate) fn memory_map(ram_bytes: u64) -> Vec<(Range, Use)> {
    let mut map = Vec::new();
    for range in ram_ranges(ram_bytes) {
        if range.start != 0 {
            map.push((range, Use::Ram));
            continue;
        }
        map.push((Range::between(0, CONVENTIONAL_RAM_END), Use::Ram));
        map.push((Range::between(CONVENTIONAL_RAM_END, KERNEL_START), Use::Reserved));
        map.push((Range::between(KERNEL_START, range.end()), Use::Ram));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;

    #[test]
    fn ram_leaves_the_devices_their_place() {
        const GIB: u64 = 1 << 30;
        assert_eq!(ram_ranges(GIB), [Range { start: 0, len_bytes: GIB }]);
        assert_eq!(ram_ranges(3 * GIB), [Range { start: 0, len_bytes: 3 * GIB }]);
        let both = [Range { start: 0, len_bytes: 3 * GIB }, Range { start: 4 * GIB, len_bytes: 2 * GIB }];
        assert_eq!(ram_ranges(5 * GIB), both);
    }

    #[test]
    fn the_memory_map_has_no_overlaps_and_all_ram_but_the_reserved_part() {
        for mib in [limits::MIN_MEM_MIB, 3072, 3073, limits::MAX_MEM_MIB] {
            let ram_bytes = u64::from(mib) << 20;
            let map = memory_map(ram_bytes);
            assert!(map.windows(2).all(|pair| pair[0].0.end() <= pair[1].0.start));
            let ram: u64 =
                map.iter().filter(|(_, kind)| *kind == Use::Ram).map(|(range, _)| range.len_bytes).sum();
            assert_eq!(ram, ram_bytes - (KERNEL_START - CONVENTIONAL_RAM_END));
        }
    }

    #[test]
    fn what_the_kernel_is_given_lies_in_the_reserved_part_and_apart() {
        let places = [
            (ACPI_START, ACPI_BYTES),
            (START_INFO_ADDRESS, PAGE_BYTES),
            (MEMORY_MAP_ADDRESS, PAGE_BYTES),
            (COMMAND_LINE_ADDRESS, PAGE_BYTES),
            (GENERATION_PAGE, PAGE_BYTES),
            (ZERO_PAGE_ADDRESS, PAGE_BYTES),
            (GDT_ADDRESS, PAGE_BYTES),
            (PAGE_TABLES_ADDRESS, 3 * PAGE_BYTES),
        ];
        assert!(places.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
        let (last, len) = places[places.len() - 1];
        assert!(places[0].0 >= CONVENTIONAL_RAM_END && last + len <= KERNEL_START);
    }

    #[test]
    fn every_device_has_its_own_page_and_line() {
        let gsis: Vec<u32> = (0..MAX_DEVICES).map(device_gsi).collect();
        assert_eq!(gsis, [5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21]);
        assert!(!gsis.contains(&GENERATION_GSI) && !gsis.contains(&SERIAL_GSI));
        assert_eq!(device_address(1) - device_address(0), DEVICE_BYTES);
        assert!(device_address(MAX_DEVICES) <= IO_APIC_ADDRESS && device_address(0) >= LOW_RAM_END);
    }
}
