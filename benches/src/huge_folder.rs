//! A folder in memory that is made in pages of 2 MiB.

use std::path::Path;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// A tmpfs whose files have huge pages from the first byte on (Linux,
/// Documentation/admin-guide/mm/transhuge.rst, `huge=`). It is gone when this is dropped.
pub(crate) struct HugeFolder(TempDir);

impl HugeFolder {
    /// Mounts one, as only root can.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub(crate) fn mount() -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount(
            "tmpfs",
            folder.path(),
            "tmpfs",
            flags,
            Some(c"mode=0700,huge=always"),
        )
        .context("cannot mount memory with huge pages")?;
        Ok(Self(folder))
    }
}

impl AsRef<Path> for HugeFolder {
    fn as_ref(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for HugeFolder {
    fn drop(&mut self) {
        // The lab ends soon, and the mount with it.
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}
