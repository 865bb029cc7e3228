//! What a vCPU's registers hold when the guest's first instruction runs.
//!
//! Only the vCPU that boots gets [`boot`]; the others wait for it, as KVM makes them. All get [`boot_msrs`] and
//! [`lapic`]. Floating point is left as KVM resets it, which is what both protocols leave open and Linux sets up
//! anew.

use kvm_bindings::{kvm_dtable, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};

use super::layout;
use super::loader::{Entry, Protocol};

const CR0_PROTECTED: u64 = 1;
/// Always set on processors with a built-in coprocessor.
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
/// Bit 1 is always set; interrupts are off.
const RFLAGS: u64 = 1 << 1;

/// The selectors that `boot.rst` of Linux calls `__BOOT_CS` and `__BOOT_DS`; PVH does not care.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;
/// Types of segments (Intel SDM volume 3, 3.4.5.1 and 3.5): all as if they had been used.
const EXECUTE_READ: u8 = 0xB;
const READ_WRITE: u8 = 0x3;
const BUSY_TASK: u8 = 0xB;
/// The last byte of a task state without a map of ports; what PVH asks for.
const TASK_LIMIT: u32 = 0x67;

/// Model-specific registers (Intel SDM volume 4, AMD APM volume 2, appendix A).
const IA32_SYSENTER_CS: u32 = 0x174;
const IA32_SYSENTER_ESP: u32 = 0x175;
const IA32_SYSENTER_EIP: u32 = 0x176;
const IA32_MISC_ENABLE: u32 = 0x1A0;
const IA32_MTRR_DEF_TYPE: u32 = 0x2FF;
const STAR: u32 = 0xC000_0081;
const LSTAR: u32 = 0xC000_0082;
const CSTAR: u32 = 0xC000_0083;
const SYSCALL_MASK: u32 = 0xC000_0084;
const KERNEL_GS_BASE: u32 = 0xC000_0102;

const FAST_STRINGS: u64 = 1;
const MTRR_ENABLED: u64 = 1 << 11;
const WRITE_BACK: u64 = 6;

/// Local vector table of the local APIC (Intel SDM volume 3, 12.5.1).
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const DELIVER_NMI: u32 = 4 << 8;
const DELIVER_EXT_INT: u32 = 7 << 8;
const MASKED: u32 = 1 << 16;

/// The general registers of the vCPU that boots; `sregs` are the ones that KVM made, of which the rest stays.
pub(crate) fn boot(entry: &Entry, sregs: &mut kvm_sregs) -> kvm_regs {
    let long_mode = entry.protocol == Protocol::Linux64;
    sregs.cs = code(long_mode);
    let data = data();
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = task();
    sregs.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE;
    (sregs.cr2, sregs.cr3, sregs.cr4, sregs.efer) = (0, 0, 0, 0);
    // Without descriptors of interrupts an exception before the kernel has its own ends the machine at once.
    sregs.idt = kvm_dtable::default();
    sregs.gdt = kvm_dtable::default();
    let mut regs = kvm_regs { rip: entry.instruction_pointer, rflags: RFLAGS, ..Default::default() };
    match entry.protocol {
        Protocol::Pvh => regs.rbx = entry.parameters_address,
        Protocol::Linux64 => {
            sregs.cr0 |= CR0_PAGING;
            sregs.cr3 = layout::PAGE_TABLES_ADDRESS;
            sregs.cr4 = CR4_PHYSICAL_ADDRESS_EXTENSION;
            sregs.efer = EFER_LONG_MODE;
            let limit = (size_of_val(&descriptors()) - 1) as u16;
            sregs.gdt = kvm_dtable { base: layout::GDT_ADDRESS, limit, ..Default::default() };
            regs.rsi = entry.parameters_address;
        }
    }
    regs
}

/// The descriptors in memory that the selectors of the 64-bit protocol stand for: two empty ones, code, data and
/// the task's, which is twice as long as others.
pub(crate) fn descriptors() -> [u64; 6] {
    [0, 0, descriptor(&code(true)), descriptor(&data()), descriptor(&task()), 0]
}

/// The model-specific registers that differ from what KVM resets them to or that a kernel may find used.
pub(crate) fn boot_msrs() -> Vec<kvm_msr_entry> {
    let zeroed = [
        IA32_SYSENTER_CS,
        IA32_SYSENTER_ESP,
        IA32_SYSENTER_EIP,
        STAR,
        LSTAR,
        CSTAR,
        SYSCALL_MASK,
        KERNEL_GS_BASE,
    ];
    let set = [(IA32_MISC_ENABLE, FAST_STRINGS), (IA32_MTRR_DEF_TYPE, MTRR_ENABLED | WRITE_BACK)];
    let all = zeroed.into_iter().map(|index| (index, 0)).chain(set);
    all.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() }).collect()
}

/// The two input pins of the local APIC, as firmware leaves them.
///
/// The first one is the old interrupt controller's. KVM has it open on the vCPU that boots, and its controller,
/// which is there but which a kernel with hardware-reduced ACPI never initialises, would deliver every device's
/// interrupt a second time, as an exception. Linux leaves the pin closed where it finds it closed.
pub(crate) fn lapic(state: &mut kvm_lapic_state) {
    set_register(state, LVT_LINT0, DELIVER_EXT_INT | MASKED);
    set_register(state, LVT_LINT1, DELIVER_NMI);
}

