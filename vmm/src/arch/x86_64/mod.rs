//! x86_64: the machine as a Linux or other PVH guest finds it.

pub mod acpi;
mod bzimage;
pub mod cpu;
pub mod cpuid;
mod elf;
pub mod ioapic;
pub mod layout;
pub mod loader;
pub mod mptable;
mod pvh;
mod registers;
pub mod topology;
