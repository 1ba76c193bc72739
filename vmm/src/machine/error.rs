//! Why a machine cannot be had.

use std::io;
use std::path::PathBuf;

use crate::arch::native::loader::LoadError;
use crate::bus::BusError;
use crate::cmdline::CmdlineError;
use crate::config::{MAX_DISKS, MAX_VCPUS, MIN_MEMORY_MIB};
use crate::devices::virtio::block::BlockError;
use crate::devices::virtio::mmio::MmioError;
use crate::devices::virtio::vsock::VsockError;
use crate::kvm::KvmError;
use crate::memory::MemoryError;
use crate::vcpu::VcpuError;

/// A machine cannot be built or run.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The number of vCPUs is out of range.
    #[error("{asked} vCPUs were asked for, and a machine has 1 to {MAX_VCPUS}")]
    Vcpus {
        /// The number asked for.
        asked: u8,
    },
    /// There is too little memory.
    #[error(
        "{asked_mib} MiB of memory were asked for, and a machine has at least {MIN_MEMORY_MIB}"
    )]
    Memory {
        /// The memory asked for, in MiB.
        asked_mib: u32,
    },
    /// There are too many disks.
    #[error("{asked} disks were asked for, and a machine has at most {MAX_DISKS}")]
    Disks {
        /// The number asked for.
        asked: usize,
    },
    /// A file could not be opened.
    #[error("opening the {role} {path}", path = path.display())]
    OpenFile {
        /// What the file is.
        role: &'static str,
        /// Where it is.
        path: PathBuf,
        /// Why it could not be opened.
        #[source]
        source: io::Error,
    },
    /// The kernel or initramfs could not be loaded.
    #[error("loading kernel {kernel}", kernel = kernel.display())]
    Load {
        /// The kernel.
        kernel: PathBuf,
        /// Why.
        #[source]
        source: LoadError,
    },
    /// The command line is no good.
    #[error("preparing the kernel's command line")]
    Cmdline(#[from] CmdlineError),
    /// KVM is missing or refused something.
    #[error("using KVM")]
    Kvm(#[from] KvmError),
    /// The host has no memory for the guest.
    #[error("preparing guest memory")]
    GuestMemory(#[from] MemoryError),
    /// A device could not be made.
    #[error("making the {device} device")]
    Device {
        /// Which device.
        device: &'static str,
        /// Why.
        #[source]
        source: DeviceError,
    },
    /// vCPUs could not be started or paused.
    #[error("running vCPUs")]
    Vcpu(#[from] VcpuError),
    /// New threads did not get ready in time.
    #[error("the host does not run the machine's threads")]
    Threads,
    /// The event loop failed.
    #[error("serving devices")]
    Events(#[source] event_manager::Error),
}

/// A device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A disk's image is no good.
    #[error("opening its image")]
    Block(#[from] BlockError),
    /// The socket device's configuration is no good.
    #[error("setting up its host side")]
    Vsock(#[from] VsockError),
    /// The host refused a descriptor or a thread.
    #[error("taking what it needs from the host")]
    Host(#[from] io::Error),
    /// The transport could not be made.
    #[error("making its registers")]
    Transport(#[from] MmioError),
    /// KVM refused its notifications.
    #[error("connecting it")]
    Connect(#[from] KvmError),
    /// Its addresses are taken.
    #[error("placing it")]
    Place(#[from] BusError),
    /// The machine has no place left for it.
    #[error("the machine is full")]
    NoSlot,
}

impl MachineError {
    /// What the user can do about it, if we know.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Vcpus { .. } => Some(format!("ask for 1 to {MAX_VCPUS} CPUs")),
            Self::Memory { .. } => Some(format!("ask for at least {MIN_MEMORY_MIB} MiB of memory")),
            Self::Disks { .. } => Some(format!("attach at most {MAX_DISKS} disks")),
            Self::OpenFile { source, .. } => file_hint(source),
            Self::Load { source, .. } => source.hint().map(str::to_owned),
            Self::Kvm(source) => source.hint().map(str::to_owned),
            Self::Cmdline(CmdlineError::TooLong) => {
                Some("shorten the kernel arguments, or describe the devices by ACPI".to_owned())
            }
            Self::GuestMemory(MemoryError::Map { .. }) => {
                Some("ask for less memory: the host does not have as much".to_owned())
            }
            Self::Cmdline(_)
            | Self::GuestMemory(_)
            | Self::Device { .. }
            | Self::Vcpu(_)
            | Self::Threads
            | Self::Events(_) => None,
        }
    }
}

fn file_hint(error: &io::Error) -> Option<String> {
    match error.kind() {
        io::ErrorKind::NotFound => Some("check the path".to_owned()),
        io::ErrorKind::PermissionDenied => Some("make it readable for this user".to_owned()),
        _ => None,
    }
}
