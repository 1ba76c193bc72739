//! An image as those who boot it see it.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::erofs::{self, ErofsError};
use crate::own_kernel::{self, OwnKernel, OwnKernelError};

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

/// Files to use in place of an image's own, for one sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overrides {
    /// A kernel: an ELF `vmlinux` with a PVH note, or a `bzImage`.
    pub kernel: Option<PathBuf>,
    /// An initramfs, a cpio archive with the agent in it.
    pub initramfs: Option<PathBuf>,
    /// A root file system, EROFS.
    pub rootfs: Option<PathBuf>,
}

/// A file cannot take the place of an image's own.
#[derive(Debug, thiserror::Error)]
pub enum OverrideError {
    /// The kernel cannot.
    #[error(transparent)]
    Kernel(#[from] OwnKernelError),
    /// The root file system cannot.
    #[error(transparent)]
    Rootfs(#[from] ErofsError),
    /// A file is not there.
    #[error("cannot use {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Image {
    /// The same image with some files replaced. They are checked for their format only: they are
    /// the user's, and nothing says which hash they should have.
    ///
    /// # Errors
    /// If a file is not there, or not what it is given for.
    pub fn with_overrides(mut self, overrides: &Overrides) -> Result<Self, OverrideError> {
        if let Some(path) = &overrides.kernel {
            let kernel = OwnKernel::examine(path)?;
            self.kernel = absolute(path)?;
            self.discovery = kernel.discovery.to_string();
            own_kernel::CMDLINE.clone_into(&mut self.cmdline);
        }
        if let Some(path) = &overrides.initramfs {
            self.initramfs = absolute(path)?;
        }
        if let Some(path) = &overrides.rootfs {
            erofs::check(path)?;
            self.rootfs = absolute(path)?;
        }
        Ok(self)
    }
}

/// The VMM may work in another folder.
fn absolute(path: &Path) -> Result<PathBuf, OverrideError> {
    path.canonicalize().map_err(|source| OverrideError::Io {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn image() -> Image {
        Image {
            name: "sandbox".to_owned(),
            id: "0".to_owned(),
            kernel: "/store/kernel".into(),
            initramfs: "/store/initramfs".into(),
            rootfs: "/store/rootfs".into(),
            cmdline: "quiet".to_owned(),
            discovery: "command-line".to_owned(),
        }
    }

    #[test]
    fn no_overrides_change_nothing() {
        assert_eq!(
            image().with_overrides(&Overrides::default()).unwrap(),
            image()
        );
    }

    #[test]
    fn own_kernel_brings_its_own_way_to_find_devices() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vmlinux");
        fs::write(&path, b"\x7FELF LNRO0005").unwrap();
        let overrides = Overrides {
            kernel: Some(path.clone()),
            ..Overrides::default()
        };
        let changed = image().with_overrides(&overrides).unwrap();
        assert_eq!(changed.kernel, path.canonicalize().unwrap());
        assert_eq!(changed.discovery, "acpi");
        assert_eq!(changed.rootfs, image().rootfs);
    }

    #[test]
    fn files_of_the_wrong_kind_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, vec![0; 8192]).unwrap();
        let kernel = Overrides {
            kernel: Some(path.clone()),
            ..Overrides::default()
        };
        let rootfs = Overrides {
            rootfs: Some(path.clone()),
            ..Overrides::default()
        };
        for overrides in [kernel, rootfs] {
            let error = image().with_overrides(&overrides).unwrap_err().to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
    }
}
