//! Publishing: how files become an image.
//!
//! ```text
//!  lock ─▶ tmp/ cleared ─▶ space checked ─▶ each file: copied to tmp/, hashed, synced, renamed
//!       ─▶ manifest: written to tmp/, synced, renamed ─▶ all hashed once more where they are now
//! ```
//!
//! A build that is killed leaves at most files in `tmp/` and blobs that no manifest names; the next
//! build or a prune removes them.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::NamedTempFile;

use crate::digest::{Digest, Hasher};
use crate::image::Image;
use crate::manifest::{
    self, Blob, Discovery, Initramfs, Kernel, Manifest, Rootfs, SCHEMA, Userland,
};
use crate::progress::{Step, Unit};
use crate::space;

use super::candidate::CANDIDATE;
use super::error::{failed, write_failed};
use super::stamp::Stamp;
use super::verify::hash_stored;
use super::{Store, StoreError, blob_mode, check_name};

/// How much of a file is copied at a time.
const CHUNK: usize = 1 << 20;

/// How many zeros on end become a hole of the file: a kernel has a megabyte of them to align its
/// parts, and what is a hole need not be copied into each guest.
const HOLE: usize = 64 << 10;

/// Space for manifests and folders that must be there besides the files themselves.
const SPARE_BYTES: u64 = 256 * 1024;

/// The files of an image, and what is to be said of them.
#[derive(Debug, Clone)]
pub struct Parts<'a> {
    /// The guest kernel.
    pub kernel: Content<'a>,
    /// The initramfs.
    pub initramfs: Content<'a>,
    /// The root file system.
    pub rootfs: Content<'a>,
    /// What they are.
    pub description: Description,
}

/// Where the bytes of a file come from.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// From a file.
    File {
        /// The file.
        path: &'a Path,
        /// Its digest, if it is known: saves reading a file that the store has.
        digest: Option<Digest>,
    },
    /// From memory.
    Bytes(&'a [u8]),
}

/// What a manifest says of files besides their digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The kernel's release.
    pub kernel_release: Option<String>,
    /// The part of the command line that the kernel wants.
    pub cmdline: String,
    /// How the kernel learns of its devices.
    pub discovery: Discovery,
    /// The agent's release.
    pub agent_release: String,
    /// The version of the protocol that the agent speaks.
    pub agent_protocol: Option<u16>,
    /// What the root file system holds.
    pub contents: Option<Userland>,
}

impl Store {
    /// Stores files and gives the image that they make a name. An image that had the name before is
    /// replaced in one step; sandboxes that run from it go on.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] if the disk is full: nothing is left behind then. Else why a file
    /// could not be read or written.
    pub fn publish(
        &self,
        name: &str,
        parts: &Parts<'_>,
        step: &Step<'_>,
    ) -> Result<Image, StoreError> {
        check_name(name)?;
        let _lock = self.lock(&format!("storing image `{name}`"), step)?;
        self.clear_tmp()?;
        let contents = [parts.kernel, parts.initramfs, parts.rootfs];
        let stored = contents.map(|content| self.stored(name, content));
        let missing = contents
            .iter()
            .zip(&stored)
            .filter(|(_, blob)| blob.is_none());
        let mut copied = Copied {
            step,
            bytes: 0,
            total: missing
                .map(|(content, _)| content.len())
                .sum::<Result<_, _>>()?,
        };
        self.check_space(copied.total)?;
        let mut blobs = Vec::with_capacity(contents.len());
        for (content, blob) in contents.into_iter().zip(stored) {
            blobs.push(match blob {
                Some(blob) => blob,
                None => self.store(content, &mut copied)?,
            });
        }
        sync_folder(&self.blobs())?;
        let &[kernel, initramfs, rootfs] = blobs.as_slice() else {
            unreachable!("three contents make three blobs")
        };
        let manifest = parts.description.manifest([kernel, initramfs, rootfs]);
        self.replace_file(&self.manifest_path(name), &manifest.to_json())?;
        sync_folder(&self.images())?;
        self.verify_changed(name)
    }

    /// Writes a small file in one step: whoever reads it sees the old content or the new one.
    pub(super) fn replace_file(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let tmp = self.tmp();
        let write = |mut file: NamedTempFile| -> io::Result<()> {
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            Ok(())
        };
        NamedTempFile::new_in(&tmp)
            .and_then(write)
            .map_err(write_failed(path, bytes.len() as u64))
    }

