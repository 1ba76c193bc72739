//! The one byte of a vCPU's shared page that another thread may write.

// UNSAFETY: the page is shared with the kernel, and this second mapping of it is written while the
// vCPU's thread runs in KVM.
#![expect(
    unsafe_code,
    reason = "mmap of a vCPU and atomic access to a byte of it"
)]

use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use rustix::mm::{self, MapFlags, ProtFlags};

use super::KvmError;

/// A mapping of a vCPU's `immediate_exit`: while it is set, `KVM_RUN` returns `EINTR` at once.
///
/// Setting it before the signal is sent makes a kick reliable: without it a signal that arrives just
/// before `KVM_RUN` would be lost, and the vCPU would run on.
#[derive(Debug)]
pub struct KickPage {
    page: NonNull<u8>,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only accessed atomically.
unsafe impl Send for KickPage {}
// SAFETY: as above.
unsafe impl Sync for KickPage {}

/// One page.
const LENGTH: usize = 4096;
const IMMEDIATE_EXIT: usize = offset_of!(kvm_run, immediate_exit);

impl KickPage {
    /// Maps the first page of the vCPU's shared state.
    ///
    /// # Errors
    /// When the host refuses the mapping.
    pub fn map(vcpu: &VcpuFd) -> Result<Self, KvmError> {
        // SAFETY: the descriptor is open for as long as `vcpu` is borrowed.
        let fd = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the address of this new mapping.
        let page = unsafe { mm::mmap(ptr::null_mut(), LENGTH, access, MapFlags::SHARED, fd, 0) }
            .map_err(KvmError::MapVcpu)?;
        let page = NonNull::new(page.cast()).ok_or(KvmError::MapVcpu(rustix::io::Errno::NOMEM))?;
        Ok(Self { page })
    }

    /// Makes the current or next `KVM_RUN` return.
    pub fn set(&self) {
        self.immediate_exit().store(1, Ordering::SeqCst);
    }

    /// Lets `KVM_RUN` run again.
    pub fn clear(&self) {
        self.immediate_exit().store(0, Ordering::SeqCst);
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the byte lies in the mapped page.
        let byte = unsafe { self.page.add(IMMEDIATE_EXIT) };
        // SAFETY: the mapping lives as long as `self`, and through it the byte is only accessed
        // atomically; the kernel reads it once for each `KVM_RUN`.
        unsafe { AtomicU8::from_ptr(byte.as_ptr()) }
    }
}

impl Drop for KickPage {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map`, and no reference to it outlives `self`.
        let _ = unsafe { mm::munmap(self.page.as_ptr().cast(), LENGTH) };
    }
}
