//! What `CPUID` tells the guest: what KVM can give, less what this machine does not have, with its own topology.
//!
//! Leaves and bits: Intel SDM volume 2, "CPUID", and volume 1, 13 to 20; AMD APM volume 3, appendix E; Linux,
//! `Documentation/virt/kvm/x86/cpuid.rst`. vCPUs are cores of one package, without hyperthreads; a vCPU's number
//! is its APIC's.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

#[cfg(test)]
mod tests;

/// KVM takes no more (`KVM_MAX_CPUID_ENTRIES`).
const MAX_ENTRIES: usize = 256;

const BASIC: u32 = 0;
const FEATURES: u32 = 1;
const CACHES: u32 = 4;
const MONITOR: u32 = 5;
const POWER: u32 = 6;
const EXTENDED_FEATURES: u32 = 7;
const COUNTERS: u32 = 0xA;
const TOPOLOGY: u32 = 0xB;
const TOPOLOGY_V2: u32 = 0x1F;
const XSAVE: u32 = 0xD;
const KVM_FEATURES: u32 = 0x4000_0001;
const EXTENDED: u32 = 0x8000_0000;
const AMD_FEATURES: u32 = 0x8000_0001;
const POWER_MANAGEMENT: u32 = 0x8000_0007;
const INVARIANT_TSC: u32 = 1 << 8;
const SIZES: u32 = 0x8000_0008;
const AMD_CACHES: u32 = 0x8000_001D;
const AMD_TOPOLOGY: u32 = 0x8000_001E;

/// Leaves of what is hidden: secure enclaves, processor traces, last branches, tiles, newer counters; of AMD
/// nested machines, sampling, encrypted guests, counters, and a topology that would contradict ours.
const HIDDEN: [u32; 11] =
    [0x12, 0x14, 0x1C, 0x1D, 0x1E, 0x23, 0x8000_000A, 0x8000_001B, 0x8000_001F, 0x8000_0022, 0x8000_0026];

/// State components of leaf 0xD that no guest gets: traces, shadow stacks (their pointer is in no list of
/// registers that KVM gives, so no snapshot could have it), last branches, and the tiles' (the host must be asked
/// for them first).
const HIDDEN_STATE: u64 = 1 << 8 | 1 << 11 | 1 << 12 | 1 << 15 | 1 << 17 | 1 << 18;
/// The state that every XSAVE area has: x87 and SSE, with the header.
const LEGACY_STATE_BYTES: u32 = 576;

/// What a vCPU is told, from what the host's KVM supports (`KVM_GET_SUPPORTED_CPUID`).
///
/// KVM emulates the deadline timer with its own local APIC but only newer versions say so among the supported,
/// hence `has_tsc_deadline`, which is `KVM_CAP_TSC_DEADLINE_TIMER`.
pub(crate) fn configure(
    supported: &[kvm_cpuid_entry2],
    vcpu: u8,
    vcpu_count: u8,
    has_tsc_deadline: bool,
) -> Vec<kvm_cpuid_entry2> {
    let machine = Machine::new(supported, vcpu, vcpu_count, has_tsc_deadline);
    let mut entries: Vec<kvm_cpuid_entry2> =
        supported.iter().filter(|entry| is_shown(entry)).map(|entry| machine.adapt(*entry)).collect();
    limit_state(&mut entries);
    for leaf in [TOPOLOGY, TOPOLOGY_V2] {
        if leaf <= machine.last_basic {
            entries.extend(machine.topology(leaf));
        }
    }
    if !entries.iter().any(|entry| entry.function == POWER) {
        entries.push(machine.adapt(kvm_cpuid_entry2 { function: POWER, ..Default::default() }));
    }
    entries.truncate(MAX_ENTRIES);
    entries
}

/// Whether KVM keeps a clock in the guest's memory (`KVM_FEATURE_CLOCKSOURCE2`). A kernel that has no other would
/// look for one for seconds.
pub(crate) fn has_clock(supported: &[kvm_cpuid_entry2]) -> bool {
    supported.iter().any(|entry| entry.function == KVM_FEATURES && entry.eax & kvm::CLOCK != 0)
}

