//! Register contents at the guest's first instruction.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::GuestAddress;

use super::layout;

/// How the boot vCPU enters the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryMode {
    /// 32-bit protected mode without paging, start information in EBX (PVH).
    Pvh,
    /// 64-bit mode with the first GiB mapped to itself, zero page in RSI (Linux/x86 boot protocol).
    Linux64,
}

/// CR0: protected mode, extension type, paging.
const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
/// CR4: physical address extension.
const CR4_PAE: u64 = 1 << 5;
/// EFER: long mode enabled and active.
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// The bit of RFLAGS that is always set.
const RFLAGS_RESERVED: u64 = 1 << 1;

/// Selectors that the Linux boot protocol demands: `__BOOT_CS` and `__BOOT_DS`.
const BOOT_CS: u16 = 0x10;
const BOOT_DS: u16 = 0x18;
const BOOT_TSS: u16 = 0x20;

/// Segment types (Intel SDM, volume 3, section 3.5).
const TYPE_DATA: u8 = 0x3;
const TYPE_CODE: u8 = 0xb;
const TYPE_BUSY_TSS: u8 = 0xb;

/// The general registers at entry.
pub(super) fn general(mode: EntryMode, entry: GuestAddress) -> kvm_regs {
    let registers = kvm_regs {
        rip: entry.0,
        rflags: RFLAGS_RESERVED,
        ..kvm_regs::default()
    };
    match mode {
        EntryMode::Pvh => kvm_regs {
            rbx: layout::PVH_START_INFO.0,
            ..registers
        },
        EntryMode::Linux64 => kvm_regs {
            rsi: layout::ZERO_PAGE.0,
            rsp: layout::BOOT_STACK.0,
            rbp: layout::BOOT_STACK.0,
            ..registers
        },
    }
}

/// Changes the special registers from what KVM starts a vCPU with to what the kernel expects.
pub(super) fn special(mode: EntryMode, registers: &mut kvm_sregs) {
    let long = mode == EntryMode::Linux64;
    registers.cs = segment(BOOT_CS, TYPE_CODE, long);
    let data = segment(BOOT_DS, TYPE_DATA, false);
    registers.ds = data;
    registers.es = data;
    registers.fs = data;
    registers.gs = data;
    registers.ss = data;
    registers.tr = task_state();
    match mode {
        // The kernel loads tables of its own before it touches a segment register.
        EntryMode::Pvh => {
            registers.gdt.limit = 0;
            registers.cr0 = CR0_PE | CR0_ET;
            registers.cr4 = 0;
        }
        EntryMode::Linux64 => {
            registers.gdt.base = layout::GDT.0;
            registers.gdt.limit = GDT_LIMIT;
            registers.cr0 = CR0_PE | CR0_ET | CR0_PG;
            registers.cr3 = layout::PAGE_TABLES.0;
            registers.cr4 = CR4_PAE;
            registers.efer |= EFER_LME | EFER_LMA;
        }
    }
    registers.idt.base = 0;
    registers.idt.limit = 0;
}

/// The table that the segments of [`EntryMode::Linux64`] are loaded from, without its task state:
/// null, unused, `__BOOT_CS`, `__BOOT_DS`.
pub(super) fn descriptor_table() -> [u64; 4] {
    [
        0,
        0,
        descriptor(&segment(BOOT_CS, TYPE_CODE, true)),
        descriptor(&segment(BOOT_DS, TYPE_DATA, false)),
    ]
}

const GDT_LIMIT: u16 = 4 * 8 - 1;

/// A flat 4 GiB segment.
fn segment(selector: u16, type_: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..kvm_segment::default()
    }
}

fn task_state() -> kvm_segment {
    kvm_segment {
        limit: 0x67,
        selector: BOOT_TSS,
        type_: TYPE_BUSY_TSS,
        present: 1,
        ..kvm_segment::default()
    }
}

/// A segment as it lies in a descriptor table (Intel SDM, volume 3, figure 3-8).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(segment.limit >> 12);
    let access = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7;
    let flags = u64::from(segment.l) << 1 | u64::from(segment.db) << 2 | u64::from(segment.g) << 3;
    (limit & 0xffff) | access << 40 | (limit >> 16) << 48 | flags << 52
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_those_of_the_boot_protocol() {
        assert_eq!(
            descriptor_table(),
            [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]
        );
    }

    #[test]
    fn pvh_enters_in_protected_mode_without_paging() {
        let mut registers = kvm_sregs::default();
        special(EntryMode::Pvh, &mut registers);
        assert_eq!(registers.cr0 & (CR0_PE | CR0_PG), CR0_PE);
        assert_eq!((registers.cs.l, registers.cs.db), (0, 1));
        assert_eq!(
            general(EntryMode::Pvh, GuestAddress(0x100)).rbx,
            layout::PVH_START_INFO.0
        );
    }

    #[test]
    fn linux_enters_in_long_mode() {
        let mut registers = kvm_sregs::default();
        special(EntryMode::Linux64, &mut registers);
        assert_ne!(registers.cr0 & CR0_PG, 0);
        assert_eq!(registers.efer, EFER_LME | EFER_LMA);
        assert_eq!((registers.cs.l, registers.cs.db), (1, 0));
    }
}
