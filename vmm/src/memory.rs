//! Guest memory: what backs it and where it lies.

use vm_memory::{GuestMemoryMmap, atomic::GuestMemoryAtomic};

/// The guest's memory map.
pub type GuestRam = GuestMemoryMmap<()>;

/// A handle to the guest's memory that devices hold and clone.
pub type GuestRamHandle = GuestMemoryAtomic<GuestRam>;
