//! Interrupt lines in KVM.

use std::sync::{Arc, Mutex, PoisonError};

use kvm_ioctls::VmFd;

/// An edge-triggered line of KVM's interrupt controller.
///
/// An event descriptor (irqfd) would do, too, but KVM leaves one that stands for an I/O APIC's pin to a
/// worker of the host kernel, since it may have to wait for locks there: another thread would have to be
/// woken for each interrupt. The thread that pulls the line delivers the interrupt itself.
#[derive(Debug)]
pub struct IrqLine {
    vm: Arc<VmFd>,
    gsi: u32,
    /// Whose turn it is. Of two pulses at once the second would find the line up, which is no edge, and
    /// the guest would not hear of what it stands for.
    turn: Mutex<()>,
}

impl IrqLine {
    /// The line with this number (`Documentation/virt/kvm/api.rst`, section 4.25, `KVM_IRQ_LINE`).
    pub const fn new(vm: Arc<VmFd>, gsi: u32) -> Self {
        Self {
            vm,
            gsi,
            turn: Mutex::new(()),
        }
    }

    /// Raises the line and lowers it again.
    pub fn pulse(&self) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        for level in [true, false] {
            // It fails for a number that the controller has no pin for, and ours have one.
            let _ = self.vm.set_irq_line(self.gsi, level);
        }
    }
}
