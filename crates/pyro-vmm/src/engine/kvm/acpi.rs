//! The machine as ACPI describes it: processors, devices, power and the generation's counter.
//!
//! Hardware-reduced (ACPI 6.5, 4.1): no interrupt of ACPI's own, no timer, no fixed registers but those for
//! sleep and reset. Linux then looks for neither the old interrupt controller nor its timer.

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Method, Name, Notify, ONE, Package, Path,
    ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use super::layout;

const OEM_ID: [u8; 6] = *b"PYRO  ";
const OEM_TABLE_ID: [u8; 8] = *b"PYROVM  ";
const OEM_REVISION: u32 = 1;
/// Integers of the DSDT's program have 64 bits from here on.
const DSDT_REVISION: u8 = 2;
const TABLE_HEADER_BYTES: u32 = 36;
/// The RSDP must be at a multiple of this; the tables do well with it.
const ALIGNMENT: usize = 16;

/// `IAPC_BOOT_ARCH` (ACPI 6.5, table 5.10): no VGA, no message-signalled interrupts, no clock of a PC. Bits that
/// are off say that there are neither legacy devices nor a keyboard controller.
const NO_VGA: u16 = 1 << 2;
const NO_MSI: u16 = 1 << 3;
const NO_CMOS_CLOCK: u16 = 1 << 5;

/// What a device is told when its state has changed in a way that is its own (ACPI 6.5, 5.6.6).
const STATUS_CHANGE: u8 = 0x80;
/// Microsoft, "Virtual Machine Generation ID": what the counter is recognised by.
const GENERATION_COUNTER: &str = "VM_Gen_Counter";

/// What differs between machines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) vcpu_count: u8,
    /// How many virtio-mmio devices there are, from [`layout::device_address`] of 0 on.
    pub(crate) device_count: u8,
}

/// The tables, to be put at [`layout::ACPI_START`]. They begin with the RSDP.
pub(crate) fn tables(shape: &Shape) -> Vec<u8> {
    let mut area = Area { bytes: vec![0; Rsdp::len()] };
    let dsdt = area.add(&dsdt(shape));
    let tables = [area.add(&fadt(dsdt)), area.add(&madt(shape))];
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    tables.into_iter().for_each(|address| xsdt.add_entry(address));
    let rsdp = Rsdp::new(OEM_ID, area.add(&xsdt));
    let mut start = Vec::new();
    rsdp.to_aml_bytes(&mut start);
    area.bytes[..start.len()].copy_from_slice(&start);
    area.bytes
}

/// Tables one behind another.
struct Area {
    bytes: Vec<u8>,
}

impl Area {
    /// Appends a table and returns its address in the guest.
    fn add(&mut self, table: &dyn Aml) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        let address = layout::ACPI_START + self.bytes.len() as u64;
        table.to_aml_bytes(&mut self.bytes);
        address
    }
}

fn port_register(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into())
}

fn fadt(dsdt: u64) -> FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::Wbinvd)
        // The two buttons' flags say that there are no fixed ones.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    fadt.iapc_boot_arch = (NO_VGA | NO_MSI | NO_CMOS_CLOCK).into();
    fadt.sleep_control_reg = port_register(layout::SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = port_register(layout::SLEEP_STATUS_PORT);
    fadt.reset_reg = port_register(layout::RESET_PORT);
    fadt.reset_value = layout::RESET_VALUE;
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"PYRO\0\0\0\0").into();
    fadt.finalize()
}

/// The interrupt controllers. A vCPU's number is also its local APIC's, as `cpuid` tells the guest.
fn madt(shape: &Shape) -> MADT {
    let address = LocalInterruptController::Address(layout::LOCAL_APIC_ADDRESS as u32);
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, address);
    for vcpu in 0..shape.vcpu_count {
        madt.add_structure(ProcessorLocalApic::new(vcpu, vcpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::IO_APIC_ADDRESS as u32, 0));
    madt
}

fn dsdt(shape: &Shape) -> Sdt {
    let mut program = Vec::new();
    let mut devices = Vec::new();
    add_serial(&mut devices);
    add_generation(&mut devices);
    (0..shape.device_count).for_each(|index| add_virtio(index, &mut devices));
    program.extend(Scope::raw("\\_SB_".into(), devices));
    let (type_off, unused) = (layout::SLEEP_TYPE_OFF, 0_u8);
    Name::new("\\_S5_".into(), &Package::new(vec![&type_off, &unused])).to_aml_bytes(&mut program);
    let mut dsdt = Sdt::new(*b"DSDT", TABLE_HEADER_BYTES, DSDT_REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&program);
    dsdt
}

/// A line that goes high for a moment; nothing else uses it.
fn edge(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

/// COM1.
fn add_serial(devices: &mut Vec<u8>) {
    let ports = IO::new(layout::SERIAL_PORT, layout::SERIAL_PORT, 1, layout::SERIAL_PORTS);
    let interrupt = edge(layout::SERIAL_GSI);
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0501"));
    let uid = Name::new("_UID".into(), &0_u8);
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports, &interrupt]));
    Device::new("COM1".into(), vec![&hid, &uid, &crs]).to_aml_bytes(devices);
}

/// A virtio-mmio device, as Linux's `virtio_mmio` driver finds it.
fn add_virtio(index: u8, devices: &mut Vec<u8>) {
    let registers =
        Memory32Fixed::new(true, layout::device_address(index) as u32, layout::DEVICE_BYTES as u32);
    let interrupt = edge(layout::device_gsi(index));
    let hid = Name::new("_HID".into(), &"LNRO0005");
    let uid = Name::new("_UID".into(), &index);
    // Memory is coherent.
    let cca = Name::new("_CCA".into(), &ONE);
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&registers, &interrupt]));
    let path = Path::new(&format!("VR{index:02}"));
    Device::new(path, vec![&hid, &uid, &cca, &crs]).to_aml_bytes(devices);
}

/// The counter of the machine's generation, and the device whose interrupt says that it has changed: hardware-
/// reduced ACPI has the generic event device for such (ACPI 6.5, 5.6.9).
fn add_generation(devices: &mut Vec<u8>) {
    let hid = Name::new("_HID".into(), &"VMGENCTR");
    let cid = Name::new("_CID".into(), &GENERATION_COUNTER);
    let ddn = Name::new("_DDN".into(), &GENERATION_COUNTER);
    let (low, high) = (layout::GENERATION_ADDRESS as u32, (layout::GENERATION_ADDRESS >> 32) as u32);
    let addr = Name::new("ADDR".into(), &Package::new(vec![&low, &high]));
    Device::new("VGEN".into(), vec![&hid, &cid, &ddn, &addr]).to_aml_bytes(devices);

    let hid = Name::new("_HID".into(), &"ACPI0013");
    let uid = Name::new("_UID".into(), &0_u8);
    let interrupt = edge(layout::GENERATION_GSI);
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&interrupt]));
    let counter = Path::new("\\_SB_.VGEN");
    let notify = Notify::new(&counter, &STATUS_CHANGE);
    let event = Method::new("_EVT".into(), 1, true, vec![&notify]);
    Device::new("GED_".into(), vec![&hid, &uid, &crs, &event]).to_aml_bytes(devices);
}

#[cfg(test)]
mod tests;