/// Whether the time stamp counter runs at one rate, always.
pub(crate) fn has_invariant_tsc(supported: &[kvm_cpuid_entry2]) -> bool {
    supported.iter().any(|entry| entry.function == POWER_MANAGEMENT && entry.edx & INVARIANT_TSC != 0)
}

/// Whether an entry is passed on at all. Those of the topology are made anew.
fn is_shown(entry: &kvm_cpuid_entry2) -> bool {
    let hidden_state = entry.function == XSAVE
        && entry.index >= 2
        && entry.index < 64
        && HIDDEN_STATE >> entry.index & 1 == 1;
    !hidden_state && ![TOPOLOGY, TOPOLOGY_V2].contains(&entry.function) && !HIDDEN.contains(&entry.function)
}

struct Machine {
    vcpu: u8,
    vcpu_count: u8,
    /// The last leaf below 0x4000_0000.
    last_basic: u32,
    has_tsc_deadline: bool,
    is_amd: bool,
}

impl Machine {
    fn new(supported: &[kvm_cpuid_entry2], vcpu: u8, vcpu_count: u8, has_tsc_deadline: bool) -> Self {
        let basic = supported.iter().find(|entry| entry.function == BASIC);
        let vendor = basic.map(|entry| [entry.ebx, entry.edx, entry.ecx].map(u32::to_le_bytes).concat());
        let is_amd = vendor.is_some_and(|name| name == b"AuthenticAMD" || name == b"HygonGenuine");
        // The topology's leaf is of use to processors that have none themselves.
        let last_basic = basic.map_or(0, |entry| entry.eax).max(TOPOLOGY);
        Machine { vcpu, vcpu_count: vcpu_count.max(1), last_basic, has_tsc_deadline, is_amd }
    }

    /// How many bits of an APIC's number tell the cores apart.
    fn core_bits(&self) -> u32 {
        u32::from(self.vcpu_count).next_power_of_two().trailing_zeros()
    }

    /// How many numbers these bits have.
    fn core_ids(&self) -> u32 {
        1 << self.core_bits()
    }

    fn adapt(&self, mut entry: kvm_cpuid_entry2) -> kvm_cpuid_entry2 {
        match entry.function {
            BASIC => entry.eax = self.last_basic,
            FEATURES => self.adapt_features(&mut entry),
            CACHES => self.adapt_caches(&mut entry),
            // Waiting for a write to memory would stop the host's processor: MONITOR is off.
            MONITOR => clear(&mut entry),
            POWER => {
                clear(&mut entry);
                entry.eax = power::ALWAYS_RUNNING_APIC_TIMER;
            }
            EXTENDED_FEATURES => adapt_extended_features(&mut entry),
            COUNTERS => clear(&mut entry),
            KVM_FEATURES => entry.eax &= !kvm::ASYNC_PAGE_FAULTS,
            EXTENDED => entry.eax = entry.eax.max(SIZES),
            AMD_FEATURES => self.adapt_amd_features(&mut entry),
            SIZES => self.adapt_sizes(&mut entry),
            AMD_CACHES => self.adapt_amd_caches(&mut entry),
            AMD_TOPOLOGY => {
                clear(&mut entry);
                // The core's number; one thread a core, one node.
                (entry.eax, entry.ebx) = (self.vcpu.into(), self.vcpu.into());
            }
            _ => {}
        }
        entry
    }

    fn adapt_features(&self, entry: &mut kvm_cpuid_entry2) {
        // In units of 8 bytes.
        const CACHE_LINE: u32 = 64 / 8;
        let brand = entry.ebx & 0xFF;
        entry.ebx = u32::from(self.vcpu) << 24 | self.core_ids() << 16 | CACHE_LINE << 8 | brand;
        entry.ecx &= !(features::MONITOR
            | features::DEBUG_STORE
            | features::VMX
            | features::SMX
            | features::SPEED_STEP
            | features::THERMAL_MONITOR_2
            | features::PERFORMANCE_CAPABILITIES
            | features::OSXSAVE);
        entry.ecx |= features::HYPERVISOR;
        set(&mut entry.ecx, features::TSC_DEADLINE, self.has_tsc_deadline);
        set(&mut entry.edx, features::SEVERAL_LOGICAL, self.vcpu_count > 1);
    }

