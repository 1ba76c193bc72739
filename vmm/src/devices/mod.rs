//! The devices that a guest finds in its machine.

pub mod virtio;
