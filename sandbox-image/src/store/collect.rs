//! Removal: what takes images away, and what collects the files that no image needs any more.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::lock::{Sharing, try_lock};
use crate::progress::{Silent, Step};

use super::error::failed;
use super::{Store, StoreError, check_name, folder_names};

impl Store {
    /// Removes an image, damaged or not, and the files that only it used. Returns the bytes freed.
    ///
    /// # Errors
    /// [`StoreError::NoSuchImage`], or why files could not be removed.
    pub fn remove(&self, name: &str) -> Result<u64, StoreError> {
        check_name(name)?;
        let path = self.manifest_path(name);
        if fs::symlink_metadata(&path).is_err() {
            return Err(self.no_such_image(name));
        }
        let step = Step::begin(&Silent, "removing an image");
        let _lock = self.lock(&format!("removing image `{name}`"), &step)?;
        remove_file(&self.record_path(name))?;
        remove_file(&path)?;
        self.collect()
    }

    /// Removes files that no image names and no running sandbox uses, what killed builds left, and what
    /// no build examines any more. Waits for a build that is storing its result. Returns the bytes freed.
    ///
    /// # Errors
    /// [`StoreError::BadManifest`] if it cannot be told what an image needs: nothing is removed
    /// then. Else why files could not be removed.
    pub fn prune(&self) -> Result<u64, StoreError> {
        if !self.root.exists() {
            return Ok(0);
        }
        let step = Step::begin(&Silent, "pruning images");
        let _lock = self.lock("pruning images", &step)?;
        self.clear_candidates()?;
        Ok(self.clear_tmp()? + self.collect()?)
    }

    /// Removes unneeded blobs and records. The caller holds the lock.
    pub(super) fn collect(&self) -> Result<u64, StoreError> {
        let names = self.names()?;
        let mut needed = HashSet::new();
        for name in &names {
            let (manifest, _) = self.read_manifest(name)?;
            needed.extend(manifest.blobs().map(|blob| blob.digest.to_hex()));
        }
        let mut blobs = folder_names(&self.blobs())?;
        blobs.retain(|blob| !needed.contains(blob) && !is_in_use(&self.blobs().join(blob)));
        let mut freed = 0;
        for blob in blobs {
            freed += remove_file(&self.blobs().join(blob))?;
        }
        for file in folder_names(&self.images())? {
            let image = file.strip_suffix(".verified");
            if image.is_some_and(|image| names.iter().all(|name| name != image)) {
                freed += remove_file(&self.images().join(file))?;
            }
        }
        Ok(freed)
    }
}

/// Removes a file, if it is there. Returns its length.
pub(super) fn remove_file(path: &Path) -> Result<u64, StoreError> {
    let length = fs::symlink_metadata(path).map_or(0, |meta| meta.len());
    match fs::remove_file(path) {
        Ok(()) => Ok(length),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

/// Whether a running sandbox uses a file: a virtual machine holds a lock on its disks for as long as it
/// lives. Kernel and initramfs are only read when it starts. What its files are cannot be learnt from
/// `/proc`, as it lets no ordinary user look.
fn is_in_use(path: &Path) -> bool {
    // Where nothing can be locked, a removed file is still there for whoever has it open.
    File::open(path)
        .and_then(|file| try_lock(&file, Sharing::Exclusive))
        .is_ok_and(|is_free| !is_free)
}