    /// Every core has its first and second level to itself, all share the third.
    fn sharing(&self, eax: u32) -> u32 {
        if eax >> 5 & 7 >= 3 { self.core_ids() - 1 } else { 0 }
    }

    fn adapt_caches(&self, entry: &mut kvm_cpuid_entry2) {
        // Zero is the type of no cache, which ends the list.
        if entry.eax & 0x1F != 0 {
            let kept = entry.eax & 0x3FFF;
            entry.eax = (self.core_ids() - 1) << 26 | self.sharing(entry.eax) << 14 | kept;
        }
    }

    fn adapt_amd_caches(&self, entry: &mut kvm_cpuid_entry2) {
        if entry.eax & 0x1F != 0 {
            entry.eax = self.sharing(entry.eax) << 14 | entry.eax & 0x3FFF;
        }
    }

    fn adapt_amd_features(&self, entry: &mut kvm_cpuid_entry2) {
        entry.ecx &= !(amd::LEGACY_MULTI_CORE
            | amd::NESTED_MACHINES
            | amd::SAMPLING
            | amd::SKINIT
            | amd::WATCHDOG
            | amd::LIGHTWEIGHT_PROFILING
            | amd::COUNTERS
            | amd::MONITORX);
        set(&mut entry.ecx, amd::LEGACY_MULTI_CORE, self.is_amd && self.vcpu_count > 1);
    }

    /// AMD has the cores' number here, Intel nothing.
    fn adapt_sizes(&self, entry: &mut kvm_cpuid_entry2) {
        entry.ecx = match self.is_amd {
            true => self.core_bits() << 12 | u32::from(self.vcpu_count - 1),
            false => 0,
        };
    }

    /// One level for threads, of which a core has one, and one for cores; then the end.
    fn topology(&self, function: u32) -> [kvm_cpuid_entry2; 3] {
        let level = |index: u32, kind: u32, shift: u32, count: u32| kvm_cpuid_entry2 {
            function,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: count,
            ecx: kind << 8 | index,
            edx: self.vcpu.into(),
            ..Default::default()
        };
        [level(0, 1, 0, 1), level(1, 2, self.core_bits(), self.vcpu_count.into()), level(2, 0, 0, 0)]
    }
}

fn adapt_extended_features(entry: &mut kvm_cpuid_entry2) {
    match entry.index {
        0 => {
            entry.ebx &= !(extended::SGX | extended::PROCESSOR_TRACE);
            entry.ecx &= !(extended::SHADOW_STACKS | extended::SGX_LAUNCH);
            entry.edx &= !(extended::HYBRID
                | extended::LAST_BRANCHES
                | extended::BRANCH_TRACKING
                | extended::TILES_BF16
                | extended::TILES
                | extended::TILES_INT8);
        }
        1 => {
            entry.eax &= !(extended::TILES_FP16 | extended::NEWER_COUNTERS);
            entry.edx &= !(extended::TILES_COMPLEX | extended::SUPERVISOR_SHADOW_STACKS);
        }
        _ => {}
    }
}

/// Takes [`HIDDEN_STATE`] out of leaf 0xD and computes the size of what is left.
fn limit_state(entries: &mut [kvm_cpuid_entry2]) {
    // A component of the supervisor's (bit 0 of ECX) is not in the area that user programs save.
    let ends = entries
        .iter()
        .filter(|entry| entry.function == XSAVE && entry.index >= 2 && entry.ecx & 1 == 0)
        .map(|entry| entry.ebx.saturating_add(entry.eax));
    let size = ends.max().unwrap_or(0).max(LEGACY_STATE_BYTES);
    let (hidden_low, hidden_high) = (HIDDEN_STATE as u32, (HIDDEN_STATE >> 32) as u32);
    for entry in entries.iter_mut().filter(|entry| entry.function == XSAVE) {
        match entry.index {
            0 => {
                entry.eax &= !hidden_low;
                entry.edx &= !hidden_high;
                // What is enabled at first is the legacy state; KVM keeps this one up to date by itself.
                (entry.ebx, entry.ecx) = (LEGACY_STATE_BYTES, size);
            }
            1 => {
                entry.eax &= !xsave::FEATURE_DISABLE;
                entry.ecx &= !hidden_low;
                entry.edx &= !hidden_high;
            }
            _ => {}
        }
    }
}

