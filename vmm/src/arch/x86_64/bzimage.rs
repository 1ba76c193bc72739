//! `bzImage` kernels, entered in 64-bit mode (Linux, Documentation/arch/x86/boot.rst, "64-bit Boot
//! Protocol").

use linux_loader::bootparam::{
    LOADED_HIGH, XLF_KERNEL_64, boot_e820_entry, boot_params, setup_header,
};
use vm_memory::{ByteValued, GuestAddress};

use super::layout::{self, RangeKind};
use super::loader::{LoadError, Payload, Placed, Source, too_little_memory};
use super::registers;
use crate::memory::{self, GuestRam, MemoryError};

/// Where the header lies in the file, and where its magic number does.
const HEADER_OFFSET: u64 = 0x1f1;
const MAGIC_OFFSET: u64 = 0x202;
const MAGIC: [u8; 4] = *b"HdrS";

/// The first version with `xloadflags`, Linux 3.8.
const MIN_VERSION: u16 = 0x020c;
/// Sectors of set-up code when the header says zero.
const DEFAULT_SETUP_SECTORS: u64 = 4;
const SECTOR: u64 = 512;
/// The unit of `syssize`.
const PARAGRAPH: u64 = 16;
/// The 64-bit entry point's offset in the protected-mode kernel.
const ENTRY_64: u64 = 0x200;
/// `type_of_loader` of loaders without a number of their own.
const LOADER_UNDEFINED: u8 = 0xff;

/// Types of memory map entries.
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// Page table entries: present and writable; a large page.
const PTE_PRESENT_RW: u64 = 0x3;
const PTE_LARGE: u64 = 0x80;

/// A kernel in guest memory.
#[derive(Debug)]
pub(super) struct Image {
    header: setup_header,
    end: u64,
}

impl Image {
    /// First address behind the kernel and the room in which it unpacks itself.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn entry(&self) -> GuestAddress {
        GuestAddress(layout::HIGH_MEMORY.0 + ENTRY_64)
    }

    /// The first address that the initramfs must not reach.
    pub(super) fn initramfs_limit(&self) -> u64 {
        u64::from(self.header.initrd_addr_max) + 1
    }
}

/// Loads the kernel at 1 MiB, where it unpacks itself from.
pub(super) fn load(ram: &GuestRam, low_end: u64, kernel: &Source<'_>) -> Result<Image, LoadError> {
    let header = read_header(kernel)?;
    let setup_sectors = match header.setup_sects {
        0 => DEFAULT_SETUP_SECTORS,
        sectors => u64::from(sectors),
    };
    let setup_size = (setup_sectors + 1) * SECTOR;
    let size = u64::from(header.syssize) * PARAGRAPH;
    // `syssize` is rounded up to a paragraph.
    kernel.require((setup_size + size).saturating_sub(PARAGRAPH - 1))?;
    let size = size.min(kernel.size.saturating_sub(setup_size));

    let unpacked = header.pref_address.checked_add(u64::from(header.init_size));
    let unpacked = unpacked.ok_or(LoadError::Malformed("its preferred address overflows"))?;
    let end = unpacked.max(layout::HIGH_MEMORY.0 + size);
    if end > low_end {
        return Err(too_little_memory(end, low_end));
    }
    memory::place_file(ram, layout::HIGH_MEMORY, kernel.file, setup_size, size)?;
    Ok(Image { header, end })
}

fn read_header(kernel: &Source<'_>) -> Result<setup_header, LoadError> {
    let known = HEADER_OFFSET + size_of::<setup_header>() as u64;
    if kernel.size < known || kernel.read::<4>(MAGIC_OFFSET)? != MAGIC {
        return Err(LoadError::UnknownFormat);
    }
    let mut header = setup_header::default();
    kernel.read_into(header.as_mut_slice(), HEADER_OFFSET)?;
    let (version, flags) = (header.version, header.xloadflags);
    if version < MIN_VERSION || flags & XLF_KERNEL_64 == 0 || header.loadflags & LOADED_HIGH == 0 {
        return Err(LoadError::NoEntry64 { version });
    }
    Ok(header)
}

/// Writes what a kernel entered in 64-bit mode finds: zero page, descriptor table, page tables.
pub(super) fn write_zero_page(
    ram: &GuestRam,
    ram_size: u64,
    image: &Image,
    payload: &Payload<'_>,
    initramfs: Option<Placed>,
) -> Result<(), LoadError> {
    let mut page = boot_params {
        hdr: image.header,
        ..boot_params::default()
    };
    page.hdr.type_of_loader = LOADER_UNDEFINED;
    page.hdr.code32_start = low_word(layout::HIGH_MEMORY.0)?;
    page.hdr.cmd_line_ptr = low_word(layout::COMMAND_LINE.0)?;
    page.hdr.cmdline_size = low_word(payload.cmdline.len() as u64)?;
    page.acpi_rsdp_addr = payload.rsdp.map_or(0, |rsdp| rsdp.0);
    if let Some(initramfs) = initramfs {
        page.hdr.ramdisk_image = low_word(initramfs.start.0)?;
        page.hdr.ramdisk_size = low_word(initramfs.size)?;
    }
    let mut table = page.e820_table;
    for (slot, (start, size, kind)) in table.iter_mut().zip(layout::memory_map(ram_size)) {
        let type_ = match kind {
            RangeKind::Ram => E820_RAM,
            RangeKind::Reserved => E820_RESERVED,
        };
        *slot = boot_e820_entry {
            addr: start.0,
            size,
            r#type: type_,
        };
        page.e820_entries += 1;
    }
    page.e820_table = table;
    memory::write(ram, layout::ZERO_PAGE, page.as_slice())?;
    let gdt = registers::descriptor_table();
    memory::write(ram, layout::GDT, &le_bytes(&gdt))?;
    write_page_tables(ram)?;
    Ok(())
}

