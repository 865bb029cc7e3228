use super::*;

fn leaf(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    let indexed = [CACHES, EXTENDED_FEATURES, XSAVE, TOPOLOGY, TOPOLOGY_V2, AMD_CACHES].contains(&function);
    let flags = if indexed { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 };
    kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, ..Default::default() }
}

const KVM_SIGNATURE: [u32; 4] = [KVM_FEATURES, 0x4B4D_564B, 0x564B_4D56, 0x4D];

/// What KVM offers on a server of Intel's of the generation that brought tiles and shadow stacks, with some
/// leaves that matter to nothing left out.
fn intel() -> Vec<kvm_cpuid_entry2> {
    [
        (0, 0, [0x20, 0x756E_6547, 0x6C65_746E, 0x4965_6E69]),
        (1, 0, [0x000C_06F2, 0x1240_0800, 0xFFFE_BBFF, 0x1F8B_FBFF]),
        (4, 0, [0xFC00_4121, 0x02C0_003F, 0x3F, 0]),
        (4, 1, [0xFC00_4122, 0x01C0_003F, 0x3F, 0]),
        (4, 2, [0xFC00_4143, 0x03C0_003F, 0x7FF, 0]),
        (4, 3, [0xFDFF_C163, 0x04C0_003F, 0x1_BFFF, 4]),
        (4, 4, [0; 4]),
        (5, 0, [0x40, 0x40, 3, 0x2020]),
        (7, 0, [2, 0xF3BF_BFEF, 0xFBC1_7FEE, 0xFFDC_4430]),
        (7, 1, [0x0040_1D30 | 1 << 21, 0, 0, 0x0004_4100]),
        (7, 2, [0, 0, 0, 0x3F]),
        (0xA, 0, [0x0830_0805, 0, 0x7, 0x8604]),
        (0xB, 0, [1, 2, 0x100, 0x12]),
        (0xB, 1, [6, 0x40, 0x201, 0x12]),
        (0xD, 0, [0x0006_02E7, 0x2B00, 0x2B00, 0]),
        (0xD, 1, [0x1F, 0x2440, 0x1900, 0]),
        (0xD, 2, [0x100, 0x240, 0, 0]),
        (0xD, 5, [0x40, 0x440, 0, 0]),
        (0xD, 6, [0x200, 0x480, 0, 0]),
        (0xD, 7, [0x400, 0x680, 0, 0]),
        (0xD, 9, [8, 0xA80, 0, 0]),
        (0xD, 11, [0x10, 0, 1, 0]),
        (0xD, 12, [0x18, 0, 1, 0]),
        (0xD, 17, [0x40, 0xAC0, 2, 0]),
        (0xD, 18, [0x2000, 0xB00, 6, 0]),
        (0x12, 0, [0x63, 1, 0, 0x381F]),
        (0x14, 0, [1, 0xF, 7, 0]),
        (0x1D, 0, [1, 0, 0, 0]),
        (0x1D, 1, [0x0400_2000, 0x0008_0040, 0x10, 0]),
        (0x1E, 0, [0, 0x4010, 0, 0]),
        (0x1F, 0, [1, 2, 0x100, 0x12]),
        (0x4000_0000, 0, KVM_SIGNATURE),
        (0x4000_0001, 0, [0x0101_FEFB, 0, 0, 0]),
        (0x8000_0000, 0, [0x8000_0008, 0, 0, 0]),
        (0x8000_0001, 0, [0, 0, 0x121, 0x2C10_0800]),
        (0x8000_0007, 0, [0, 0, 0, 0x100]),
        (0x8000_0008, 0, [0x0030_3934, 0x200, 0x1234, 0]),
    ]
    .map(|(function, index, registers)| leaf(function, index, registers))
    .to_vec()
}

