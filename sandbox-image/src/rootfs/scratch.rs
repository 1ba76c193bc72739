//! The folders in which a root file system is put together, and their removal.
//!
//! Their files belong to several users, so they lie outside the cache's entries, and are removed by
//! [`elevate`]. A build that was killed leaves them; the next one of the same root file system, which
//! has the same lock and the same names, removes them.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::archive::elevate;
use crate::cache::{Cache, Key};
use crate::space;

use super::{RootfsError, failed};

/// What a build takes: the archive, the tree and the image below the cache; the tree and the packages
/// below mmdebstrap's temporary folder. Each with some room for growth.
const CACHE_BYTES: u64 = 500 << 20;
const TEMPORARY_BYTES: u64 = 350 << 20;

/// How much of the key is in a folder's name.
const KEY_DIGITS: usize = 16;

/// The folders of a build.
#[derive(Debug)]
pub(super) struct Scratch {
    /// Below the cache, closed to others.
    pub(super) work: PathBuf,
    /// Where mmdebstrap installs. Its subordinate users must get in, so it cannot be in a home.
    pub(super) temporary: PathBuf,
}

impl Scratch {
    /// The folders for this kind and key, empty. The caller holds the key's lock.
    pub(super) fn make(cache: &Cache, kind: &str, key: &Key) -> Result<Self, RootfsError> {
        // `/tmp` is often memory, and too small.
        let place = env::var_os("TMPDIR").filter(|place| !place.is_empty());
        let place = place.map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let user = rustix::process::geteuid().as_raw();
        let digits = key.as_str().get(..KEY_DIGITS).unwrap_or_default();
        let scratch = Self {
            work: cache.work(kind, key),
            temporary: place.join(format!("sovereign-rootfs-{user}-{digits}")),
        };
        scratch.remove()?;
        space::check(&scratch.work, CACHE_BYTES).map_err(RootfsError::NoSpace)?;
        space::check(&place, TEMPORARY_BYTES).map_err(RootfsError::NoSpace)?;
        fs::create_dir_all(&scratch.work).map_err(failed("create", &scratch.work))?;
        fs::DirBuilder::new()
            .mode(0o711)
            .create(&scratch.temporary)
            .map_err(failed("create", &scratch.temporary))?;
        Ok(scratch)
    }

    /// Removes the folders.
    pub(super) fn remove(&self) -> Result<(), RootfsError> {
        elevate::remove_folder(&self.work)?;
        // In a place where everyone may make folders, one of this name may be another's.
        if is_ours(&self.temporary)? {
            elevate::remove_folder(&self.temporary)?;
        }
        Ok(())
    }
}

fn is_ours(folder: &Path) -> Result<bool, RootfsError> {
    match fs::symlink_metadata(folder) {
        Ok(meta) => Ok(meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("look at", folder)(error)),
    }
}
