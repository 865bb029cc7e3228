//! A guest of some two hundred bytes that decides whether this KVM runs guests.
//!
//! `/dev/kvm` may open, and even make machines, where the processor's virtualisation is missing and KVM emulates
//! instructions one by one: slowly, and not all that a kernel uses. The canary does what kernels do early and what
//! such emulators lack, counts a while, and says that it is done.

mod sys;

use std::fs::File;
use std::time::{Duration, Instant};

use kvm_bindings::{CpuId, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuExit;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use super::memory::{GuestRam, RamError};
use super::vm::{Host, VmError, failed};

const RAM_BYTES: u64 = 2 << 20;
const PAGE_TABLES: u64 = 0x1000;
const INTERRUPT_TABLE: u64 = 0x4000;
const SEGMENT_TABLE: u64 = 0x5000;
const SCRATCH: u64 = 0x6000;
const CODE: u64 = 0x8000;
const STACK_END: u64 = 0xf000;
/// Where the canary writes one byte at its end: that it has seen what it expected, or not.
const PORT: u16 = 0x510;
const DONE: u8 = 0x5a;

/// Nothing, 64-bit code and data: what an interrupt and its return load.
const SEGMENTS: [u64; 3] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
const CODE_SELECTOR: u16 = 8;
const DATA_SELECTOR: u16 = 16;
/// The vector of a breakpoint.
const BREAKPOINT: u64 = 3;
/// Long mode: paging by physical-address extension, flat 64-bit code.
const CR0_PE_NE_PG: u64 = 1 | 1 << 5 | 1 << 31;
const CR4_PAE_OSFXSR: u64 = 1 << 5 | 1 << 9;
const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;
const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;

/// The fastest of this many runs counts, for a busy host may interrupt one.
const RUNS: u32 = 3;
/// Rounds that the canary counts, two instructions each.
const ROUNDS: u32 = 100_000;
/// Processors take a nanosecond for a round or less, a software-made host on a busy machine up to some hundred, an
/// emulator in the kernel two thousand.
const MAX_PER_ROUND: Duration = Duration::from_nanos(500);

/// Why no guest can run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CanaryError {
    #[error(transparent)]
    Vm(#[from] VmError),
    #[error(transparent)]
    Ram(#[from] RamError),
    #[error("cannot write the canary: {0}")]
    Write(#[from] vm_memory::GuestMemoryError),
    /// It did something else than to end as it should.
    #[error("a small guest died: {0}")]
    Died(String),
    /// It works, but nobody would want to wait for a kernel.
    #[error(
        "a small guest took {took:?} for what a processor does in {expected:?}: instructions are emulated"
    )]
    Slow {
        /// The best of its runs.
        took: Duration,
        /// What would do.
        expected: Duration,
    },
}

/// Runs the canary on the KVM behind `device`; how long it took. Does not end where KVM does not let go of a
/// guest, so it wants a process that can be killed.
pub(crate) fn run(device: File) -> Result<Duration, CanaryError> {
    let host = Host::new(device)?;
    let mut vm = host.make_vm()?;
    let ram = GuestRam::new(RAM_BYTES)?;
    ram.regions().try_for_each(|region| vm.add_ram(region))?;
    write_canary(ram.memory())?;
    let mut vcpu = vm.vcpu(0)?;
    let cpuid = CpuId::from_entries(&host.supported_cpuid()?)
        .map_err(|_| CanaryError::Died("it has too many features".to_owned()))?;
    vcpu.set_cpuid2(&cpuid).map_err(failed("tell a vCPU its features"))?;
    let mut sregs = vcpu.get_sregs().map_err(failed("read a vCPU's registers"))?;
    sregs.cr0 = CR0_PE_NE_PG;
    sregs.cr3 = PAGE_TABLES;
    sregs.cr4 = CR4_PAE_OSFXSR;
    sregs.efer = EFER_LME_LMA;
    sregs.gdt.base = SEGMENT_TABLE;
    sregs.gdt.limit = (size_of_val(&SEGMENTS) - 1) as u16;
    sregs.idt.base = INTERRUPT_TABLE;
    sregs.idt.limit = 0xfff;
    let flat = |selector, type_, l| kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        s: 1,
        g: 1,
        l,
        ..kvm_segment::default()
    };
    sregs.cs = flat(CODE_SELECTOR, 0b1011, 1);
    let data = kvm_segment { db: 1, ..flat(DATA_SELECTOR, 0b0011, 0) };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    vcpu.set_sregs(&sregs).map_err(failed("set a vCPU's registers"))?;
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        ram.memory().write_slice(&[0; 16], GuestAddress(SCRATCH))?;
        let registers =
            kvm_regs { rip: CODE, rsp: STACK_END, rsi: SCRATCH, rflags: 2, ..kvm_regs::default() };
        vcpu.set_regs(&registers).map_err(failed("set a vCPU's registers"))?;
        let started = Instant::now();
        match vcpu.run().map_err(failed("run a vCPU"))? {
            VcpuExit::IoOut(PORT, [DONE]) => best = best.min(started.elapsed()),
            VcpuExit::IoOut(PORT, _) => {
                return Err(CanaryError::Died("an instruction did nothing".to_owned()));
            }
            VcpuExit::InternalError => {
                return Err(CanaryError::Died("KVM cannot emulate an instruction".to_owned()));
            }
            exit => return Err(CanaryError::Died(format!("{exit:?}"))),
        }
    }
    let expected = MAX_PER_ROUND * ROUNDS;
    if best > expected { Err(CanaryError::Slow { took: best, expected }) } else { Ok(best) }
}

fn write_canary(memory: &GuestMemoryMmap<()>) -> Result<(), vm_memory::GuestMemoryError> {
    // One page of 2 MiB, mapped to itself.
    for (table, entry) in [(0, PAGE_TABLES + 0x1000), (1, PAGE_TABLES + 0x2000), (2, LARGE_PAGE)] {
        memory.write_obj(entry | PRESENT_WRITABLE, GuestAddress(PAGE_TABLES + 0x1000 * table))?;
    }
    for (entry, at) in SEGMENTS.into_iter().zip((SEGMENT_TABLE..).step_by(8)) {
        memory.write_obj(entry, GuestAddress(at))?;
    }
    let (code, handler) = sys::code();
    memory.write_slice(code, GuestAddress(CODE))?;
    // An interrupt gate of the code segment (AMD64 manual, volume 2, 4.8.4); all addresses are below 64 KiB.
    let gate = (CODE + handler as u64) | u64::from(CODE_SELECTOR) << 16 | 0x8e00 << 32;
    memory.write_obj(gate, GuestAddress(INTERRUPT_TABLE + 16 * BREAKPOINT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canary_is_small_and_has_its_handler_within() {
        let (code, handler) = sys::code();
        assert!(code.len() < 256 && handler < code.len());
    }
}