/// Likewise of AMD's.
fn amd() -> Vec<kvm_cpuid_entry2> {
    [
        (0, 0, [0x10, 0x6874_7541, 0x444D_4163, 0x6974_6E65]),
        (1, 0, [0x00A1_0F11, 0x0510_0800, 0xFEFA_B20B, 0x178B_FBFF]),
        (6, 0, [4, 0, 1, 0]),
        (7, 0, [1, 0xF1BF_97A9, 0x0040_5FDE | 1 << 7, 0x1000_0010]),
        (0xA, 0, [0; 4]),
        (0xB, 0, [0; 4]),
        (0xD, 0, [0x2E7, 0x988, 0x988, 0]),
        (0xD, 1, [0xF, 0x348, 0x1800, 0]),
        (0xD, 2, [0x100, 0x240, 0, 0]),
        (0xD, 5, [0x40, 0x340, 0, 0]),
        (0xD, 6, [0x200, 0x380, 0, 0]),
        (0xD, 7, [0x400, 0x580, 0, 0]),
        (0xD, 9, [8, 0x980, 0, 0]),
        (0xD, 11, [0x10, 0, 1, 0]),
        (0xD, 12, [0x18, 0, 1, 0]),
        (0x4000_0000, 0, KVM_SIGNATURE),
        (0x4000_0001, 0, [0x0100_7EFB, 0, 0, 0]),
        (0x8000_0000, 0, [0x8000_0022, 0x6874_7541, 0x444D_4163, 0x6974_6E65]),
        (0x8000_0001, 0, [0x00A1_0F11, 0x4000_0000, 0x75C2_37FF, 0x2FD3_FBFF]),
        (0x8000_0007, 0, [0, 0, 0, 0x100]),
        (0x8000_0008, 0, [0x0030_3934, 0x1110_B20D, 0x501F, 0]),
        (0x8000_000A, 0, [1, 8, 0, 0x1BCFF]),
        (0x8000_001D, 0, [0x4121, 0x01C0_003F, 0x3F, 0]),
        (0x8000_001D, 1, [0x4122, 0x01C0_003F, 0x3F, 0]),
        (0x8000_001D, 2, [0x4143, 0x01C0_003F, 0x7FF, 2]),
        (0x8000_001D, 3, [0x0003_C163, 0x03C0_003F, 0x7FFF, 1]),
        (0x8000_001D, 4, [0; 4]),
        (0x8000_001E, 0, [5, 0x102, 0x300, 0]),
        (0x8000_001F, 0, [0x1F, 0x173, 0x1F, 1]),
        (0x8000_0022, 0, [1, 6, 0, 0]),
    ]
    .map(|(function, index, registers)| leaf(function, index, registers))
    .to_vec()
}

