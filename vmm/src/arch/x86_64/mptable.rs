//! Intel MultiProcessor tables (specification 1.4), by which a kernel without ACPI learns of its CPUs
//! and of the I/O APIC.

use super::layout;
use super::topology::Topology;

/// Sizes of the structures, in bytes.
const FLOATING_POINTER_SIZE: usize = 16;
const HEADER_SIZE: usize = 44;
/// Revision 1.4 (section 4.1).
const SPEC_REVISION: u8 = 4;

/// Entry types (section 4.3).
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

/// Processor flags (section 4.3.1): usable, and the one that boots.
const CPU_ENABLED: u8 = 1;
const CPU_BOOT: u8 = 2;
/// Version of integrated APICs.
const APIC_VERSION: u8 = 0x14;
/// I/O APIC flag: usable (section 4.3.3).
const IO_APIC_ENABLED: u8 = 1;

/// Interrupt types (section 4.3.4).
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;
/// Destination of a local interrupt: all local APICs (section 4.3.5).
const ALL_LOCAL_APICS: u8 = 0xff;
/// The one bus.
const ISA_BUS: u8 = 0;

/// The tables, as they are to lie at [`layout::MP_TABLES`], with the interrupts that are in use: a
/// kernel sets up every pin that is listed, at some 20 accesses to the I/O APIC each.
#[must_use]
pub fn tables(topology: Topology, gsis: impl Iterator<Item = u32>) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut count = 0_u16;
    let mut add = |entry: &[u8]| {
        entries.extend_from_slice(entry);
        count += 1;
    };
    for vcpu in 0..topology.cores() {
        let boot = if vcpu == 0 { CPU_BOOT } else { 0 };
        add(&processor(topology.apic_id(vcpu), CPU_ENABLED | boot));
    }
    add(&[BUS, ISA_BUS, b'I', b'S', b'A', b' ', b' ', b' ']);
    add(&io_apic(topology.io_apic_id()));
    for pin in gsis.map(|gsi| gsi.to_le_bytes()[0]) {
        // Flags 0: polarity and trigger as on ISA, active high and edge.
        add(&[
            IO_INTERRUPT,
            INT,
            0,
            0,
            ISA_BUS,
            pin,
            topology.io_apic_id(),
            pin,
        ]);
    }
    add(&[LOCAL_INTERRUPT, EXT_INT, 0, 0, ISA_BUS, 0, 0, 0]);
    add(&[LOCAL_INTERRUPT, NMI, 0, 0, ISA_BUS, 0, ALL_LOCAL_APICS, 1]);

    let mut bytes = floating_pointer().to_vec();
    bytes.extend_from_slice(&configuration_table(&entries, count));
    bytes
}

/// Section 4.3.1; the signature and features are informative, and left to CPUID.
fn processor(apic_id: u8, flags: u8) -> [u8; 20] {
    let mut entry = [0; 20];
    entry[..4].copy_from_slice(&[PROCESSOR, apic_id, APIC_VERSION, flags]);
    entry
}

fn io_apic(id: u8) -> [u8; 8] {
    let address = layout::IO_APIC.to_le_bytes();
    let mut entry = [IO_APIC, id, APIC_VERSION, IO_APIC_ENABLED, 0, 0, 0, 0];
    entry[4..].copy_from_slice(&address);
    entry
}

/// Section 4.1: where the configuration table is.
fn floating_pointer() -> [u8; FLOATING_POINTER_SIZE] {
    let table = low_word(layout::MP_TABLES.0 + FLOATING_POINTER_SIZE as u64);
    let mut pointer = [0; FLOATING_POINTER_SIZE];
    pointer[..4].copy_from_slice(b"_MP_");
    pointer[4..8].copy_from_slice(&table.to_le_bytes());
    pointer[8] = 1; // length in paragraphs
    pointer[9] = SPEC_REVISION;
    pointer[10] = checksum(&pointer);
    pointer
}

/// Section 4.2.
fn configuration_table(entries: &[u8], count: u16) -> Vec<u8> {
    let mut table = vec![0; HEADER_SIZE];
    let length = u16::try_from(HEADER_SIZE + entries.len()).unwrap_or(u16::MAX);
    table[..4].copy_from_slice(b"PCMP");
    table[4..6].copy_from_slice(&length.to_le_bytes());
    table[6] = SPEC_REVISION;
    table[8..16].copy_from_slice(b"SOVEREIG");
    table[16..28].copy_from_slice(b"microvm     ");
    table[34..36].copy_from_slice(&count.to_le_bytes());
    table[36..40].copy_from_slice(&layout::LOCAL_APIC.to_le_bytes());
    table.extend_from_slice(entries);
    table[7] = checksum(&table);
    table
}

/// The byte that makes all bytes add up to zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0_u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

const fn low_word(address: u64) -> u32 {
    (address & 0xffff_ffff) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes
            .iter()
            .fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn tables_for_the_most_vcpus_fit_into_their_place() {
        let size = tables(
            Topology::new(crate::config::MAX_VCPUS),
            0..layout::GSI_COUNT,
        )
        .len() as u64;
        assert!(layout::MP_TABLES.0 + size <= 0xa_0000, "{size} bytes");
    }

    #[test]
    fn both_checksums_are_right() {
        let bytes = tables(Topology::new(3), [4, 5].into_iter());
        assert_eq!(sum(&bytes[..FLOATING_POINTER_SIZE]), 0);
        assert_eq!(sum(&bytes[FLOATING_POINTER_SIZE..]), 0);
    }

    #[test]
    fn one_processor_boots_and_all_are_usable() {
        let bytes = tables(Topology::new(4), [4].into_iter());
        let processors: Vec<_> = bytes[FLOATING_POINTER_SIZE + HEADER_SIZE..]
            .chunks(20)
            .take(4)
            .map(|entry| (entry[1], entry[3]))
            .collect();
        assert_eq!(processors, [(0, 3), (1, 1), (2, 1), (3, 1)]);
    }
}
