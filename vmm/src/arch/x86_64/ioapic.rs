//! The I/O APIC as firmware would leave it.
//!
//! Linux trusts no I/O APIC: it looks at all pins for the one that firmware connected to the 8259, and
//! then clears each pin that firmware does not need itself, twelve accesses a pin. Every access is an
//! exit to the host kernel, which has to decode an instruction for it. A guest that finds the 8259's
//! pin first, and the pins that lead nowhere in firmware's hands, makes 250 accesses less.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, kvm_ioapic_state, kvm_ioapic_state__bindgen_ty_1, kvm_irqchip,
    kvm_irqchip__bindgen_ty_1,
};
use kvm_ioctls::VmFd;

use super::layout;
use crate::kvm::KvmError;

/// Redirection table entries (82093AA datasheet, section 3.2.4): delivery modes, and the mask bit.
const SMI: u64 = 0b010 << 8;
const EXT_INT: u64 = 0b111 << 8;
const MASKED: u64 = 1 << 16;

/// The pin that the 8259 is connected to. No device of ours is.
const PIC_PIN: usize = 0;

const PINS: usize = layout::GSI_COUNT as usize;

/// Leaves the pins of these interrupts to the guest and takes the others for firmware.
///
/// # Errors
/// When KVM refuses.
pub fn set_up(vm: &VmFd, gsis: impl Iterator<Item = u32>) -> Result<(), KvmError> {
    let redirtbl = redirections(gsis).map(|bits| kvm_ioapic_state__bindgen_ty_1 { bits });
    let ioapic = kvm_ioapic_state {
        base_address: u64::from(layout::IO_APIC),
        redirtbl,
        ..kvm_ioapic_state::default()
    };
    vm.set_irqchip(&kvm_irqchip {
        chip_id: KVM_IRQCHIP_IOAPIC,
        chip: kvm_irqchip__bindgen_ty_1 { ioapic },
        ..kvm_irqchip::default()
    })
    .map_err(KvmError::refused("set the I/O APIC"))
}

fn redirections(gsis: impl Iterator<Item = u32>) -> [u64; PINS] {
    let mut pins = [MASKED | SMI; PINS];
    for gsi in gsis {
        if let Some(pin) = usize::try_from(gsi).ok().and_then(|pin| pins.get_mut(pin)) {
            *pin = MASKED;
        }
    }
    pins[PIC_PIN] = EXT_INT;
    pins
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_devices_are_reset_and_no_other_is_the_guests() {
        let pins = redirections([4, 5, 23, 99].into_iter());
        assert_eq!(pins[0], 0x700);
        for pin in [4, 5, 23] {
            assert_eq!(pins[pin], 0x1_0000);
        }
        assert_eq!(pins.iter().filter(|pin| **pin == 0x1_0200).count(), 20);
    }
}
