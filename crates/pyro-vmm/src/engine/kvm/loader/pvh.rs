//! What a kernel is told at its PVH entry: Xen's `include/public/arch-x86/hvm/start_info.h`, version 1.

use vm_memory::{Bytes, GuestAddress};

use super::LoadError;
use crate::engine::kvm::layout::{self, Range};
use crate::engine::kvm::memory::GuestRam;

const MAGIC: u32 = 0x336E_C578;
const VERSION: u32 = 1;
/// The list of modules follows the start information, with room for what later versions add.
const MODULES_ADDRESS: u64 = layout::START_INFO_ADDRESS + 0x100;

/// Writes start information, the list of modules and the memory map. An empty `module` is none.
pub(super) fn write(module: Range, ram: &GuestRam) -> Result<(), LoadError> {
    let map = layout::memory_map(ram.len_bytes());
    let write = |bytes: Vec<u8>, address| ram.memory().write_slice(&bytes, GuestAddress(address));
    write(start_info(module.len_bytes > 0, map.len() as u32), layout::START_INFO_ADDRESS)?;
    write(modules(module), MODULES_ADDRESS)?;
    write(map.into_iter().flat_map(memory_map_entry).collect(), layout::MEMORY_MAP_ADDRESS)?;
    Ok(())
}

/// `struct hvm_start_info`.
fn start_info(has_module: bool, memory_map_entries: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(MAGIC.to_le_bytes());
    bytes.extend(VERSION.to_le_bytes());
    // Flags: not the first domain, no privileges.
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(u32::from(has_module).to_le_bytes());
    bytes.extend(MODULES_ADDRESS.to_le_bytes());
    bytes.extend(layout::COMMAND_LINE_ADDRESS.to_le_bytes());
    bytes.extend(layout::RSDP_ADDRESS.to_le_bytes());
    bytes.extend(layout::MEMORY_MAP_ADDRESS.to_le_bytes());
    bytes.extend(memory_map_entries.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes
}

/// `struct hvm_modlist_entry`; the module has no command line of its own.
fn modules(module: Range) -> Vec<u8> {
    [module.start, module.len_bytes, 0, 0].into_iter().flat_map(u64::to_le_bytes).collect()
}

/// `struct hvm_memmap_table_entry`.
fn memory_map_entry((range, kind): (Range, layout::Use)) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(range.start.to_le_bytes());
    bytes.extend(range.len_bytes.to_le_bytes());
    bytes.extend((kind as u32).to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes
}
