//! KVM: opening it, making a virtual machine in it, and what it needs raw addresses for.

mod failure;
mod kick;
mod line;
mod slots;

use kvm_ioctls::{Kvm, VmFd};
use vmm_sys_util::errno;

pub use failure::internal_error;
pub use kick::KickPage;
pub use line::IrqLine;
pub use slots::map_memory;

/// The version of KVM's API, unchanged since Linux 2.6.22.
const API_VERSION: i32 = 12;

/// How often to ask for a new virtual machine when signals interrupt the request, which takes the
/// host long enough for that under load.
const CREATE_ATTEMPTS: u32 = 5;

/// KVM cannot be used, or refused something.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is no KVM on this host.
    #[error("/dev/kvm does not exist")]
    Missing,
    /// This user may not use KVM.
    #[error("/dev/kvm may not be opened by this user")]
    Denied,
    /// KVM could not be opened for another reason.
    #[error("opening /dev/kvm")]
    Open(#[source] errno::Error),
    /// Something else answers at /dev/kvm.
    #[error("/dev/kvm speaks API version {found}, not {API_VERSION}")]
    Version {
        /// The version it names.
        found: i32,
    },
    /// KVM refused a request.
    #[error("KVM refused: {request}")]
    Refused {
        /// What was asked for.
        request: &'static str,
        /// Why.
        #[source]
        source: errno::Error,
    },
    /// A vCPU's shared page could not be mapped.
    #[error("mapping a vCPU's state")]
    MapVcpu(#[source] rustix::io::Errno),
}

impl KvmError {
    /// Names the request that KVM refused; for `map_err`.
    pub fn refused(request: &'static str) -> impl FnOnce(errno::Error) -> Self {
        move |source| Self::Refused { request, source }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Missing => Some(
                "load the kernel module kvm_intel or kvm_amd, and switch on virtualization in the \
                 firmware; in a virtual machine, ask its host for nested virtualization; in a \
                 container, pass --device /dev/kvm",
            ),
            Self::Denied => Some(
                "add yourself to the group that owns /dev/kvm (sudo usermod -aG kvm $USER, then log \
                 in again), or give this user access: sudo setfacl -m u:$USER:rw /dev/kvm",
            ),
            Self::Open(_) | Self::Version { .. } | Self::Refused { .. } | Self::MapVcpu(_) => None,
        }
    }
}

/// Opens KVM.
///
/// # Errors
/// When there is none, or this user may not use it.
pub fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => KvmError::Missing,
        libc::EACCES | libc::EPERM => KvmError::Denied,
        _ => KvmError::Open(error),
    })?;
    match kvm.get_api_version() {
        API_VERSION => Ok(kvm),
        found => Err(KvmError::Version { found }),
    }
}

/// Makes an empty virtual machine.
///
/// # Errors
/// When KVM refuses.
pub fn create_vm(kvm: &Kvm) -> Result<VmFd, KvmError> {
    let mut attempt = 1;
    loop {
        match kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR && attempt < CREATE_ATTEMPTS => attempt += 1,
            other => return other.map_err(KvmError::refused("create a virtual machine")),
        }
    }
}
