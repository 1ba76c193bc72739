//! A small KVM virtual machine monitor that knows nothing of agents, tiers or images.

pub mod config;
pub mod control;
pub mod devices;
pub mod memory;
