//! Guest memory as KVM's memory slots.

// UNSAFETY: KVM is told host addresses, at which the guest will read and write.
#![expect(
    unsafe_code,
    reason = "KVM_SET_USER_MEMORY_REGION takes raw host addresses"
)]

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use super::KvmError;
use crate::memory::GuestRam;

/// Gives guest memory to the virtual machine, one slot a region.
///
/// The caller keeps `ram` for as long as `vm` has vCPUs.
///
/// # Errors
/// When KVM refuses a slot.
pub fn map_memory(vm: &VmFd, ram: &GuestRam) -> Result<(), KvmError> {
    for (slot, region) in (0..).zip(ram.iter()) {
        let slot = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr().addr() as u64,
        };
        // SAFETY: the range is one live mapping of guest memory, which nothing refers to but through
        // volatile accessors; regions of one map do not overlap. Should the map be dropped while the
        // guest still ran, its accesses would fail in KVM: it holds addresses, not pages.
        unsafe { vm.set_user_memory_region(slot) }
            .map_err(KvmError::refused("map guest memory"))?;
    }
    Ok(())
}