fn clear(entry: &mut kvm_cpuid_entry2) {
    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
}

fn set(register: &mut u32, bit: u32, on: bool) {
    *register = if on { *register | bit } else { *register & !bit };
}

/// Leaf 1: ECX, and the last one of EDX.
mod features {
    pub(super) const DEBUG_STORE: u32 = 1 << 2;
    pub(super) const MONITOR: u32 = 1 << 3;
    pub(super) const VMX: u32 = 1 << 5;
    pub(super) const SMX: u32 = 1 << 6;
    pub(super) const SPEED_STEP: u32 = 1 << 7;
    pub(super) const THERMAL_MONITOR_2: u32 = 1 << 8;
    pub(super) const PERFORMANCE_CAPABILITIES: u32 = 1 << 15;
    pub(super) const TSC_DEADLINE: u32 = 1 << 24;
    /// Mirrors a bit of CR4: KVM sets it.
    pub(super) const OSXSAVE: u32 = 1 << 27;
    pub(super) const HYPERVISOR: u32 = 1 << 31;
    /// HTT: the count in EBX is valid.
    pub(super) const SEVERAL_LOGICAL: u32 = 1 << 28;
}

/// Leaf 6, EAX.
mod power {
    pub(super) const ALWAYS_RUNNING_APIC_TIMER: u32 = 1 << 2;
}

/// Leaf 7: of index 0 EBX, ECX and EDX, of index 1 EAX and EDX.
mod extended {
    pub(super) const SGX: u32 = 1 << 2;
    pub(super) const PROCESSOR_TRACE: u32 = 1 << 25;
    pub(super) const SHADOW_STACKS: u32 = 1 << 7;
    pub(super) const SGX_LAUNCH: u32 = 1 << 30;
    pub(super) const HYBRID: u32 = 1 << 15;
    pub(super) const LAST_BRANCHES: u32 = 1 << 19;
    pub(super) const BRANCH_TRACKING: u32 = 1 << 20;
    pub(super) const TILES_BF16: u32 = 1 << 22;
    pub(super) const TILES: u32 = 1 << 24;
    pub(super) const TILES_INT8: u32 = 1 << 25;
    pub(super) const TILES_FP16: u32 = 1 << 21;
    pub(super) const NEWER_COUNTERS: u32 = 1 << 8;
    pub(super) const TILES_COMPLEX: u32 = 1 << 8;
    pub(super) const SUPERVISOR_SHADOW_STACKS: u32 = 1 << 18;
}

/// Leaf 0xD, index 1, EAX.
mod xsave {
    /// XFD, which is for the tiles alone.
    pub(super) const FEATURE_DISABLE: u32 = 1 << 4;
}

/// Leaf 0x4000_0001, EAX.
mod kvm {
    pub(super) const CLOCK: u32 = 1 << 3;
    /// The page fault, its form towards nested machines, and the newer interrupt: a guest that hands out its
    /// waiting time needs memory that is registered with KVM, which a snapshot would have to know of.
    pub(super) const ASYNC_PAGE_FAULTS: u32 = 1 << 4 | 1 << 10 | 1 << 14;
}

/// Leaf 0x8000_0001, ECX.
mod amd {
    pub(super) const LEGACY_MULTI_CORE: u32 = 1 << 1;
    pub(super) const NESTED_MACHINES: u32 = 1 << 2;
    pub(super) const SAMPLING: u32 = 1 << 10;
    pub(super) const SKINIT: u32 = 1 << 12;
    pub(super) const WATCHDOG: u32 = 1 << 13;
    pub(super) const LIGHTWEIGHT_PROFILING: u32 = 1 << 15;
    /// Of the core, the northbridge and the last-level cache, and by time stamps.
    pub(super) const COUNTERS: u32 = 1 << 23 | 1 << 24 | 1 << 27 | 1 << 28;
    pub(super) const MONITORX: u32 = 1 << 29;
}
