use std::io::Write;

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;
const RAM_BYTES: u64 = 32 * MIB;
/// Where the made kernels have their notes and their first segment in the file.
const NOTES: u64 = 0x800;
const FIRST_BYTES: u64 = 0x1000;

/// No byte of it is zero, so that bytes where zeroes should be are noticed.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 % 251 + 1) as u8).collect()
}

pub(in crate::engine::kvm) fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn segment(file_offset: u64, address: u64, file_bytes: u64, memory_bytes: u64) -> Segment {
    Segment { file_offset, address, file_bytes, memory_bytes }
}

fn program_header(kind: u32, segment: &Segment, align: u64) -> Vec<u8> {
    let mut bytes = [kind, 7].map(u32::to_le_bytes).concat();
    let Segment { file_offset, address, file_bytes, memory_bytes } = *segment;
    let words = [file_offset, address + 0xFFFF_FFFF_8000_0000, address, file_bytes, memory_bytes, align];
    bytes.extend(words.into_iter().flat_map(u64::to_le_bytes));
    bytes
}

fn note(name: &[u8], kind: u32, description: &[u8]) -> Vec<u8> {
    let mut bytes = [name.len() as u32, description.len() as u32, kind].map(u32::to_le_bytes).concat();
    for part in [name, description] {
        bytes.extend(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// Notes as Linux has them: the entry is not the first.
fn pvh_notes(entry: u64) -> Vec<u8> {
    let others = [note(b"Xen\0", 6, b"linux\0"), note(b"Linux\0", 18, &[0; 8])].concat();
    [others, note(b"Xen\0", 18, &entry.to_le_bytes()), note(b"GNU\0", 3, &[1; 20])].concat()
}

/// A kernel file of `len` bytes with these segments and notes.
fn elf(segments: &[Segment], notes: &[u8], len: u64) -> Vec<u8> {
    let mut bytes = pattern(len as usize);
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    header.extend([2_u16, 62].into_iter().flat_map(u16::to_le_bytes));
    header.extend(1_u32.to_le_bytes());
    // No entry but PVH's.
    header.extend([0_u64, 64, 0].into_iter().flat_map(u64::to_le_bytes));
    header.extend(0_u32.to_le_bytes());
    header.extend([64_u16, 56, segments.len() as u16 + 1, 0, 0, 0].into_iter().flat_map(u16::to_le_bytes));
    let notes_len = notes.len() as u64;
    header.extend(program_header(4, &segment(NOTES, 0, notes_len, notes_len), 4));
    segments.iter().for_each(|segment| header.extend(program_header(1, segment, 0x20_0000)));
    bytes[..header.len()].copy_from_slice(&header);
    bytes[NOTES as usize..NOTES as usize + notes.len()].copy_from_slice(notes);
    bytes
}

/// A kernel that is `code`, entered at its beginning.
pub(in crate::engine::kvm) fn kernel_of(code: &[u8]) -> Vec<u8> {
    let mut kernel =
        elf(&[segment(FIRST_BYTES, 16 * MIB, 0x1000, 0x1000)], &pvh_notes(16 * MIB), FIRST_BYTES + 0x1000);
    kernel[FIRST_BYTES as usize..][..code.len()].copy_from_slice(code);
    kernel
}

fn simple_elf() -> Vec<u8> {
    let segments = [
        segment(0x1000, 16 * MIB, 0x2345, 0x2345),
        segment(0x4000, 16 * MIB + 0x4000, 0x1800, 0x9000),
        segment(0x5900, 16 * MIB + 0x2E00, 0x100, 0x200),
    ];
    elf(&segments, &pvh_notes(16 * MIB + 0x40), 0x8000)
}

/// Loads with an initramfs.
fn load_with(kernel: &[u8], initramfs: &[u8]) -> Result<(GuestRam, Entry), LoadError> {
    let ram = GuestRam::new(RAM_BYTES).unwrap();
    let entry = load(&file(kernel), &file(initramfs), "quiet", &ram)?;
    Ok((ram, entry))
}

fn refused(kernel: &[u8]) -> String {
    load_with(kernel, b"").map(|(_, entry)| entry).unwrap_err().to_string()
}

fn read(ram: &GuestRam, address: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    ram.memory().read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

fn words(ram: &GuestRam, address: u64, count: u64) -> Vec<u64> {
    read(ram, address, 8 * count).chunks_exact(8).map(|word| u64_at(word, 0)).collect()
}

#[test]
fn a_kernel_is_where_it_wants_to_be_and_zero_behind_its_bytes() {
    let kernel = simple_elf();
    let (ram, entry) = load_with(&kernel, b"").unwrap();
    let expected = Entry {
        protocol: Protocol::Pvh,
        instruction_pointer: 16 * MIB + 0x40,
        parameters_address: layout::START_INFO_ADDRESS,
    };
    assert_eq!(entry, expected);
    let mut memory = vec![0; 0x1_0000];
    memory[..0x2345].copy_from_slice(&kernel[0x1000..0x3345]);
    memory[0x2E00..0x2F00].copy_from_slice(&kernel[0x5900..0x5A00]);
    memory[0x4000..0x5800].copy_from_slice(&kernel[0x4000..0x5800]);
    assert!(read(&ram, 16 * MIB, 0x1_0000) == memory);
}

#[test]
fn start_information_tells_of_everything() {
    let initramfs = pattern(5000);
    let (ram, _) = load_with(&simple_elf(), &initramfs).unwrap();
    let info = words(&ram, layout::START_INFO_ADDRESS, 7);
    let modules = layout::START_INFO_ADDRESS + 0x100;
    let (command_line, map) = (layout::COMMAND_LINE_ADDRESS, layout::MEMORY_MAP_ADDRESS);
    assert_eq!(info, [1 << 32 | 0x336E_C578, 1 << 32, modules, command_line, layout::RSDP_ADDRESS, map, 3]);
    assert_eq!(words(&ram, modules, 4), [RAM_BYTES - 8192, 5000, 0, 0]);
    assert_eq!(read(&ram, RAM_BYTES - 8192, 5000), initramfs);
    assert_eq!(read(&ram, RAM_BYTES - 8192 + 5000, 3192), [0; 3192]);
    assert_eq!(read(&ram, command_line, 6), b"quiet\0");
    let map_entries = [[0, 0xA_0000, 1], [0xA_0000, 0x6_0000, 2], [MIB, RAM_BYTES - MIB, 1]];
    assert_eq!(words(&ram, map, 9), map_entries.concat());
    let (ram, _) = load_with(&simple_elf(), b"").unwrap();
    assert_eq!(words(&ram, layout::START_INFO_ADDRESS + 8, 1), [0]);
}

#[test]
fn a_kernel_with_an_entry_for_long_mode_is_entered_there() {
    let initramfs = pattern(5000);
    let with = |entry: u64| {
        let mut kernel = simple_elf();
        kernel[24..32].copy_from_slice(&entry.to_le_bytes());
        load_with(&kernel, &initramfs).unwrap()
    };
    let (ram, entry) = with(16 * MIB + 0x123);
    let expected = Entry {
        protocol: Protocol::Linux64,
        instruction_pointer: 16 * MIB + 0x123,
        parameters_address: layout::ZERO_PAGE_ADDRESS,
    };
    assert_eq!(entry, expected);
    let page = read(&ram, layout::ZERO_PAGE_ADDRESS, PAGE_BYTES);
    assert_eq!((page[0x210], page[0x1E8], u64_at(&page, 0x070)), (0xFF, 3, layout::RSDP_ADDRESS));
    assert_eq!((u32_at(&page, 0x218), u32_at(&page, 0x21C)), ((RAM_BYTES - 8192) as u32, 5000));
    assert_eq!(u32_at(&page, 0x228), layout::COMMAND_LINE_ADDRESS as u32);
    assert_eq!(words(&ram, layout::PAGE_TABLES_ADDRESS, 1), [layout::PAGE_TABLES_ADDRESS + 0x1003]);
    // Elsewhere is no entry, also where a segment has nothing of the file.
    for entry in [0, MIB, 16 * MIB + 0x2345, 16 * MIB + 0x5800, u64::MAX] {
        assert_eq!(with(entry).1.protocol, Protocol::Pvh, "{entry:#x}");
    }
}

#[test]
fn ram_beyond_the_devices_is_told() {
    let ram = GuestRam::new(5 << 30).unwrap();
    load(&file(&simple_elf()), &file(b"x"), "", &ram).unwrap();
    let map = words(&ram, layout::MEMORY_MAP_ADDRESS, 12);
    assert_eq!(map[6..], [MIB, layout::LOW_RAM_END - MIB, 1, 1 << 32, 2 << 30, 1]);
    let module = words(&ram, layout::START_INFO_ADDRESS + 0x100, 1);
    assert_eq!(module, [layout::LOW_RAM_END - 4096]);
}

#[test]
fn kernels_with_parts_in_wrong_places_are_refused() {
    let notes = pvh_notes(16 * MIB);
    let good = segment(0x1000, 16 * MIB, 0x1000, 0x2000);
    for bad in [
        segment(0x2000, layout::START_INFO_ADDRESS, 0x10, 0x10),
        segment(0x2000, MIB - 1, 0x10, 0x10),
        segment(0x2000, RAM_BYTES - 0x1000, 0x10, 0x1001),
        segment(0x2000, u64::MAX - 0xFF, 0x10, 0x100),
        segment(0x2000, u64::MAX - 0xFF, 0x10, u64::MAX),
        segment(0x2000, layout::HIGH_RAM_START, 0x10, 0x10),
        segment(0x2000, 16 * MIB + 0x1FFF, 0x10, 0x10),
    ] {
        let kernel = elf_raw(&[good, bad], &notes);
        assert!(matches!(load_with(&kernel, b""), Err(LoadError::Segment { .. })), "{bad:x?}");
    }
    for bad in [
        segment(0x2000, 17 * MIB, 0x11, 0x10),
        segment(0x7FFF, 17 * MIB, 2, 2),
        segment(u64::MAX, 17 * MIB, 2, 2),
        segment(1, 17 * MIB, u64::MAX, u64::MAX),
    ] {
        assert_eq!(
            refused(&elf_raw(&[good, bad], &notes)),
            "the kernel is not usable: a segment is not in the file"
        );
    }
}

/// [`elf`] for addresses that no virtual address exists for.
fn elf_raw(segments: &[Segment], notes: &[u8]) -> Vec<u8> {
    let harmless: Vec<Segment> = segments.iter().map(|_| segment(0, 0, 0, 0)).collect();
    let mut bytes = elf(&harmless, notes, 0x8000);
    for (index, segment) in segments.iter().enumerate() {
        let at = 64 + 56 * (index + 1);
        let Segment { file_offset, address, file_bytes, memory_bytes } = *segment;
        for (field, value) in [(8, file_offset), (24, address), (32, file_bytes), (40, memory_bytes)] {
            bytes[at + field..at + field + 8].copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

#[test]
fn a_kernel_without_a_usable_pvh_entry_is_refused() {
    let segments = [segment(0x1000, 16 * MIB, 0x1000, 0x2000)];
    let with = |notes: &[u8]| refused(&elf(&segments, notes, 0x8000));
    assert_eq!(with(b""), "the kernel is not usable: it has no entry");
    assert_eq!(
        with(&note(b"Xen\0", 18, &[1; 5])),
        "the kernel is not usable: its PVH entry is no address of 32 bits"
    );
    assert_eq!(with(&pvh_notes(1 << 32)), "the kernel is not usable: its PVH entry is no address of 32 bits");
    assert_eq!(
        with(&pvh_notes(16 * MIB + 0x1000)),
        "the kernel is not usable: its PVH entry is not in its code"
    );
    let mut cut_off = note(b"Xen\0", 18, &(16 * MIB).to_le_bytes());
    cut_off[4] = 9;
    assert_eq!(with(&cut_off), "the kernel is not usable: it has no entry");
    let short = note(b"Xen\0", 18, &(16 * MIB as u32).to_le_bytes());
    assert!(load_with(&elf(&segments, &short, 0x8000), b"").is_ok());
}

#[test]
fn files_that_are_no_kernels_are_refused() {
    for bytes in [&b""[..], b"\x7fE", b"MZ", &pattern(70_000)] {
        assert_eq!(refused(bytes), "the kernel is neither an ELF file nor a bzImage");
    }
    assert_eq!(refused(&simple_elf()[..63]), "the kernel is not usable: its ELF header is cut off");
    assert_eq!(
        refused(&simple_elf()[..100]),
        "the kernel is not usable: its program headers are not in the file"
    );
    let mut arm = simple_elf();
    arm[18] = 183;
    assert_eq!(refused(&arm), "the kernel is not usable: it is no executable for x86-64");
}

#[test]
fn what_does_not_fit_is_refused() {
    let error = load_with(&simple_elf(), &vec![1; 16 << 20]).map(|(_, entry)| entry).unwrap_err();
    assert!(matches!(error, LoadError::NoRoom { len_bytes } if len_bytes == 16 * MIB));
    assert!(load_with(&simple_elf(), &vec![1; (16 << 20) - 0xD000]).is_ok());
    let ram = GuestRam::new(RAM_BYTES).unwrap();
    for line in ["x".repeat(COMMAND_LINE_BYTES), "a\0b".to_owned()] {
        let result = load(&file(&simple_elf()), &file(b""), &line, &ram);
        assert!(matches!(result, Err(LoadError::CommandLine(_))));
    }
    let longest = "x".repeat(COMMAND_LINE_BYTES - 1);
    assert!(load(&file(&simple_elf()), &file(b""), &longest, &ram).is_ok());
}

/// A compressed kernel whose code begins in the fourth sector.
fn bzimage() -> Vec<u8> {
    let mut bytes = pattern(0x9000);
    bytes[..0x290].fill(0);
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0x1F1, &[3]);
    put(0x1FE, &[0x55, 0xAA, 0xEB, 0x6A]);
    put(0x202, b"HdrS");
    put(0x206, &0x20F_u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22C, &0x7FFF_FFFF_u32.to_le_bytes());
    put(0x236, &3_u16.to_le_bytes());
    put(0x238, &2047_u32.to_le_bytes());
    put(0x258, &(16 * MIB).to_le_bytes());
    put(0x260, &0x20_0000_u32.to_le_bytes());
    bytes
}

#[test]
fn a_compressed_kernel_is_entered_in_long_mode() {
    let kernel = bzimage();
    let (ram, entry) = load_with(&kernel, &[7; 4096]).unwrap();
    let expected = Entry {
        protocol: Protocol::Linux64,
        instruction_pointer: 16 * MIB + 0x200,
        parameters_address: layout::ZERO_PAGE_ADDRESS,
    };
    assert_eq!(entry, expected);
    assert!(read(&ram, 16 * MIB, 0x9000 - 0x800) == kernel[0x800..]);
    let page = read(&ram, layout::ZERO_PAGE_ADDRESS, PAGE_BYTES);
    assert_eq!(page[0x1F1..0x210], kernel[0x1F1..0x210]);
    assert_eq!((page[0x210], page[0x1E8]), (0xFF, 3));
    assert_eq!((u32_at(&page, 0x218), u32_at(&page, 0x21C)), ((RAM_BYTES - 4096) as u32, 4096));
    assert_eq!(u32_at(&page, 0x228), layout::COMMAND_LINE_ADDRESS as u32);
    assert_eq!(u64_at(&page, 0x070), layout::RSDP_ADDRESS);
    let last = 0x2D0 + 2 * 20;
    assert_eq!((u64_at(&page, last), u64_at(&page, last + 8), u32_at(&page, last + 16)), (MIB, 31 * MIB, 1));
    let tables = words(&ram, layout::PAGE_TABLES_ADDRESS, 3 * 512);
    assert_eq!((tables[0], tables[1]), (layout::PAGE_TABLES_ADDRESS + 0x1003, 0));
    assert_eq!((tables[512], tables[513]), (layout::PAGE_TABLES_ADDRESS + 0x2003, 0));
    assert_eq!((tables[1024], tables[1025], tables[1535]), (0x83, 0x20_0083, 0x3FE0_0083));
    assert_eq!(words(&ram, layout::GDT_ADDRESS, 3)[2], 0x00AF_9B00_0000_FFFF);
}

#[test]
fn compressed_kernels_that_cannot_be_entered_are_refused() {
    let with = |at: usize, value: &[u8]| {
        let mut kernel = bzimage();
        kernel[at..at + value.len()].copy_from_slice(value);
        refused(&kernel)
    };
    assert_eq!(with(0x206, &[0x0B, 2]), "the kernel is not usable: it has no 64-bit entry");
    assert_eq!(with(0x236, &[2]), "the kernel is not usable: it has no 64-bit entry");
    assert_eq!(with(0x211, &[0]), "the kernel is not usable: it has no 64-bit entry");
    assert_eq!(with(0x201, &[0x10]), "the kernel is not usable: its setup header has an impossible length");
    assert_eq!(with(0x201, &[0xFF]), "the kernel is not usable: its setup header has an impossible length");
    assert_eq!(with(0x1F1, &[200]), "the kernel is not usable: its code is not in the file");
    assert_eq!(with(0x202, b"XXXX"), "the kernel is neither an ELF file nor a bzImage");
    for address in [0, 0x9_0000, 31 * MIB, 1 << 30, u64::MAX - 5] {
        assert!(with(0x258, &address.to_le_bytes()).contains("where they cannot be"), "{address:#x}");
    }
    assert!(with(0x260, &u32::MAX.to_le_bytes()).contains("where they cannot be"));
    assert!(with(0x238, &3_u32.to_le_bytes()).contains("the command line has 5 bytes"));
}

#[test]
fn the_fuzz_target_loads_kernels_of_both_kinds() {
    assert!(fuzz_kernel(&simple_elf()) && fuzz_kernel(&bzimage()) && !fuzz_kernel(b"none"));
}

/// Segments one behind another, each with a gap before it; in the file they are anywhere.
fn segments() -> impl Strategy<Value = Vec<Segment>> {
    let aligned = prop::bool::weighted(0.7);
    let one = (0..0x2000_u64, 0..0x3800_u64, 0..0x2000_u64, FIRST_BYTES..0x4000, aligned);
    prop::collection::vec(one, 1..5).prop_map(|parts| {
        let mut address = 16 * MIB;
        let mut segments = Vec::new();
        for (gap, file_bytes, zeroes, offset, aligned) in parts {
            address += gap;
            let file_offset =
                if aligned { offset.next_multiple_of(PAGE_BYTES) + address % PAGE_BYTES } else { offset };
            segments.push(segment(file_offset, address, file_bytes, file_bytes + zeroes));
            address += file_bytes + zeroes;
        }
        segments
    })
}

proptest! {
    #[test]
    fn memory_is_what_the_segments_say(segments in segments()) {
        let entry = segments.iter().find(|segment| segment.file_bytes > 0).map(|segment| segment.address);
        prop_assume!(entry.is_some());
        let kernel = elf(&segments, &pvh_notes(entry.unwrap()), 0x1_0000);
        let (ram, _) = load_with(&kernel, b"").unwrap();
        let mut expected = vec![0; 0x2_0000];
        for Segment { file_offset, address, file_bytes, .. } in segments {
            let (at, from, len) = ((address - 16 * MIB) as usize, file_offset as usize, file_bytes as usize);
            expected[at..at + len].copy_from_slice(&kernel[from..from + len]);
        }
        prop_assert!(read(&ram, 16 * MIB, 0x2_0000) == expected);
    }

    #[test]
    fn changed_kernels_do_no_harm(
        compressed in any::<bool>(),
        changes in prop::collection::vec((0..0x300_usize, prop::sample::select(vec![0, 1, 0x7F, 0x80, 0xFF])), 1..12),
        random in any::<u8>(),
    ) {
        let mut kernel = if compressed { bzimage() } else { simple_elf() };
        for (at, value) in changes {
            // Of an ELF file the headers and the notes, of the other the setup header.
            let at = if compressed { at } else if at < 0x200 { at % 0xE8 } else { at - 0x200 + NOTES as usize };
            kernel[at] = if value == 1 { random } else { value };
        }
        fuzz_kernel(&kernel);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        fuzz_kernel(&bytes);
        fuzz_kernel(&[&simple_elf()[..0x100], &bytes[..]].concat());
    }

    #[test]
    fn nothing_but_the_kernels_own_places_is_written(segments in segments()) {
        let kernel = elf_raw(&segments, &pvh_notes(16 * MIB));
        let ram = GuestRam::new(RAM_BYTES).unwrap();
        let _ = load(&file(&kernel), &file(b""), "", &ram);
        for (start, end) in [(0, layout::START_INFO_ADDRESS), (layout::GENERATION_PAGE, 2 * MIB)] {
            prop_assert!(read(&ram, start, end - start) == vec![0; (end - start) as usize]);
        }
    }
}