/// Maps the first GiB to itself in 2 MiB pages: a page each of PML4, PDPT and page directory.
fn write_page_tables(ram: &GuestRam) -> Result<(), MemoryError> {
    let [pml4, pdpt, directory] =
        [0, 1, 2].map(|page| GuestAddress(layout::PAGE_TABLES.0 + page * memory::PAGE_SIZE));
    memory::write(ram, pml4, &(pdpt.0 | PTE_PRESENT_RW).to_le_bytes())?;
    memory::write(ram, pdpt, &(directory.0 | PTE_PRESENT_RW).to_le_bytes())?;
    let entries: Vec<u64> = (0..512)
        .map(|i| i << 21 | PTE_PRESENT_RW | PTE_LARGE)
        .collect();
    memory::write(ram, directory, &le_bytes(&entries))
}

fn le_bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Addresses and sizes here are below the device gap.
fn low_word(value: u64) -> Result<u32, LoadError> {
    u32::try_from(value).map_err(|_| LoadError::Malformed("an address is beyond 4 GiB"))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use proptest::prelude::*;
    use vm_memory::Bytes;

    use super::*;

    const MIB: u64 = 1 << 20;
    const KERNEL_SIZE: usize = 0x3000;

    fn header() -> setup_header {
        setup_header {
            setup_sects: 7,
            syssize: u32::try_from(KERNEL_SIZE / 16).unwrap(),
            header: u32::from_le_bytes(MAGIC),
            version: 0x020f,
            loadflags: LOADED_HIGH,
            xloadflags: XLF_KERNEL_64,
            initrd_addr_max: 0x7fff_ffff,
            pref_address: 16 * MIB,
            init_size: 0x10_0000,
            ..setup_header::default()
        }
    }

    fn kernel(header: &setup_header) -> Vec<u8> {
        let mut file = vec![0; 8 * 512 + KERNEL_SIZE];
        let at = usize::try_from(HEADER_OFFSET).unwrap();
        file[at..at + size_of::<setup_header>()].copy_from_slice(header.as_slice());
        file[8 * 512..].fill(0x90);
        file
    }

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn load_bytes(bytes: &[u8], memory: u64) -> Result<Image, LoadError> {
        let ram = memory::allocate(&[(GuestAddress(0), memory)]).unwrap();
        let file = file_of(bytes);
        load(&ram, memory, &Source::of(&file).unwrap())
    }

    #[test]
    fn kernel_is_at_one_mib_and_keeps_room_to_unpack() {
        let ram = memory::allocate(&[(GuestAddress(0), 32 * MIB)]).unwrap();
        let file = file_of(&kernel(&header()));
        let image = load(&ram, 32 * MIB, &Source::of(&file).unwrap()).unwrap();
        assert_eq!(image.end(), 17 * MIB);
        let mut code = [0; KERNEL_SIZE];
        ram.read_slice(&mut code, layout::HIGH_MEMORY).unwrap();
        assert_eq!(code, [0x90; KERNEL_SIZE]);
    }

    #[test]
    fn garbage_is_an_unknown_format() {
        assert!(matches!(
            load_bytes(&[0x5a; 8192], 32 * MIB),
            Err(LoadError::UnknownFormat)
        ));
        assert!(matches!(
            load_bytes(b"short", 32 * MIB),
            Err(LoadError::UnknownFormat)
        ));
    }

    #[test]
    fn truncated_kernel_is_refused() {
        let file = kernel(&header());
        let error = load_bytes(&file[..file.len() - 512], 32 * MIB).unwrap_err();
        assert!(matches!(error, LoadError::Truncated { .. }), "{error}");
    }

    #[test]
    fn kernel_without_64_bit_entry_is_refused() {
        let old = setup_header {
            version: 0x0208,
            ..header()
        };
        let narrow = setup_header {
            xloadflags: 0,
            ..header()
        };
        for header in [old, narrow] {
            let error = load_bytes(&kernel(&header), 32 * MIB).unwrap_err();
            assert!(matches!(error, LoadError::NoEntry64 { .. }), "{error}");
        }
    }

    #[test]
    fn kernel_that_cannot_unpack_in_memory_is_refused() {
        assert!(matches!(
            load_bytes(&kernel(&header()), 16 * MIB),
            Err(LoadError::TooLittleMemory {
                needed_mib: 17,
                found_mib: 16
            })
        ));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn damaged_headers_never_panic(
            damage in prop::collection::vec((0x1f1..0x26c_usize, any::<u8>()), 1..8)
        ) {
            let mut file = kernel(&header());
            for (at, value) in damage {
                file[at] = value;
            }
            let _ = load_bytes(&file, 32 * MIB);
        }
    }
}
