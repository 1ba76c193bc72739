//! What a machine is made of, as plain data.
//!
//! A [`MachineConfig`] is all that the VMM process is told: it holds paths and numbers and no live
//! thing, so it can cross a process border as JSON, be printed, compared and kept.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The most vCPUs that a machine can have.
pub const MAX_VCPUS: u8 = 32;

/// The least guest memory that a machine can have, in MiB. Below it the guest kernel cannot unpack
/// its initramfs.
pub const MIN_MEMORY_MIB: u32 = 32;

/// The most disks that a machine can have, whatever other devices it has.
pub const MAX_DISKS: usize = 7;

/// Everything needed to build and boot one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// Number of virtual CPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// Guest memory in MiB, at least [`MIN_MEMORY_MIB`].
    pub memory_mib: u32,
    /// The guest kernel: an ELF `vmlinux` with a PVH note, or a `bzImage`.
    pub kernel: PathBuf,
    /// The initial RAM file system, a cpio archive, if the guest gets one.
    pub initramfs: Option<PathBuf>,
    /// The kernel's command line, without what the VMM itself appends to describe devices.
    pub cmdline: String,
    /// How the guest learns of its virtio-mmio devices.
    pub discovery: DeviceDiscovery,
    /// Disks in the order in which the guest sees them (`/dev/vda`, `/dev/vdb`, ...).
    pub disks: Vec<DiskConfig>,
    /// The socket device, if the guest gets one.
    pub vsock: Option<VsockConfig>,
    /// Whether the guest gets an entropy device.
    pub entropy: bool,
    /// How many bytes of the guest's console are kept (the newest ones win).
    pub console_bytes: u32,
}

/// How the guest learns of its virtio-mmio devices. A kernel told twice probes each device twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceDiscovery {
    /// By ACPI tables (DSDT nodes with `_HID "LNRO0005"`): what distribution kernels understand.
    Acpi,
    /// By `virtio_mmio.device=` on the command line and an MP table for the CPUs: what a kernel
    /// built without ACPI understands. Boots in fewer instructions.
    CommandLine,
}

/// A disk: a raw image file. Formats are never sniffed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// The raw image.
    pub path: PathBuf,
    /// Refuse the guest's writes, and open the file without write permission.
    pub read_only: bool,
}

/// The socket device (virtio 1.2, section 5.10).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockConfig {
    /// The guest's context identifier, 3 or greater.
    pub guest_cid: u32,
    /// Whether bulk data may take lanes beside connections: then the guest's second virtio-mmio
    /// device, right behind this one, is an empty window at first, and a disk once a stream has brought
    /// the first descriptor (`crate::devices::virtio::block::lanes`).
    pub lanes: bool,
    /// Where the host side listens, if it is to be reached by path: connect there and send
    /// `CONNECT <port>\n`, the answer is `OK <port>\n`. A connection that the guest makes to port
    /// `P` goes to the socket `<path>_P`. Without a path, streams are passed over the control
    /// socket (`crate::control`).
    pub uds_path: Option<PathBuf>,
}
