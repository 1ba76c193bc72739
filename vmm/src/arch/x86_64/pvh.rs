//! Start information of the PVH boot protocol (Xen's `include/public/arch-x86/hvm/start_info.h`).

use linux_loader::start_info::{
    XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_MEMMAP_TYPE_RESERVED, XEN_HVM_START_MAGIC_VALUE,
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{ByteValued, GuestAddress};

use super::layout::{self, RangeKind};
use super::loader::{Payload, Placed};
use crate::memory::{self, GuestRam, MemoryError};

/// Offsets from the start information, which is 56 bytes long, of what it points to.
const MODULES: u64 = 0x40;
const MEMORY_MAP: u64 = 0x60;

/// Writes the structure that EBX points to at entry, and what it points to in turn.
pub(super) fn write_start_info(
    ram: &GuestRam,
    ram_size: u64,
    payload: &Payload<'_>,
    initramfs: Option<Placed>,
) -> Result<(), MemoryError> {
    let at = |offset| GuestAddress(layout::PVH_START_INFO.0 + offset);
    let mut entries = 0;
    for (start, size, kind) in layout::memory_map(ram_size) {
        let entry = hvm_memmap_table_entry {
            addr: start.0,
            size,
            type_: match kind {
                RangeKind::Ram => XEN_HVM_MEMMAP_TYPE_RAM,
                RangeKind::Reserved => XEN_HVM_MEMMAP_TYPE_RESERVED,
            },
            reserved: 0,
        };
        let offset = u64::from(entries) * size_of::<hvm_memmap_table_entry>() as u64;
        memory::write(ram, at(MEMORY_MAP + offset), entry.as_slice())?;
        entries += 1;
    }
    if let Some(initramfs) = initramfs {
        let module = hvm_modlist_entry {
            paddr: initramfs.start.0,
            size: initramfs.size,
            ..hvm_modlist_entry::default()
        };
        memory::write(ram, at(MODULES), module.as_slice())?;
    }
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        flags: 0,
        nr_modules: u32::from(initramfs.is_some()),
        modlist_paddr: at(MODULES).0,
        cmdline_paddr: layout::COMMAND_LINE.0,
        rsdp_paddr: payload.rsdp.map_or(0, |rsdp| rsdp.0),
        memmap_paddr: at(MEMORY_MAP).0,
        memmap_entries: entries,
        reserved: 0,
    };
    memory::write(ram, layout::PVH_START_INFO, info.as_slice())
}
