//! The image store: content-addressed files, and names for sets of them.
//!
//! ```text
//!  <store>/blobs/sha256/<digest>   kernels, initramfs, root file systems; never written to again
//!  <store>/images/<name>.json      manifests; those of candidates (see `candidate`) too
//!  <store>/images/<name>.verified  when the files of an image were last hashed (see `stamp`)
//!  <store>/tmp/                    files being written
//!  <store>/lock                    held by whoever changes the store
//!  <store>/candidate.lock          held by whoever examines a candidate
//! ```
//!
//! Readers take no lock: files appear by rename, complete and on disk, blobs before the manifest
//! that names them. Nothing is used that does not have the digest that its manifest names.

mod candidate;
mod collect;
mod error;
mod publish;
mod stamp;
mod unfinished;
mod verify;

use std::env;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

pub use candidate::CANDIDATE;
pub use error::{Damage, StoreError};
pub use publish::{Content, Description, Parts};
pub(crate) use stamp::Stamp;
pub use unfinished::Unfinished;

use crate::digest::Digest;
use crate::image::Image;
use crate::lock::{Lock, Sharing};
use crate::manifest::Manifest;
use crate::progress::Step;

use error::failed;

/// How long a change of the store waits for another process that changes it.
const PATIENCE: Duration = Duration::from_secs(600);

/// The lock of whoever changes the store.
const LOCK: &str = "lock";

/// The longest manifest that is read.
const MAX_MANIFEST: u64 = 4 << 20;

/// The longest image name.
const MAX_NAME: usize = 64;

/// A folder with images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    root: PathBuf,
}

/// An image as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Its name.
    pub name: String,
    /// SHA-256 of its manifest, in hexadecimal.
    pub id: Option<String>,
    /// The bytes of all its files together.
    pub bytes: u64,
    /// What it is made of, if its manifest can be read.
    pub manifest: Option<Manifest>,
    /// Why its manifest cannot be read.
    pub problem: Option<String>,
}

