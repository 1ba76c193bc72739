//! From files to a tar stream.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tar::{EntryType, GnuExtSparseHeader, Header};

use crate::error::ArchiveError;
use crate::header::{self, BLOCK, Moment, pad};
use crate::pieces::{Piece, fill, pieces};
use crate::room::{CopyError, Room, read_into};

/// How much is copied at a time.
const CHUNK: usize = 128 * 1024;
/// Deeper trees are refused: each level costs a descriptor.
const MAX_DEPTH: usize = 512;
/// What the kernel makes while it is read (`/proc`, `/sys`) tells no size, or too much. This is read before
/// an archive says how long it is, if there is not more of it...
const MAX_UNTOLD: usize = 16 << 20;
/// ...and where it tells a size, that is a page's, which may be as large as this.
const MAX_PAGE: u64 = 64 * 1024;
/// How much is read of it at first: mostly it is all, and some of the kernel's files want whole pages.
const PAGE: usize = 4096;
/// The bits of a mode that an archive has.
const MODE_BITS: u32 = 0o7777;

/// What was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Packed {
    /// Entries.
    pub entries: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Sockets, pipes and devices, which are left out.
    pub skipped: u64,
    /// Files that a folder listed, and that were gone before they were read.
    pub vanished: u64,
}

/// Packs `source`, with all that is below it, under `name`. Links are packed as links; `source` itself
/// too, unless `follow`.
///
/// # Errors
///
/// [`ArchiveError`] if a file cannot be read, `source` itself is none that is packed, or the stream takes
/// no more.
pub fn pack(
    source: &Path,
    name: &[u8],
    follow: bool,
    out: &mut dyn Room,
) -> Result<Packed, ArchiveError> {
    let shown = source.as_os_str().as_bytes();
    let failed = |error: io::Error| ArchiveError::file(shown, error);
    let real = if follow {
        source.canonicalize().map_err(failed)?
    } else {
        source.to_path_buf()
    };
    let mut packing = Packing {
        out,
        links: HashMap::new(),
        packed: Packed::default(),
    };
    packing.add(CWD, real.as_os_str().as_bytes(), name, 0)?;
    let end = packing.out.write_all(&[0; 2 * BLOCK]);
    end.and_then(|()| packing.out.flush())
        .map_err(ArchiveError::Stream)?;
    Ok(packing.packed)
}

struct Packing<'a> {
    out: &'a mut dyn Room,
    /// Files of more than one name, by device and number, and the name that they were packed under.
    links: HashMap<(u64, u64), Vec<u8>>,
    packed: Packed,
}

