//! The devices that a guest finds in its machine.

pub mod power;
pub mod serial;
pub mod virtio;

use std::fmt;

use crate::kvm::IrqLine;

/// What a device interrupts its guest by: a line that is edge-triggered, and whose edge is never lost.
pub trait InterruptLine: fmt::Debug + Send + Sync {
    /// Raises the line and lowers it again.
    fn pulse(&self);
}

impl InterruptLine for IrqLine {
    fn pulse(&self) {
        Self::pulse(self);
    }
}
