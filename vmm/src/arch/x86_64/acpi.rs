//! ACPI tables (specification 6.5), by which distribution kernels learn of the machine.
//!
//! The machine is "hardware-reduced" (section 4.1): no PM timer, no SCI, no legacy interrupt
//! controller or timer. It is switched off by the sleep control register and reset by the keyboard
//! controller's command port.

use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use vm_memory::GuestAddress;

use super::layout::{self, VirtioSlot};
use super::topology::Topology;
use crate::devices::power;
use crate::memory::{self, GuestRam, MemoryError};

const OEM_ID: [u8; 6] = *b"SOVRGN";
const OEM_TABLE_ID: [u8; 8] = *b"MICROVM ";
const OEM_REVISION: u32 = 1;
/// Tables start at multiples of this.
const ALIGNMENT: u64 = 16;
const SDT_HEADER: u32 = 36;
const DSDT_REVISION: u8 = 2;

/// Writes the tables and returns the address of the root pointer.
///
/// # Errors
/// When guest memory is too small for them.
pub fn write_tables(
    ram: &GuestRam,
    topology: Topology,
    virtio: &[VirtioSlot],
) -> Result<GuestAddress, MemoryError> {
    let rsdp_at = layout::ACPI_TABLES;
    let mut place = Placer {
        ram,
        next: rsdp_at.0 + Rsdp::len() as u64,
    };
    let dsdt_at = place.put(&dsdt(topology, virtio))?;
    let fadt_at = place.put(&fadt(dsdt_at))?;
    let madt_at = place.put(&madt(topology))?;
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt_at);
    xsdt.add_entry(madt_at);
    let xsdt_at = place.put(&xsdt)?;
    memory::write(ram, rsdp_at, &bytes(&Rsdp::new(OEM_ID, xsdt_at)))?;
    Ok(rsdp_at)
}

/// Puts one table behind the other.
struct Placer<'a> {
    ram: &'a GuestRam,
    next: u64,
}

impl Placer<'_> {
    fn put(&mut self, table: &dyn Aml) -> Result<u64, MemoryError> {
        let at = self.next.next_multiple_of(ALIGNMENT);
        let bytes = bytes(table);
        let size = bytes.len() as u64;
        if at + size > layout::ACPI_TABLES.0 + layout::ACPI_TABLES_SIZE {
            return Err(MemoryError::OutOfRange { at, size });
        }
        memory::write(self.ram, GuestAddress(at), &bytes)?;
        self.next = at + size;
        Ok(at)
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn fadt(dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        // No power or sleep button as fixed hardware.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.reset_reg = port(layout::RESET_PORT);
    fadt.reset_value = power::RESET_COMMAND;
    fadt.sleep_control_reg = port(layout::SLEEP_PORT);
    fadt.sleep_status_reg = port(layout::SLEEP_PORT + 1);
    fadt.finalize()
}

/// A register of one byte.
fn port(number: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        u64::from(number),
    )
}

fn madt(topology: Topology) -> impl Aml {
    let controller = LocalInterruptController::Address(layout::LOCAL_APIC);
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, controller);
    for vcpu in 0..topology.cores() {
        let apic_id = topology.apic_id(vcpu);
        madt.add_structure(ProcessorLocalApic::new(
            vcpu,
            apic_id,
            EnabledStatus::Enabled,
        ));
    }
    madt.add_structure(IoApic::new(topology.io_apic_id(), layout::IO_APIC, 0));
    madt
}