/// EAX, EBX, ECX and EDX, which must be there once.
fn registers(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> [u32; 4] {
    let found: Vec<_> =
        entries.iter().filter(|entry| (entry.function, entry.index) == (function, index)).collect();
    assert_eq!(found.len(), 1, "leaf {function:#x}, {index}");
    [found[0].eax, found[0].ebx, found[0].ecx, found[0].edx]
}

fn has(entries: &[kvm_cpuid_entry2], function: u32) -> bool {
    entries.iter().any(|entry| entry.function == function)
}

#[test]
fn a_vcpu_knows_its_number_everywhere() {
    for (host, is_amd) in [(intel(), false), (amd(), true)] {
        let entries = configure(&host, 5, 6, true);
        assert_eq!(registers(&entries, 1, 0)[1], 5 << 24 | 8 << 16 | 8 << 8);
        assert_eq!(registers(&entries, 0xB, 0), [0, 1, 0x100, 5]);
        assert_eq!(registers(&entries, 0xB, 1), [3, 6, 0x201, 5]);
        assert_eq!(registers(&entries, 0xB, 2), [0, 0, 2, 5]);
        assert_eq!(has(&entries, 0x1F), !is_amd);
        if is_amd {
            assert_eq!(registers(&entries, 0x8000_001E, 0), [5, 5, 0, 0]);
        } else {
            assert_eq!(registers(&entries, 0x1F, 1), [3, 6, 0x201, 5]);
        }
    }
}

#[test]
fn one_vcpu_is_one_core_without_others() {
    let entries = configure(&intel(), 0, 1, true);
    let [_, ebx, _, edx] = registers(&entries, 1, 0);
    assert_eq!((ebx >> 16, edx >> 28 & 1), (1, 0));
    assert_eq!(registers(&entries, 0xB, 1), [0, 1, 0x201, 0]);
    assert_eq!(registers(&entries, 4, 3)[0], 0x163);
    let entries = configure(&amd(), 0, 1, true);
    assert_eq!((registers(&entries, 0x8000_0008, 0)[2], registers(&entries, 0x8000_0001, 0)[2] & 2), (0, 0));
}

#[test]
fn cores_share_the_last_level_of_cache() {
    let entries = configure(&intel(), 1, 4, true);
    let caches = [0, 1, 2, 3, 4].map(|index| registers(&entries, 4, index)[0]);
    assert_eq!(caches, [3 << 26 | 0x121, 3 << 26 | 0x122, 3 << 26 | 0x143, 3 << 26 | 3 << 14 | 0x163, 0]);
    let entries = configure(&amd(), 1, 4, true);
    let caches = [0, 2, 3, 4].map(|index| registers(&entries, 0x8000_001D, index)[0]);
    assert_eq!(caches, [0x121, 0x143, 3 << 14 | 0x163, 0]);
    assert_eq!(registers(&entries, 0x8000_0008, 0), [0x0030_3934, 0x1110_B20D, 2 << 12 | 3, 0]);
}

#[test]
fn the_guest_is_told_that_it_is_one_and_gets_kvms_clock() {
    for host in [intel(), amd()] {
        let with = registers(&configure(&host, 0, 2, true), 1, 0)[2];
        let without = registers(&configure(&host, 0, 2, false), 1, 0)[2];
        assert_eq!((with >> 31, with >> 24 & 1, with >> 21 & 1, with >> 27 & 1), (1, 1, 1, 0));
        assert_eq!(without, with & !(1 << 24));
        let entries = configure(&host, 0, 2, true);
        assert_eq!(registers(&entries, 6, 0), [4, 0, 0, 0]);
        assert_eq!(registers(&entries, 0x8000_0007, 0), [0, 0, 0, 0x100]);
        assert_eq!(registers(&entries, 0x4000_0000, 0), KVM_SIGNATURE);
        let kvm = registers(&entries, 0x4000_0001, 0)[0];
        let [clock, eoi, flush, ipi, yielding, stable] = [3, 6, 9, 11, 13, 24].map(|bit| kvm >> bit & 1);
        assert_eq!([clock, eoi, flush, ipi, yielding, stable], [1; 6]);
        assert_eq!(kvm & (1 << 4 | 1 << 10 | 1 << 14), 0);
    }
}

#[test]
fn what_the_machine_does_not_have_is_hidden() {
    let entries = configure(&intel(), 0, 2, true);
    assert_eq!(registers(&entries, 1, 0)[2] & (1 << 3 | 1 << 5 | 1 << 6 | 1 << 15), 0);
    assert_eq!((registers(&entries, 5, 0), registers(&entries, 0xA, 0)), ([0; 4], [0; 4]));
    let [max, ebx, ecx, edx] = registers(&entries, 7, 0);
    assert_eq!((max, ebx & (1 << 2 | 1 << 25), ecx & (1 << 7 | 1 << 30)), (2, 0, 0));
    assert_eq!(edx & (1 << 15 | 1 << 19 | 1 << 20 | 1 << 22 | 1 << 24 | 1 << 25), 0);
    assert_eq!(registers(&entries, 7, 1), [0x0040_1C30, 0, 0, 0x4000]);
    assert!([0x12, 0x14, 0x1D, 0x1E].iter().all(|function| !has(&entries, *function)));

    let entries = configure(&amd(), 0, 2, true);
    let hidden = 1 << 2 | 1 << 10 | 1 << 12 | 1 << 13 | 1 << 23 | 1 << 24 | 1 << 27 | 1 << 28 | 1 << 29;
    let ecx = registers(&entries, 0x8000_0001, 0)[2];
    assert_eq!((ecx & hidden, ecx & 2, ecx >> 22 & 1), (0, 2, 1));
    assert_eq!(registers(&entries, 7, 0)[2] & 1 << 7, 0);
    assert!([0x8000_000A, 0x8000_001F, 0x8000_0022].iter().all(|function| !has(&entries, *function)));
}

#[test]
fn the_state_to_save_is_what_is_left_of_it() {
    let entries = configure(&intel(), 0, 2, true);
    assert_eq!(registers(&entries, 0xD, 0), [0x2E7, 576, 0xA88, 0]);
    assert_eq!(registers(&entries, 0xD, 1), [0xF, 0x2440, 0, 0]);
    assert_eq!(registers(&entries, 0xD, 9), [8, 0xA80, 0, 0]);
    assert!(!entries.iter().any(|entry| entry.function == 0xD && [11, 12, 17, 18].contains(&entry.index)));
    let entries = configure(&amd(), 0, 2, true);
    assert_eq!(registers(&entries, 0xD, 0), [0x2E7, 576, 0x988, 0]);
    assert_eq!(registers(&entries, 0xD, 1), [0xF, 0x348, 0, 0]);
}

#[test]
fn old_and_strange_hosts_give_usable_tables() {
    let old = [leaf(0, 0, [2, 1, 2, 3]), leaf(1, 0, [0; 4]), leaf(EXTENDED, 0, [0x8000_0001, 0, 0, 0])];
    let entries = configure(&old, 0, 1, false);
    assert_eq!(registers(&entries, 0, 0), [0xB, 1, 2, 3]);
    assert_eq!(registers(&entries, EXTENDED, 0)[0], SIZES);
    assert_eq!(registers(&entries, 6, 0)[0], 4);
    let many: Vec<_> = (0..300).map(|index| leaf(XSAVE, index, [u32::MAX; 4])).collect();
    assert_eq!(configure(&many, 31, 32, true).len(), MAX_ENTRIES);
    assert!(!configure(&[], 0, 0, false).is_empty());
}
