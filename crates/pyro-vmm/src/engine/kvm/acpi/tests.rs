use std::fs;
use std::process::Command;

use super::*;
use crate::limits;

const LARGEST: Shape = Shape { vcpu_count: limits::MAX_VCPUS, device_count: layout::MAX_DEVICES };

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The table at a guest's address, its checksum verified.
fn table(area: &[u8], address: u64) -> &[u8] {
    let table = &area[(address - layout::ACPI_START) as usize..];
    let table = &table[..u32_at(table, 4) as usize];
    assert_eq!(sum(table), 0, "{:?}", &table[..4]);
    table
}

/// FADT, MADT and DSDT, as a kernel finds them.
fn found(area: &[u8]) -> [&[u8]; 3] {
    let rsdp = &area[..36];
    assert_eq!((&rsdp[..8], rsdp[15], u32_at(rsdp, 20)), (&b"RSD PTR "[..], 2, 36));
    assert_eq!((sum(&rsdp[..20]), sum(rsdp)), (0, 0));
    let xsdt = table(area, u64_at(rsdp, 24));
    assert_eq!((&xsdt[..4], xsdt.len()), (&b"XSDT"[..], 36 + 2 * 8));
    let fadt = table(area, u64_at(xsdt, 36));
    [fadt, table(area, u64_at(xsdt, 44)), table(area, u64_at(fadt, 140))]
}

#[test]
fn tables_are_found_from_their_root_and_fit_into_their_place() {
    let area = tables(&LARGEST);
    let signatures = found(&area).map(|table| &table[..4]);
    assert_eq!(signatures, [b"FACP", b"APIC", b"DSDT"]);
    assert!(area.len() as u64 <= layout::ACPI_BYTES / 8, "{}", area.len());
}

#[test]
fn the_machine_is_off_and_reset_by_ports_and_has_nothing_of_a_pc() {
    let area = tables(&LARGEST);
    let [fadt, ..] = found(&area);
    assert_eq!((fadt.len(), fadt[8]), (276, 6));
    let register = |at: usize| (fadt[at], fadt[at + 1], fadt[at + 2], fadt[at + 3], u64_at(fadt, at + 4));
    assert_eq!(register(116), (1, 8, 0, 1, layout::RESET_PORT.into()));
    assert_eq!(register(244), (1, 8, 0, 1, layout::SLEEP_CONTROL_PORT.into()));
    assert_eq!(register(256), (1, 8, 0, 1, layout::SLEEP_STATUS_PORT.into()));
    assert_eq!((fadt[128], fadt[109], fadt[110]), (layout::RESET_VALUE, 0x2C, 0));
    assert_eq!(u32_at(fadt, 112), 1 | 1 << 4 | 1 << 5 | 1 << 10 | 1 << 12 | 1 << 20);
    assert_eq!(layout::POWER_OFF_VALUE, 0x34);
}

#[test]
fn every_vcpu_and_the_io_apic_are_told() {
    let area = tables(&Shape { vcpu_count: 3, device_count: 0 });
    let [_, madt, _] = found(&area);
    assert_eq!((u32_at(madt, 36), u32_at(madt, 40)), (0xFEE0_0000, 0));
    let processors: Vec<&[u8]> = madt[44..68].chunks(8).collect();
    assert_eq!(processors, [[0, 8, 0, 0, 1, 0, 0, 0], [0, 8, 1, 1, 1, 0, 0, 0], [0, 8, 2, 2, 1, 0, 0, 0]]);
    assert_eq!(madt[68..], [1, 12, 0, 0, 0, 0, 0xC0, 0xFE, 0, 0, 0, 0]);
}

/// The DSDT's source as Intel's disassembler reads it.
fn disassembled(shape: &Shape) -> Option<String> {
    let place = tempfile::tempdir().unwrap();
    let area = tables(shape);
    for (table, name) in found(&area).into_iter().zip(["facp.dat", "apic.dat", "dsdt.dat"]) {
        let path = place.path().join(name);
        fs::write(&path, table).unwrap();
        let output = Command::new("iasl").arg("-d").arg(&path).output().ok()?;
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("Warning") && !said.contains("Error"), "{said}");
    }
    Some(fs::read_to_string(place.path().join("dsdt.dsl")).unwrap())
}

/// Words with one space between them and without comments, which differ between versions of the disassembler.
fn normal(source: &str) -> String {
    let lines = source.lines().map(|line| line.split("//").next().unwrap_or(line));
    let text = lines.collect::<Vec<&str>>().join(" ");
    let parts = text.split("/*").enumerate();
    let kept = parts.map(|(index, part)| if index == 0 { part } else { part.split_once("*/").unwrap().1 });
    kept.flat_map(str::split_whitespace).collect::<Vec<&str>>().join(" ").replace(" )", ")")
}

#[test]
fn intels_disassembler_reads_what_is_meant() {
    match disassembled(&Shape { vcpu_count: 1, device_count: 4 }) {
        Some(source) => assert_eq!(normal(&source), normal(include_str!("dsdt.golden"))),
        None => println!("skipped (no iasl on this machine)"),
    }
}