fn dsdt(topology: Topology, virtio: &[VirtioSlot]) -> Sdt {
    let mut aml = Vec::new();
    // Section 7.4.2: the first two elements are the values for PM1a and PM1b; the sleep control
    // register takes the first.
    let s5 = Package::new(vec![&power::SLEEP_TYPE_OFF, &0_u8, &0_u8, &0_u8]);
    Name::new("_S5_".into(), &s5).to_aml_bytes(&mut aml);
    let mut devices = Vec::new();
    for vcpu in 0..topology.cores() {
        add_cpu(&mut devices, vcpu);
    }
    add_serial(&mut devices);
    for slot in virtio {
        add_virtio(&mut devices, *slot);
    }
    aml.extend_from_slice(&Scope::raw("_SB_".into(), devices));
    let mut dsdt = Sdt::new(
        *b"DSDT",
        SDT_HEADER,
        DSDT_REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    dsdt.append_slice(&aml);
    dsdt
}

fn add_cpu(aml: &mut dyn AmlSink, vcpu: u8) {
    Device::new(
        format!("C{vcpu:03X}").as_str().into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0007"),
            &Name::new("_UID".into(), &vcpu),
        ],
    )
    .to_aml_bytes(aml);
}

fn add_serial(aml: &mut dyn AmlSink) {
    let ports = IO::new(
        layout::SERIAL_PORT,
        layout::SERIAL_PORT,
        1,
        layout::SERIAL_PORTS.to_le_bytes()[0],
    );
    let interrupt = edge_interrupt(layout::SERIAL_GSI);
    let resources = ResourceTemplate::new(vec![&ports, &interrupt]);
    Device::new(
        "COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &0_u8),
            &Name::new("_CRS".into(), &resources),
        ],
    )
    .to_aml_bytes(aml);
}

fn add_virtio(aml: &mut dyn AmlSink, slot: VirtioSlot) {
    let [base, size] = [slot.base.0, layout::VIRTIO_MMIO_SIZE].map(|value| {
        let [a, b, c, d, ..] = value.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    });
    let window = Memory32Fixed::new(true, base, size);
    let interrupt = edge_interrupt(slot.gsi);
    let resources = ResourceTemplate::new(vec![&window, &interrupt]);
    Device::new(
        format!("V{:03X}", slot.index).as_str().into(),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &slot.index),
            &Name::new("_CCA".into(), &1_u8),
            &Name::new("_CRS".into(), &resources),
        ],
    )
    .to_aml_bytes(aml);
}

/// Edge-triggered, active high, of one device alone: what an `IrqLine` is.
fn edge_interrupt(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    fn ram() -> GuestRam {
        memory::allocate(&[(GuestAddress(0), 2 << 20)]).unwrap()
    }

    fn table_at(ram: &GuestRam, at: u64) -> Vec<u8> {
        let length: u32 = ram.read_obj(GuestAddress(at + 4)).unwrap();
        let mut table = vec![0; length as usize];
        ram.read_slice(&mut table, GuestAddress(at)).unwrap();
        table
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes
            .iter()
            .fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_can_be_found_and_adds_up() {
        let ram = ram();
        let slots: Vec<_> = VirtioSlot::all().collect();
        let rsdp = write_tables(&ram, Topology::new(32), &slots).unwrap();

        let mut root = [0; 36];
        ram.read_slice(&mut root, rsdp).unwrap();
        assert_eq!((&root[..8], sum(&root)), (b"RSD PTR ".as_slice(), 0));
        let xsdt = table_at(&ram, u64::from_le_bytes(root[24..32].try_into().unwrap()));
        assert_eq!((&xsdt[..4], sum(&xsdt)), (b"XSDT".as_slice(), 0));
        for (entry, signature) in xsdt[36..].chunks(8).zip([b"FACP", b"APIC"]) {
            let table = table_at(&ram, u64::from_le_bytes(entry.try_into().unwrap()));
            assert_eq!((&table[..4], sum(&table)), (signature.as_slice(), 0));
            if signature == b"FACP" {
                let dsdt = table_at(
                    &ram,
                    u64::from_le_bytes(table[140..148].try_into().unwrap()),
                );
                assert_eq!((&dsdt[..4], sum(&dsdt)), (b"DSDT".as_slice(), 0));
                assert_eq!(dsdt.windows(8).filter(|w| w == b"LNRO0005").count(), 10);
                assert_eq!(dsdt.windows(8).filter(|w| w == b"ACPI0007").count(), 32);
            }
        }
    }
}