    /// Removes what killed builds left. Whoever holds the lock is the only one to use the folder
    /// but for records of verification, which are written again the next time.
    pub(super) fn clear_tmp(&self) -> Result<u64, StoreError> {
        let mut freed = 0;
        for name in super::folder_names(&self.tmp())? {
            let path = self.tmp().join(name);
            freed += fs::symlink_metadata(&path).map_or(0, |meta| meta.len());
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(freed)
    }

    /// The blob that has this content already, as far as it can be told without much work.
    fn stored(&self, name: &str, content: Content<'_>) -> Option<Blob> {
        let digest = content.digest()?;
        let path = self.blob_path(digest);
        let stamp = Stamp::of(&path).ok()?;
        let blob = Blob {
            digest,
            size: stamp.size(),
        };
        // A candidate has no record of its own yet; the image that it is to replace may have.
        let names = [name, name.strip_suffix(CANDIDATE).unwrap_or(name)];
        let recorded = names.iter().any(|name| {
            let record = self.read_record(name);
            record.and_then(|record| record.blob(digest)) == Some(stamp)
        });
        (recorded || hash_stored(&path, blob).ok()?.is_none()).then_some(blob)
    }

    /// Copies content into the store, where it gets its digest for a name.
    fn store(&self, content: Content<'_>, copied: &mut Copied<'_>) -> Result<Blob, StoreError> {
        let size = content.len()?;
        let tmp = self.tmp();
        let mut file = NamedTempFile::new_in(&tmp).map_err(write_failed(&tmp, size))?;
        let (digest, size) = match content {
            Content::Bytes(bytes) => copied.copy(bytes, &mut file, &PathBuf::from("-"), size)?,
            Content::File { path, digest } => {
                let source = File::open(path).map_err(failed("read", path))?;
                let (actual, size) = copied.copy(source, &mut file, path, size)?;
                check_source(path, digest, actual)?;
                (actual, size)
            }
        };
        let path = self.blob_path(digest);
        let blob = Blob { digest, size };
        // Keep what is there and good: another image's record of it stays true.
        if matches!(hash_stored(&path, blob), Ok(None)) {
            return Ok(blob);
        }
        file.as_file()
            .set_permissions(blob_mode())
            .and_then(|()| file.as_file().sync_all())
            .and_then(|()| file.persist(&path).map_err(io::Error::from))
            .map_err(write_failed(&path, size))?;
        Ok(blob)
    }

    /// Refuses work that the disk has no room for, before it is begun.
    fn check_space(&self, bytes: u64) -> Result<(), StoreError> {
        let needed = bytes.saturating_add(SPARE_BYTES);
        space::check(&self.root, needed).map_err(|short| StoreError::NoSpace {
            path: short.path,
            needed: short.needed,
            available: short.available,
        })
    }
}

#[cfg(test)]
impl Store {
    /// Copies bytes without the check for space that a publication begins with.
    pub(super) fn store_for_test(&self, bytes: &[u8], step: &Step<'_>) -> Result<Blob, StoreError> {
        let mut copied = Copied {
            step,
            bytes: 0,
            total: 0,
        };
        self.store(Content::Bytes(bytes), &mut copied)
    }
}

impl Content<'_> {
    fn digest(&self) -> Option<Digest> {
        match self {
            Self::File { digest, .. } => *digest,
            Self::Bytes(bytes) => Some(Digest::of(bytes)),
        }
    }

    fn len(&self) -> Result<u64, StoreError> {
        match self {
            Self::File { path, .. } => {
                let meta = fs::metadata(path).map_err(failed("read", path))?;
                Ok(meta.len())
            }
            Self::Bytes(bytes) => Ok(bytes.len() as u64),
        }
    }
}

impl Description {
    /// Whether a manifest says the same.
    pub(crate) fn describes(&self, manifest: &Manifest) -> bool {
        let [kernel, initramfs, rootfs] = manifest.blobs();
        let mut same = self.manifest([kernel, initramfs, rootfs]);
        same.created.clone_from(&manifest.created);
        same == *manifest
    }

    fn manifest(&self, [kernel, initramfs, rootfs]: [Blob; 3]) -> Manifest {
        Manifest {
            schema: SCHEMA,
            created: manifest::timestamp(SystemTime::now()),
            kernel: Kernel {
                blob: kernel,
                release: self.kernel_release.clone(),
                cmdline: self.cmdline.clone(),
                discovery: self.discovery,
            },
            initramfs: Initramfs {
                blob: initramfs,
                agent_release: self.agent_release.clone(),
                agent_protocol: self.agent_protocol,
            },
            rootfs: Rootfs {
                blob: rootfs,
                contents: self.contents.clone(),
            },
        }
    }
}

/// How much of all files has been copied.
struct Copied<'s> {
    step: &'s Step<'s>,
    bytes: u64,
    total: u64,
}

impl Copied<'_> {
    fn copy(
        &mut self,
        mut source: impl Read,
        target: &mut NamedTempFile,
        from: &Path,
        size: u64,
    ) -> Result<(Digest, u64), StoreError> {
        let mut hash = Hasher::default();
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed("read", from)(error)),
            };
            let chunk = buffer.get(..read).unwrap_or_default();
            hash.update(chunk);
            write_sparsely(target.as_file_mut(), chunk)
                .map_err(write_failed(target.path(), size))?;
            self.bytes += read as u64;
            self.step.advance(self.bytes, Some(self.total), Unit::Bytes);
        }
        let (digest, length) = hash.finish();
        // A hole at the end is not there yet.
        target
            .as_file()
            .set_len(length)
            .map_err(write_failed(target.path(), size))?;
        Ok((digest, length))
    }
}

/// Writes, and passes over zeros.
fn write_sparsely(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    for piece in bytes.chunks(HOLE) {
        if piece.len() == HOLE && piece.iter().all(|byte| *byte == 0) {
            file.seek(SeekFrom::Current(i64::try_from(HOLE).unwrap_or_default()))?;
        } else {
            file.write_all(piece)?;
        }
    }
    Ok(())
}

/// Compares a file that was stored with what it was said to be.
fn check_source(path: &Path, expected: Option<Digest>, actual: Digest) -> Result<(), StoreError> {
    match expected {
        Some(expected) if expected != actual => Err(StoreError::BadSource {
            path: path.to_owned(),
            expected,
            actual,
        }),
        _ => Ok(()),
    }
}

pub(super) fn sync_folder(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(failed("sync", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn zeros_become_a_hole_that_reads_the_same() {
        let mut bytes = vec![0; 40 * HOLE];
        bytes[0] = 1;
        bytes[20 * HOLE] = 2;
        let mut file = tempfile::tempfile().unwrap();
        write_sparsely(&mut file, &bytes).unwrap();
        file.set_len(bytes.len() as u64).unwrap();

        let mut back = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut back).unwrap();
        assert!(back == bytes);
        file.sync_all().unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 <= 4 * HOLE as u64);
    }
}
