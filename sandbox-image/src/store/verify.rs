//! Verification: what stands between a file on disk and its use.
//!
//! ```text
//!  find ──▶ record read, four stamps equal ──▶ Image              (no hashing, no parsing of manifests)
//!    └────▶ manifest ──▶ each file: stamp recorded? else hashed ──▶ record written ──▶ Image
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::SystemTime;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::digest::Digest;
use crate::image::Image;
use crate::manifest::Blob;

use super::error::{Damage, StoreError, failed};
use super::stamp::{Record, Stamp, Verified};
use super::{Store, check_safe};

/// How often a file is looked at again that keeps changing, before its hash has to tell.
const MAX_SETTLING: usize = 5;

impl Store {
    /// The image, if each of its files is as it was when it was last hashed.
    pub(super) fn find_recorded(&self, name: &str) -> Option<Image> {
        let record = self.read_record(name)?;
        let image = self.image(name, &record);
        let unchanged = |path: &Path, verified: &Verified| {
            Stamp::of(path).is_ok_and(|stamp| stamp == verified.stamp)
        };
        let good = unchanged(&self.manifest_path(name), &record.manifest)
            && unchanged(&image.kernel, &record.kernel)
            && unchanged(&image.initramfs, &record.initramfs)
            && unchanged(&image.rootfs, &record.rootfs);
        good.then_some(image)
    }

    /// Checks an image; hashes those of its files that changed since they were last hashed.
    pub(super) fn verify_changed(&self, name: &str) -> Result<Image, StoreError> {
        let record = self.read_record(name);
        self.verify_unless(name, |digest| record.as_ref()?.blob(digest))
    }

    /// Checks an image; hashes all its files.
    pub(super) fn verify_all(&self, name: &str) -> Result<Image, StoreError> {
        self.verify_unless(name, |_| None)
    }

    /// Checks an image, but trusts a file with the stamp that `known` has for its digest.
    fn verify_unless(
        &self,
        name: &str,
        known: impl Fn(Digest) -> Option<Stamp>,
    ) -> Result<Image, StoreError> {
        let manifest_path = self.manifest_path(name);
        let stamp = match settled_stamp(&manifest_path) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(self.no_such_image(name));
            }
            other => other?,
        };
        let (manifest, id) = self.read_manifest(name)?;
        let check = |part, blob: Blob| self.check_blob(name, part, blob, known(blob.digest));
        let [kernel, initramfs, rootfs] = [
            check("kernel", manifest.kernel.blob)?,
            check("initramfs", manifest.initramfs.blob)?,
            check("root file system", manifest.rootfs.blob)?,
        ];
        let record = Record {
            manifest: Verified { digest: id, stamp },
            kernel,
            initramfs,
            rootfs,
            cmdline: manifest.kernel.cmdline,
            discovery: manifest.kernel.discovery.to_string(),
        };
        // A record only saves work later: a store that cannot be written to (a read-only or a full
        // disk) is still one to boot from.
        let _ = self.replace_file(&self.record_path(name), &record.to_bytes());
        Ok(self.image(name, &record))
    }

    /// Checks one file of an image.
    fn check_blob(
        &self,
        name: &str,
        part: &'static str,
        blob: Blob,
        known: Option<Stamp>,
    ) -> Result<Verified, StoreError> {
        let path = self.blob_path(blob.digest);
        let corrupt = |damage| StoreError::Corrupt {
            name: name.to_owned(),
            part,
            path: path.clone(),
            damage: Box::new(damage),
        };
        let mut stamp = match check_file(&path) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(corrupt(Damage::Missing));
            }
            Err(StoreError::Io { source, .. })
                if Errno::from_io_error(&source) == Some(Errno::LOOP) =>
            {
                return Err(corrupt(Damage::NotAFile));
            }
            other => other?,
        };
        if known != Some(stamp) {
            stamp = settled_stamp(&path)?;
            match hash_stored(&path, blob) {
                Ok(Some(damage)) => return Err(corrupt(damage)),
                Ok(None) => {}
                Err(source) => return Err(failed("read", &path)(source)),
            }
            if Stamp::of(&path).map_err(failed("look at", &path))? != stamp {
                return Err(corrupt(Damage::Changing));
            }
        }
        Ok(Verified {
            digest: blob.digest,
            stamp,
        })
    }

    fn image(&self, name: &str, record: &Record) -> Image {
        Image {
            name: name.to_owned(),
            id: record.manifest.digest.to_hex(),
            kernel: self.blob_path(record.kernel.digest),
            initramfs: self.blob_path(record.initramfs.digest),
            rootfs: self.blob_path(record.rootfs.digest),
            cmdline: record.cmdline.clone(),
            discovery: record.discovery.clone(),
        }
    }

    /// What was recorded of an image's files.
    pub(super) fn read_record(&self, name: &str) -> Option<Record> {
        Record::parse(&fs::read(self.record_path(name)).ok()?)
    }
}

/// Compares a file of the store with what its manifest says of it.
pub(super) fn hash_stored(path: &Path, blob: Blob) -> io::Result<Option<Damage>> {
    let file = open_regular(path)?;
    let length = file.metadata()?.len();
    if length != blob.size {
        return Ok(Some(Damage::Size {
            expected: blob.size,
            actual: length,
        }));
    }
    let (actual, read) = Digest::of_reader(file)?;
    Ok(if read != blob.size {
        Some(Damage::Changing)
    } else if actual != blob.digest {
        Some(Damage::Content {
            expected: blob.digest,
            actual,
        })
    } else {
        None
    })
}

/// The stamp of a file that has been left alone for long enough that any later change shows in it.
fn settled_stamp(path: &Path) -> Result<Stamp, StoreError> {
    let mut stamp = check_file(path)?;
    for _ in 0..MAX_SETTLING {
        let wait = stamp.settles_in(SystemTime::now());
        if wait.is_zero() {
            break;
        }
        thread::sleep(wait);
        stamp = check_file(path)?;
    }
    Ok(stamp)
}

/// Looks at a file of the store: a regular file that nobody else may write to.
fn check_file(path: &Path) -> Result<Stamp, StoreError> {
    let stat = rustix::fs::lstat(path).map_err(|error| failed("look at", path)(error.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(failed("use", path)(Errno::LOOP.into()));
    }
    check_safe(path, stat.st_uid, stat.st_mode)?;
    Ok(Stamp::from_stat(&stat))
}

/// Reads a file of at most `limit` bytes.
pub(super) fn read_whole(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = open_regular(path)?
        .take(limit + 1)
        .read_to_end(&mut bytes)?;
    if read as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("more than {limit} bytes"),
        ));
    }
    Ok(bytes)
}

/// Opens a file, never following a link, never waiting for the other end of a pipe.
fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}
