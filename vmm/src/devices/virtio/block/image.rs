//! The file behind a disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, fdatasync, flock};
use rustix::io::Errno;
use vm_memory::VolatileSlice;

use super::config::SECTOR_SIZE;
use super::medium::Medium;
use super::syscalls;

/// Why an image cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// There is no such file.
    #[error("disk image {} does not exist; check the path, or build the image first", path.display())]
    Missing {
        /// The image.
        path: PathBuf,
    },
    /// The file may not be opened in the way that is needed.
    #[error(
        "no permission to {access} disk image {}; change its mode or owner{}", path.display(),
        if *access == READ_WRITE { ", or make the disk read-only" } else { "" }
    )]
    Permission {
        /// The image.
        path: PathBuf,
        /// What was to be done with it.
        access: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory, a pipe, a terminal: nothing that has a size and sectors.
    #[error("disk image {} is {kind}; give a raw image file or a block device", path.display())]
    NotADisk {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The file holds less than a sector.
    #[error(
        "disk image {} is too small: it has {len} bytes, and a sector is 512; build it again, or give \
         it a size with `truncate -s 1G`", path.display()
    )]
    Empty {
        /// The image.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
    },
    /// Another sandbox has the image.
    #[error(
        "disk image {} is in use by another sandbox{}; give each a copy of its own, or make the disk \
         read-only in both", path.display(), if *read_only { ", which writes to it" } else { "" }
    )]
    InUse {
        /// The image.
        path: PathBuf,
        /// Whether this sandbox only wants to read it.
        read_only: bool,
    },
    /// The file system cannot lock files.
    #[error(
        "cannot lock disk image {}, so another sandbox could write to it; copy it to a local file \
         system, or make the disk read-only", path.display()
    )]
    Lock {
        /// The image.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot open disk image {}", path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

const READ: &str = "read";
const READ_WRITE: &str = "read and write";

/// An open raw image. Its capacity is fixed when it is opened.
#[derive(Debug)]
pub(super) struct Image {
    file: File,
    sectors: u64,
    read_only: bool,
    punches_holes: bool,
}

impl Image {
    pub(super) fn open(path: &Path, read_only: bool) -> Result<Self, BlockError> {
        let other = |source| BlockError::Open {
            path: path.into(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            // Not to wait for the other end of a pipe. It changes nothing for files and disks.
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(|source| open_error(path, read_only, source))?;
        let kind = file.metadata().map_err(other)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let kind = if kind.is_dir() {
                "a directory"
            } else {
                "neither file nor block device"
            };
            return Err(BlockError::NotADisk {
                path: path.into(),
                kind,
            });
        }
        lock(&file, path, read_only)?;
        // A block device has its size here only.
        let len = file.seek(SeekFrom::End(0)).map_err(other)?;
        if len < SECTOR_SIZE {
            return Err(BlockError::Empty {
                path: path.into(),
                len,
            });
        }
        let punches_holes = !read_only && punches_holes(&file, len);
        Ok(Self {
            file,
            sectors: len / SECTOR_SIZE,
            read_only,
            punches_holes,
        })
    }

    #[cfg(test)]
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

impl Medium for Image {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn punches_holes(&self) -> bool {
        self.punches_holes
    }

    fn read_at(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<usize> {
        syscalls::read_at(&self.file, buffers, offset)
    }

    fn write_at(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<usize> {
        syscalls::write_at(&self.file, buffers, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::io::retry_on_intr(|| fdatasync(&self.file))?)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::io::retry_on_intr(|| {
            fallocate(&self.file, mode, offset, len)
        })?)
    }

    fn zero_range(&self, offset: u64, len: u64) -> io::Result<()> {
        let mode = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        match rustix::io::retry_on_intr(|| fallocate(&self.file, mode, offset, len)) {
            Err(Errno::OPNOTSUPP) => self.punch_hole(offset, len),
            result => Ok(result?),
        }
    }
}

/// Tries it beyond the end, where it changes nothing.
fn punches_holes(file: &File, len: u64) -> bool {
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let beyond = len.next_multiple_of(4096);
    match fallocate(file, mode, beyond, 4096) {
        Ok(()) => true,
        // A block device has nothing beyond its end, but says so only if it knows the operation.
        Err(error) => error == Errno::INVAL,
    }
}

fn lock(file: &File, path: &Path, read_only: bool) -> Result<(), BlockError> {
    let operation = if read_only {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    match flock(file, operation) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(BlockError::InUse {
            path: path.into(),
            read_only,
        }),
        // Readers do no harm to each other where nobody can lock.
        Err(_) if read_only => Ok(()),
        Err(error) => Err(BlockError::Lock {
            path: path.into(),
            source: error.into(),
        }),
    }
}

fn open_error(path: &Path, read_only: bool, source: io::Error) -> BlockError {
    let path = path.into();
    let access = if read_only { READ } else { READ_WRITE };
    match source.kind() {
        io::ErrorKind::NotFound => BlockError::Missing { path },
        io::ErrorKind::IsADirectory => BlockError::NotADisk {
            path,
            kind: "a directory",
        },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            BlockError::Permission {
                path,
                access,
                source,
            }
        }
        _ => BlockError::Open { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Not by a file without permissions: root, who may run the tests, opens any.
    #[test]
    fn lack_of_permission_names_the_file_and_a_remedy() {
        let denied = |read_only, kind: io::ErrorKind| {
            open_error(Path::new("/disks/a.img"), read_only, kind.into()).to_string()
        };
        let reader = denied(true, io::ErrorKind::PermissionDenied);
        assert!(
            reader.contains("/disks/a.img") && reader.contains("mode or owner"),
            "{reader}"
        );
        assert!(!reader.contains("write"), "{reader}");
        let writer = denied(false, io::ErrorKind::ReadOnlyFilesystem);
        assert!(writer.contains("make the disk read-only"), "{writer}");
    }
}