impl Packing<'_> {
    /// Packs the file `file` of a folder as `name`.
    fn add(
        &mut self,
        folder: BorrowedFd<'_>,
        file: &[u8],
        name: &[u8],
        depth: usize,
    ) -> Result<(), ArchiveError> {
        let stat = rustix::fs::statat(folder, file, AtFlags::SYMLINK_NOFOLLOW);
        let Some(stat) = self.if_there(stat, name, depth)? else {
            return Ok(());
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.add_folder(folder, file, name, depth),
            FileType::RegularFile => match self.packed_as(&stat) {
                Some(first) => self.entry(EntryType::Link, &stat, name, Some(&first), 0),
                None => self.add_file(folder, file, name, depth),
            },
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(folder, file, Vec::new());
                let Some(link) = self.if_there(link, name, depth)? else {
                    return Ok(());
                };
                self.entry(EntryType::Symlink, &stat, name, Some(link.as_bytes()), 0)
            }
            // Who asks for one thing is not to get none.
            _ if depth == 0 => {
                let why = "a device, socket or pipe cannot be copied";
                Err(ArchiveError::unfit(name, why))
            }
            _ => {
                self.packed.skipped += 1;
                Ok(())
            }
        }
    }

    /// The name that a file was packed under already. One of a single name cannot have been: if its number
    /// is known, then that of a file that has gone since.
    fn packed_as(&self, stat: &Stat) -> Option<Vec<u8>> {
        let first = self.links.get(&id(stat));
        first.filter(|_| stat.st_nlink > 1).cloned()
    }

    /// What the system says of a file. One that a folder has listed may be gone since, which stops nobody
    /// who copies what others work on: it is counted, and left out.
    fn if_there<T>(
        &mut self,
        said: Result<T, Errno>,
        name: &[u8],
        depth: usize,
    ) -> Result<Option<T>, ArchiveError> {
        match said {
            Err(Errno::NOENT) if depth > 0 => {
                self.packed.vanished += 1;
                Ok(None)
            }
            said => said
                .map(Some)
                .map_err(|error| ArchiveError::file(name, error)),
        }
    }

    fn add_folder(
        &mut self,
        folder: BorrowedFd<'_>,
        file: &[u8],
        name: &[u8],
        depth: usize,
    ) -> Result<(), ArchiveError> {
        let failed = |error: Errno| ArchiveError::file(name, error);
        if depth > MAX_DEPTH {
            let why = "more than 512 folders lie above it";
            return Err(ArchiveError::unfit(name, why));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(folder, file, flags, Mode::empty());
        let Some(opened) = self.if_there(opened, name, depth)? else {
            return Ok(());
        };
        let stat = rustix::fs::fstat(&opened).map_err(failed)?;
        let slashed = [name, b"/"].concat();
        self.entry(EntryType::Directory, &stat, &slashed, None, 0)?;
        let mut listed = Dir::new(opened).map_err(failed)?;
        while let Some(found) = listed.read() {
            let found = found.map_err(failed)?;
            let below = found.file_name().to_bytes();
            if below != b"." && below != b".." {
                let name = [&slashed, below].concat();
                let folder = listed.fd().map_err(failed)?;
                self.add(folder, below, &name, depth + 1)?;
            }
        }
        Ok(())
    }

    fn add_file(
        &mut self,
        folder: BorrowedFd<'_>,
        file: &[u8],
        name: &[u8],
        depth: usize,
    ) -> Result<(), ArchiveError> {
        let failed = |error: Errno| ArchiveError::file(name, error);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(folder, file, flags, Mode::empty());
        let Some(opened) = self.if_there(opened, name, depth)? else {
            return Ok(());
        };
        let stat = rustix::fs::fstat(&opened).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(failed(Errno::AGAIN));
        }
        if stat.st_nlink > 1 {
            self.links.insert(id(&stat), name.to_vec());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let pieces = pieces(&opened, &stat, size).map_err(failed)?;
        let mut opened = File::from(opened);
        // What has a size and data has blocks, too, unless it is little or the kernel makes it.
        if pieces.is_none() && stat.st_blocks == 0 && size <= MAX_PAGE {
            return self.add_unsized(&mut opened, &stat, name);
        }
        let stored = match &pieces {
            None => {
                self.entry(EntryType::Regular, &stat, name, None, size)?;
                size
            }
            Some(pieces) => self.sparse_entry(&stat, name, pieces, size)?,
        };
        let whole = [Piece {
            offset: 0,
            length: size,
        }];
        for piece in pieces.as_deref().unwrap_or(&whole) {
            if pieces.is_some() {
                let to = io::SeekFrom::Start(piece.offset);
                io::Seek::seek(&mut opened, to).map_err(|error| ArchiveError::file(name, error))?;
            }
            self.copy(&mut opened, piece.length, name)?;
        }
        pad(stored, &mut self.out).map_err(ArchiveError::Stream)?;
        self.packed.bytes = self.packed.bytes.saturating_add(size);
        Ok(())
    }

    /// Packs a file that is as long as what can be read of it.
    fn add_unsized(
        &mut self,
        file: &mut File,
        stat: &Stat,
        name: &[u8],
    ) -> Result<(), ArchiveError> {
        let told = usize::try_from(stat.st_size).unwrap_or(0);
        let most = if told == 0 { MAX_UNTOLD } else { told };
        let mut data = Vec::new();
        let mut chunk = PAGE;
        while data.len() <= most {
            let read = read_into(&mut data, chunk, file);
            let count = read.map_err(|error| match error {
                CopyError::Reading(error) | CopyError::Writing(error) => {
                    ArchiveError::file(name, error)
                }
            })?;
            if count == 0 {
                break;
            }
            chunk = CHUNK;
        }
        if data.len() > most && told == 0 {
            let why =
                "it does not tell its size, and has more than 16 MiB: `sovereign fs cat` reads it";
            return Err(ArchiveError::unfit(name, why));
        }
        // What grows is packed as it was.
        data.truncate(most);
        let size = data.len() as u64;
        self.entry(EntryType::Regular, stat, name, None, size)?;
        let written = self.out.write_all(&data);
        written
            .and_then(|()| pad(size, &mut self.out))
            .map_err(ArchiveError::Stream)?;
        self.packed.bytes = self.packed.bytes.saturating_add(size);
        Ok(())
    }

    fn copy(&mut self, file: &mut File, length: u64, name: &[u8]) -> Result<(), ArchiveError> {
        let mut left = length;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let count = read_into(self.out, most, file).map_err(|error| match error {
                CopyError::Reading(error) => ArchiveError::file(name, error),
                CopyError::Writing(error) => ArchiveError::Stream(error),
            })?;
            if count == 0 {
                let problem = io::Error::other("it became shorter while it was read");
                return Err(ArchiveError::file(name, problem));
            }
            left -= count as u64;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        kind: EntryType,
        stat: &Stat,
        name: &[u8],
        link: Option<&[u8]>,
        size: u64,
    ) -> Result<(), ArchiveError> {
        let mut header = new_header(kind, stat, size);
        self.packed.entries += 1;
        header::write(&mut header, name, link, modified(stat), &mut self.out)
            .map_err(ArchiveError::Stream)
    }

    /// The header of a sparse file in GNU's old form, which every tar reads. Returns how much data
    /// follows.
    fn sparse_entry(
        &mut self,
        stat: &Stat,
        name: &[u8],
        pieces: &[Piece],
        size: u64,
    ) -> Result<u64, ArchiveError> {
        let stored = pieces.iter().map(|piece| piece.length).sum();
        let mut header = new_header(EntryType::GNUSparse, stat, stored);
        self.packed.entries += 1;
        let mut rest = pieces;
        if let Some(gnu) = header.as_gnu_mut() {
            gnu.set_real_size(size);
            rest = fill(&mut gnu.sparse, rest);
            gnu.set_is_extended(!rest.is_empty());
        }
        let mut write = || {
            header::write(&mut header, name, None, modified(stat), &mut self.out)?;
            while !rest.is_empty() {
                let mut extension = GnuExtSparseHeader::new();
                rest = fill(extension.sparse_mut(), rest);
                extension.set_is_extended(!rest.is_empty());
                self.out.write_all(extension.as_bytes())?;
            }
            Ok(stored)
        };
        write().map_err(ArchiveError::Stream)
    }
}

fn new_header(kind: EntryType, stat: &Stat, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & MODE_BITS);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_size(size);
    header
}

/// What is the same for all names of a file.
const fn id(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn modified(stat: &Stat) -> Moment {
    Moment {
        seconds: stat.st_mtime,
        nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_with_the_number_of_one_that_has_gone_is_none_of_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        std::fs::write(&path, "data").unwrap();
        let stat = rustix::fs::stat(&path).unwrap();
        let mut out = Vec::new();
        let mut packing = Packing {
            out: &mut out,
            links: HashMap::from([(id(&stat), b"gone".to_vec())]),
            packed: Packed::default(),
        };
        let path = path.as_os_str().as_bytes();
        packing.add(CWD, path, b"new", 0).unwrap();
        assert_eq!(packing.packed.bytes, 4);
    }
}
