//! Where things lie in the guest's physical address space.
//!
//! ```text
//! 0x0000_0000  RAM: boot data (see below)
//! 0x0009_fc00  MP tables, then a hole up to 1 MiB with the ACPI tables at 0x000e_0000
//! 0x0010_0000  RAM: the kernel where it wants to be, the initramfs at the end
//! 0xc000_0000  end of low RAM at the latest; from here on device memory
//! 0xd000_0000  virtio-mmio register windows, 4 KiB each
//! 0xfec0_0000  IOAPIC
//! 0xfee0_0000  local APICs
//! 0xfffb_c000  pages that KVM needs on Intel hosts
//! 0x1_0000_0000  RAM beyond 3 GiB
//! ```

use vm_memory::GuestAddress;

/// The global descriptor table for kernels entered in 64-bit mode.
pub const GDT: GuestAddress = GuestAddress(0x500);
/// PVH start information (`struct hvm_start_info`), its module list and memory map behind it.
pub const PVH_START_INFO: GuestAddress = GuestAddress(0x6000);
/// The zero page (`struct boot_params`) for kernels entered in 64-bit mode.
pub const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
/// Where the initial stack pointer points for kernels entered in 64-bit mode.
pub const BOOT_STACK: GuestAddress = GuestAddress(0x8ff0);
/// Page tables that map the first GiB to itself: three pages.
pub const PAGE_TABLES: GuestAddress = GuestAddress(0x9000);
/// The kernel's command line.
pub const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
/// MP tables: the last KiB of conventional memory, one of the places where kernels look for them.
pub const MP_TABLES: GuestAddress = GuestAddress(0x9_fc00);
/// End of conventional memory.
pub const CONVENTIONAL_END: u64 = 0x9_fc00;
/// ACPI tables, in the BIOS area where kernels look for their root pointer.
pub const ACPI_TABLES: GuestAddress = GuestAddress(0xe_0000);
/// How much room the ACPI tables have.
pub const ACPI_TABLES_SIZE: u64 = 0x1_f000;
/// Where a PC's firmware starts in real mode.
pub const RESET_VECTOR: GuestAddress = GuestAddress(0xf_fff0);
/// Start of memory above 1 MiB.
pub const HIGH_MEMORY: GuestAddress = GuestAddress(0x10_0000);

/// Low RAM ends here at the latest.
pub const DEVICE_GAP: GuestAddress = GuestAddress(0xc000_0000);
/// RAM that does not fit below the gap goes on here.
pub const ABOVE_GAP: GuestAddress = GuestAddress(0x1_0000_0000);
/// The first virtio-mmio register window.
pub const VIRTIO_MMIO: GuestAddress = GuestAddress(0xd000_0000);
/// The size of a virtio-mmio register window.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;
/// The I/O APIC.
pub const IO_APIC: u32 = 0xfec0_0000;
/// The local APICs.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that KVM uses on Intel hosts to run real mode.
pub const KVM_TSS: usize = 0xfffb_d000;

/// Port of the first UART.
pub const SERIAL_PORT: u16 = 0x3f8;
/// Number of the UART's ports.
pub const SERIAL_PORTS: u16 = 8;
/// Interrupt of the first UART.
pub const SERIAL_GSI: u32 = 4;
/// Command port of the keyboard controller, by which PCs are reset.
pub const RESET_PORT: u16 = 0x64;
/// ACPI sleep control register; the status register is the next port.
pub const SLEEP_PORT: u16 = 0x600;

/// The I/O APIC's pins.
pub const GSI_COUNT: u32 = 24;

/// Interrupts for virtio devices, in order: those below 16 that no PC device owns by tradition, since
/// a kernel that learns of its devices from the command line sets up no others.
pub const VIRTIO_GSIS: [u32; 10] = [5, 6, 7, 9, 10, 11, 12, 13, 14, 15];

/// A virtio-mmio device's place in the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtioSlot {
    /// Number of the device, from 0.
    pub index: u8,
    /// Start of its register window.
    pub base: GuestAddress,
    /// Its interrupt.
    pub gsi: u32,
}

impl VirtioSlot {
    /// The places for virtio devices, in the order in which the guest finds them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0_u8..).zip(VIRTIO_GSIS).map(|(index, gsi)| Self {
            index,
            base: GuestAddress(VIRTIO_MMIO.0 + u64::from(index) * VIRTIO_MMIO_SIZE),
            gsi,
        })
    }
}

/// Where `size` bytes of RAM lie.
#[must_use]
pub fn ram_ranges(size: u64) -> Vec<(GuestAddress, u64)> {
    let low = size.min(DEVICE_GAP.0);
    let mut ranges = vec![(GuestAddress(0), low)];
    if size > low {
        ranges.push((ABOVE_GAP, size - low));
    }
    ranges
}

/// What the guest may use a range of addresses for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeKind {
    /// As it likes.
    Ram,
    /// Not at all: it holds tables.
    Reserved,
}

/// The memory map that the guest is told, lowest first: start, size, kind.
#[must_use]
pub fn memory_map(size: u64) -> Vec<(GuestAddress, u64, RangeKind)> {
    let mut map = vec![
        (GuestAddress(0), CONVENTIONAL_END, RangeKind::Ram),
        (
            GuestAddress(CONVENTIONAL_END),
            HIGH_MEMORY.0 - CONVENTIONAL_END,
            RangeKind::Reserved,
        ),
    ];
    for (start, length) in ram_ranges(size) {
        if start.0 == 0 {
            map.push((
                HIGH_MEMORY,
                length.saturating_sub(HIGH_MEMORY.0),
                RangeKind::Ram,
            ));
        } else {
            map.push((start, length, RangeKind::Ram));
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn small_memory_is_one_range_below_the_gap() {
        assert_eq!(ram_ranges(128 * MIB), [(GuestAddress(0), 128 * MIB)]);
        assert_eq!(ram_ranges(3072 * MIB), [(GuestAddress(0), 3072 * MIB)]);
    }

    #[test]
    fn memory_beyond_the_gap_goes_on_at_four_gib() {
        assert_eq!(
            ram_ranges(3073 * MIB),
            [
                (GuestAddress(0), 3072 * MIB),
                (GuestAddress(4096 * MIB), MIB)
            ]
        );
    }

    #[test]
    fn memory_map_covers_all_ram_but_the_tables() {
        let map = memory_map(8192 * MIB);
        let ram: u64 = map
            .iter()
            .filter(|r| r.2 == RangeKind::Ram)
            .map(|r| r.1)
            .sum();
        assert_eq!(ram, 8192 * MIB - (HIGH_MEMORY.0 - CONVENTIONAL_END));
        assert!(
            map.windows(2)
                .all(|pair| pair[0].0.0 + pair[0].1 <= pair[1].0.0)
        );
    }

    #[test]
    fn every_virtio_slot_has_a_window_and_interrupt_of_its_own() {
        let slots: Vec<_> = VirtioSlot::all().collect();
        assert_eq!(slots.len(), 10);
        for (i, a) in slots.iter().enumerate() {
            for b in &slots[i + 1..] {
                assert!(a.gsi != b.gsi && a.base != b.base);
            }
            assert!(a.gsi != SERIAL_GSI && a.gsi < GSI_COUNT);
        }
    }
}
