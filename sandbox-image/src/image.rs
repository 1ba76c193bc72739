//! An image as those who boot it see it.

use std::path::PathBuf;

/// The name of the image that is built and run when none is named.
pub const DEFAULT_IMAGE: &str = "sandbox";

/// An image whose files were verified, ready to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The name it was asked for by.
    pub name: String,
    /// SHA-256 of its manifest, in hexadecimal.
    pub id: String,
    /// The guest kernel.
    pub kernel: PathBuf,
    /// The initramfs that holds the agent.
    pub initramfs: PathBuf,
    /// The root file system, EROFS.
    pub rootfs: PathBuf,
    /// The part of the kernel's command line that this kernel wants.
    pub cmdline: String,
    /// How this kernel learns of its devices: `acpi` or `command-line`
    /// (the names of `vmm::config::DeviceDiscovery`).
    pub discovery: String,
}