fn set_register(state: &mut kvm_lapic_state, offset: usize, value: u32) {
    for (register, byte) in state.regs[offset..offset + 4].iter_mut().zip(value.to_le_bytes()) {
        *register = byte.cast_signed();
    }
}

/// A segment of all 4 GiB.
fn flat(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment { base: 0, limit: u32::MAX, selector, type_, present: 1, s: 1, g: 1, ..Default::default() }
}

fn code(long_mode: bool) -> kvm_segment {
    let segment = flat(CODE_SELECTOR, EXECUTE_READ);
    kvm_segment { l: long_mode.into(), db: (!long_mode).into(), ..segment }
}

fn data() -> kvm_segment {
    kvm_segment { db: 1, ..flat(DATA_SELECTOR, READ_WRITE) }
}

fn task() -> kvm_segment {
    let (limit, selector, type_) = (TASK_LIMIT, TASK_SELECTOR, BUSY_TASK);
    kvm_segment { limit, selector, type_, present: 1, ..Default::default() }
}

/// A segment as its descriptor in memory (Intel SDM volume 3, 3.4.5).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 { segment.limit >> 12 } else { segment.limit });
    let bit = |value: u8, at: u32| u64::from(value) << at;
    let access =
        bit(segment.type_, 40) | bit(segment.s, 44) | bit(segment.dpl, 45) | bit(segment.present, 47);
    let flags = bit(segment.avl, 52) | bit(segment.l, 53) | bit(segment.db, 54) | bit(segment.g, 55);
    let base = (segment.base & 0xFF_FFFF) << 16 | (segment.base >> 24 & 0xFF) << 56;
    limit & 0xFFFF | (limit >> 16 & 0xF) << 48 | base | access | flags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(protocol: Protocol) -> Entry {
        Entry { protocol, instruction_pointer: 0x100_0000, parameters_address: 0xF_0000 }
    }

    #[test]
    fn pvh_begins_in_protected_mode_without_paging() {
        let mut sregs = kvm_sregs { apic_base: 0xFEE0_0900, cr4: 1, efer: 0x500, ..Default::default() };
        let regs = boot(&entry(Protocol::Pvh), &mut sregs);
        assert_eq!((regs.rip, regs.rbx, regs.rsi, regs.rflags), (0x100_0000, 0xF_0000, 0, 2));
        assert_eq!((sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer), (0x11, 0, 0, 0));
        assert_eq!((sregs.cs.db, sregs.cs.l, sregs.cs.type_, sregs.cs.limit), (1, 0, 0xB, u32::MAX));
        assert_eq!((sregs.ds.db, sregs.ds.type_, sregs.ss), (1, 3, sregs.es));
        assert_eq!((sregs.tr.limit, sregs.tr.type_, sregs.tr.s), (0x67, 0xB, 0));
        assert_eq!((sregs.gdt.limit, sregs.idt.limit, sregs.apic_base), (0, 0, 0xFEE0_0900));
    }

    #[test]
    fn the_64_bit_protocol_begins_in_long_mode_with_its_tables() {
        let mut sregs = kvm_sregs::default();
        let regs = boot(&entry(Protocol::Linux64), &mut sregs);
        assert_eq!((regs.rip, regs.rsi, regs.rbx, regs.rflags), (0x100_0000, 0xF_0000, 0, 2));
        assert_eq!((sregs.cr0, sregs.cr4, sregs.efer), (0x8000_0011, 0x20, 0x500));
        assert_eq!((sregs.cr3, sregs.gdt.base), (layout::PAGE_TABLES_ADDRESS, layout::GDT_ADDRESS));
        assert_eq!((sregs.cs.l, sregs.cs.db, sregs.gdt.limit), (1, 0, 47));
    }

    #[test]
    fn descriptors_are_at_their_selectors() {
        let table = descriptors();
        assert_eq!(table[usize::from(CODE_SELECTOR) / 8], 0x00AF_9B00_0000_FFFF);
        assert_eq!(table[usize::from(DATA_SELECTOR) / 8], 0x00CF_9300_0000_FFFF);
        assert_eq!(table[usize::from(TASK_SELECTOR) / 8], 0x0000_8B00_0000_0067);
    }

    #[test]
    fn memory_is_cached_and_no_register_is_set_twice() {
        let msrs = boot_msrs();
        let def_type = msrs.iter().find(|msr| msr.index == IA32_MTRR_DEF_TYPE).unwrap();
        assert_eq!(def_type.data, 0x806);
        let mut indices: Vec<u32> = msrs.iter().map(|msr| msr.index).collect();
        indices.sort_unstable();
        indices.dedup();
        assert_eq!(indices.len(), msrs.len());
    }

    #[test]
    fn the_old_controllers_pin_is_closed_and_the_others_registers_stay() {
        let mut state = kvm_lapic_state { regs: [5; 1024] };
        lapic(&mut state);
        let register =
            |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| state.regs[at + byte].cast_unsigned()));
        assert_eq!((register(LVT_LINT0), register(LVT_LINT1)), (0x1_0700, 0x400));
        assert_eq!(
            (register(0x340), register(0x354), register(0x370)),
            (0x0505_0505, 0x0505_0505, 0x0505_0505)
        );
    }
}