impl Store {
    /// Opens the user's store: `$SOVEREIGN_DATA_DIR`, else `$XDG_DATA_HOME/sovereign`, else
    /// `~/.local/share/sovereign`.
    ///
    /// # Errors
    /// If none of these is set, or others may write to the folder.
    pub fn open_default() -> Result<Self, StoreError> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        let root = set("SOVEREIGN_DATA_DIR")
            .map(PathBuf::from)
            .or_else(|| set("XDG_DATA_HOME").map(|home| PathBuf::from(home).join("sovereign")))
            .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".local/share/sovereign")))
            .ok_or(StoreError::NoPlace)?;
        Self::open(root)
    }

    /// Opens a store in a folder of one's own. The folder is made by the first
    /// [`Store::publish`].
    ///
    /// # Errors
    /// If others may write to the folder.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        match fs::metadata(&root) {
            Ok(meta) => check_safe(&root, meta.uid(), meta.mode())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("look at", &root)(error)),
        }
        Ok(Self { root })
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Finds an image, ready to boot: each of its files has the digest that its manifest names.
    ///
    /// # Errors
    /// [`StoreError::NoSuchImage`]; [`StoreError::Corrupt`] and [`StoreError::BadManifest`] for a
    /// damaged one; [`StoreError::Insecure`] for files that others may write to.
    pub fn find(&self, name: &str) -> Result<Image, StoreError> {
        check_name(name)?;
        match self.find_recorded(name) {
            Some(image) => Ok(image),
            None => self.verify_changed(name),
        }
    }

    /// Hashes every file of an image, whatever was recorded.
    ///
    /// # Errors
    /// As [`Store::find`].
    pub fn verify(&self, name: &str) -> Result<Image, StoreError> {
        check_name(name)?;
        self.verify_all(name)
    }

    /// Reads an image's manifest.
    ///
    /// # Errors
    /// If there is none, or it cannot be understood.
    pub fn inspect(&self, name: &str) -> Result<Manifest, StoreError> {
        check_name(name)?;
        Ok(self.read_manifest(name)?.0)
    }

    /// Lists all images by name, damaged ones included, candidates not.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn list(&self) -> Result<Vec<Summary>, StoreError> {
        let mut names = self.names()?;
        names.retain(|name| !candidate::is_candidate(name));
        Ok(names.into_iter().map(|name| self.summary(name)).collect())
    }

    fn summary(&self, name: String) -> Summary {
        match self.read_manifest(&name) {
            Ok((manifest, id)) => Summary {
                name,
                id: Some(id.to_hex()),
                bytes: manifest.blobs().iter().map(|blob| blob.size).sum(),
                manifest: Some(manifest),
                problem: None,
            },
            Err(error) => Summary {
                name,
                id: None,
                bytes: 0,
                manifest: None,
                problem: Some(error.to_string()),
            },
        }
    }

    /// The names of all images, sorted.
    fn names(&self) -> Result<Vec<String>, StoreError> {
        let mut names: Vec<_> = folder_names(&self.images())?
            .into_iter()
            .filter_map(|file| Some(file.strip_suffix(".json")?.to_owned()))
            .filter(|name| check_name(name).is_ok())
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Reads a manifest; its digest is the image's identity.
    fn read_manifest(&self, name: &str) -> Result<(Manifest, Digest), StoreError> {
        let path = self.manifest_path(name);
        let bytes = verify::read_whole(&path, MAX_MANIFEST).map_err(|source| {
            if source.kind() == io::ErrorKind::NotFound {
                self.no_such_image(name)
            } else {
                failed("read", &path)(source)
            }
        })?;
        let manifest = Manifest::parse(&bytes).map_err(|source| StoreError::BadManifest {
            name: name.to_owned(),
            path,
            source,
        })?;
        Ok((manifest, Digest::of(&bytes)))
    }

    fn no_such_image(&self, name: &str) -> StoreError {
        StoreError::NoSuchImage {
            name: name.to_owned(),
            store: self.root.clone(),
        }
    }

    fn make_folders(&self) -> Result<(), StoreError> {
        for folder in [&self.root, &self.blobs(), &self.images(), &self.tmp()] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(error::write_failed(folder, 4096))?;
        }
        Ok(())
    }

    /// Makes the folders, and keeps other writers out.
    fn lock(&self, purpose: &str, step: &Step<'_>) -> Result<Lock, StoreError> {
        self.make_folders()?;
        let lock = Lock::acquire(
            &self.root.join(LOCK),
            Sharing::Exclusive,
            purpose,
            PATIENCE,
            &mut |holder| step.log(&format!("waiting for {holder}")),
        )?;
        Ok(lock)
    }

    fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn blob_path(&self, digest: Digest) -> PathBuf {
        self.root.join(format!("blobs/sha256/{}", digest.to_hex()))
    }

    fn manifest_path(&self, name: &str) -> PathBuf {
        self.root.join(format!("images/{name}.json"))
    }

    fn record_path(&self, name: &str) -> PathBuf {
        self.root.join(format!("images/{name}.verified"))
    }
}

/// The names of the files in a folder; none if there is no such folder.
fn folder_names(folder: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", folder)(error)),
    };
    entries
        .filter_map(|entry| match entry {
            Ok(entry) => entry.file_name().into_string().ok().map(Ok),
            Err(error) => Some(Err(failed("list", folder)(error))),
        })
        .collect()
}

/// A name that is safe as a file name, and readable.
fn check_name(name: &str) -> Result<(), StoreError> {
    let own = name.strip_suffix(CANDIDATE).unwrap_or(name);
    let good = own.len() <= MAX_NAME
        && own.bytes().enumerate().all(|(place, byte)| match byte {
            b'a'..=b'z' | b'0'..=b'9' => true,
            b'.' | b'_' | b'-' => place > 0,
            _ => false,
        });
    if own.is_empty() || !good {
        return Err(StoreError::BadName {
            name: name.to_owned(),
        });
    }
    Ok(())
}

/// A file or folder is ours or root's, and nobody else may write to it.
fn check_safe(path: &Path, owner: u32, mode: u32) -> Result<(), StoreError> {
    let insecure = |problem, remedy| StoreError::Insecure {
        path: path.to_owned(),
        problem,
        remedy,
    };
    let us = rustix::process::geteuid().as_raw();
    if owner != us && owner != 0 {
        return Err(insecure(
            format!("it belongs to user {owner}, and you are user {us}"),
            "use a store of your own (SOVEREIGN_DATA_DIR)".to_owned(),
        ));
    }
    if mode & 0o022 != 0 {
        return Err(insecure(
            format!("others may write to it (mode {:04o})", mode & 0o7777),
            format!("take that away with: chmod go-w {}", path.display()),
        ));
    }
    Ok(())
}

/// The mode of a stored file: nobody has a reason to write to it.
fn blob_mode() -> fs::Permissions {
    fs::Permissions::from_mode(0o444)
}

#[cfg(test)]
mod tests;
