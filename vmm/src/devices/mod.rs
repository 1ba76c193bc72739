//! The devices that a guest finds in its machine.

pub mod power;
pub mod serial;
pub mod virtio;
