//! From a tar stream to files.

use std::io::{self, BufRead};
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use tar::EntryType;

use crate::error::ArchiveError;
use crate::header::Moment;
use crate::new_file::NewFile;
use crate::place::{Links, Place};
use crate::read::{Entries, Entry, Owner};
use crate::room::CopyError;

/// An archive with more folders than this is not believed.
const MAX_FOLDERS: usize = 1 << 20;
/// `UTIME_OMIT` of utimensat(2).
const OMIT: i64 = rustix::fs::UTIME_OMIT;

/// What may be unpacked, and how.
#[derive(Debug, Clone, Copy)]
pub struct UnpackOptions<'a> {
    /// The first part that the name of every entry must have; any without one.
    pub root: Option<&'a [u8]>,
    /// What becomes of links in an entry's way.
    pub links: Links,
    /// The bits of a mode that are taken over.
    pub modes: u32,
    /// Whether files belong to whom they belonged to, by number; else to whoever unpacks them.
    pub owners: bool,
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unpacked {
    /// Entries.
    pub entries: u64,
    /// Bytes of their files.
    pub bytes: u64,
}

/// Unpacks a tar stream beneath `folder`. Files there are replaced, each at once; folders are merged.
/// Whatever was unpacked before an error stays.
///
/// # Errors
///
/// [`ArchiveError`]: the stream is no archive, an entry would leave the folder or is neither a file
/// nor a folder nor a link, a device, socket or pipe is in its way, or the system said no.
pub fn unpack(
    stream: &mut dyn BufRead,
    folder: BorrowedFd<'_>,
    options: UnpackOptions<'_>,
) -> Result<Unpacked, ArchiveError> {
    let mut unpacking = Unpacking {
        entries: Entries::new(stream),
        place: Place::new(folder, options.links, options.root),
        modes: options.modes,
        owners: options.owners,
        folders: Vec::new(),
        unpacked: Unpacked::default(),
    };
    while let Some(entry) = unpacking.entries.next_entry()? {
        unpacking.take(&entry)?;
    }
    unpacking.finish_folders()
}

struct Unpacking<'a> {
    entries: Entries<&'a mut dyn BufRead>,
    place: Place<'a>,
    modes: u32,
    owners: bool,
    /// Folders that were made, whose modes and times are set when nothing changes in them any more.
    folders: Vec<Folder>,
    unpacked: Unpacked,
}

/// A folder that was made, and what it is to be in the end.
struct Folder {
    path: Vec<u8>,
    mode: Mode,
    owner: Option<Owner>,
    modified: Moment,
}

impl Unpacking<'_> {
    fn take(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        let parts = self.place.check(&entry.path)?;
        let Some(name) = parts.last() else {
            // The folder itself stays as it is.
            return Ok(());
        };
        let failed = |error: Errno| ArchiveError::file(&entry.path, error);
        match entry.kind {
            EntryType::Directory => self.make_folder(entry, &parts, name)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.write_file(entry, &parts, name)?;
                self.unpacked.bytes = self.unpacked.bytes.saturating_add(entry.size);
            }
            EntryType::Symlink => self.make_link(entry, &parts, name)?,
            EntryType::Link => {
                let target = self.place.check(&entry.link)?;
                let Some(target_name) = target.last() else {
                    return Err(ArchiveError::refused(&entry.path, "it links to a folder"));
                };
                let from = rustix::io::dup(self.place.parent(&target)?).map_err(failed)?;
                let parent = self.place.parent(&parts)?;
                if target != parts {
                    may_be_replaced(parent, name, &entry.path)?;
                    let none = AtFlags::empty();
                    let link = || rustix::fs::linkat(&from, *target_name, parent, *name, none);
                    replacing(parent, name, link).map_err(failed)?;
                }
            }
            _ => {
                let why = "it is neither a file nor a folder nor a link";
                return Err(ArchiveError::refused(&entry.path, why));
            }
        }
        self.unpacked.entries += 1;
        Ok(())
    }

    /// Whom the entry is to belong to, if that is not whoever unpacks it.
    fn owner(&self, entry: &Entry) -> Result<Option<Owner>, ArchiveError> {
        let missing = || ArchiveError::Malformed("an owner");
        match self.owners {
            true => entry.owner.ok_or_else(missing).map(Some),
            false => Ok(None),
        }
    }

    fn make_link(
        &mut self,
        entry: &Entry,
        parts: &[&[u8]],
        name: &[u8],
    ) -> Result<(), ArchiveError> {
        let owner = self.owner(entry)?;
        let parent = self.place.parent(parts)?;
        let link = entry.link.as_slice();
        may_be_replaced(parent, name, &entry.path)?;
        replacing(parent, name, || rustix::fs::symlinkat(link, parent, name))
            .map_err(|error| ArchiveError::file(&entry.path, error))?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if let Some(owner) = owner {
            let (uid, gid) = owner.ids();
            rustix::fs::chownat(parent, name, uid, gid, flags)
                .map_err(|error| ArchiveError::owner(&entry.path, owner, error))?;
        }
        // Not every file system knows times of links.
        let _ = rustix::fs::utimensat(parent, name, &times(entry.modified), flags);
        Ok(())
    }

    fn make_folder(
        &mut self,
        entry: &Entry,
        parts: &[&[u8]],
        name: &[u8],
    ) -> Result<(), ArchiveError> {
        let owner = self.owner(entry)?;
        let parent = self.place.parent(parts)?;
        match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            Ok(()) if self.folders.len() < MAX_FOLDERS => {
                self.folders.push(Folder {
                    path: parts.join(&b'/'),
                    mode: Mode::from_raw_mode(entry.mode & self.modes),
                    owner,
                    modified: entry.modified,
                });
                Ok(())
            }
            Ok(()) => Err(ArchiveError::Malformed("it has too many folders")),
            Err(Errno::EXIST) => {
                let path = parts.join(&b'/');
                let there = self.place.open(&path, OFlags::PATH);
                there.map_err(|error| ArchiveError::resolving(&path, error))?;
                Ok(())
            }
            Err(error) => Err(ArchiveError::file(&entry.path, error)),
        }
    }

    /// Writes a file that has no name at first: what it replaces stays until it is whole.
    fn write_file(
        &mut self,
        entry: &Entry,
        parts: &[&[u8]],
        name: &[u8],
    ) -> Result<(), ArchiveError> {
        let owner = self.owner(entry)?;
        let parent = self.place.parent(parts)?;
        let failed = |error: io::Error| ArchiveError::file(&entry.path, error);
        may_be_replaced(parent, name, &entry.path)?;
        let mut new = NewFile::create(parent).map_err(failed)?;
        let copied = self.entries.copy(entry, new.file());
        copied.map_err(|error| match error {
            CopyError::Reading(error) => ArchiveError::Stream(error),
            CopyError::Writing(error) => failed(error),
        })?;
        if let Some(owner) = owner {
            let (uid, gid) = owner.ids();
            rustix::fs::fchown(new.file(), uid, gid)
                .map_err(|error| ArchiveError::owner(&entry.path, owner, error))?;
        }
        let mode = Mode::from_raw_mode(entry.mode & self.modes);
        rustix::fs::fchmod(new.file(), mode)
            .and_then(|()| rustix::fs::futimens(new.file(), &times(entry.modified)))
            .map_err(|error| failed(error.into()))?;
        new.place(name).map_err(failed)
    }

    /// Deeper folders come later, and are finished first.
    fn finish_folders(self) -> Result<Unpacked, ArchiveError> {
        for folder in self.folders.iter().rev() {
            let path = folder.path.as_slice();
            let opened = match self.place.open(path, OFlags::RDONLY) {
                // A later entry may have replaced it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                opened => opened.map_err(|error| ArchiveError::resolving(path, error))?,
            };
            if let Some(owner) = folder.owner {
                let (uid, gid) = owner.ids();
                rustix::fs::fchown(&opened, uid, gid)
                    .map_err(|error| ArchiveError::owner(path, owner, error))?;
            }
            rustix::fs::fchmod(&opened, folder.mode)
                .and_then(|()| rustix::fs::futimens(&opened, &times(folder.modified)))
                .map_err(|error| ArchiveError::file(path, error))?;
        }
        Ok(self.unpacked)
    }
}

impl Owner {
    fn ids(self) -> (Option<Uid>, Option<Gid>) {
        let (uid, gid) = (Uid::from_raw(self.user), Gid::from_raw(self.group));
        (Some(uid), Some(gid))
    }
}

/// Refuses to put anything in the place of a device, a socket or a pipe: others have it open, and the
/// system needs some of them. Whoever makes one there between this look and the replacement is the
/// user, and not the archive, which has none.
fn may_be_replaced(parent: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<(), ArchiveError> {
    let there = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => FileType::from_raw_mode(there.st_mode),
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(ArchiveError::file(path, error)),
    };
    match there {
        FileType::RegularFile | FileType::Directory | FileType::Symlink => Ok(()),
        _ => Err(ArchiveError::unfit(
            path,
            "a device, socket or pipe is there, and is not replaced",
        )),
    }
}

/// Makes something that may have to take another file's place.
fn replacing(
    parent: BorrowedFd<'_>,
    name: &[u8],
    make: impl Fn() -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    match make() {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
            make()
        }
        other => other,
    }
}

/// The time of access stays.
fn times(modified: Moment) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: OMIT,
        },
        last_modification: Timespec {
            tv_sec: modified.seconds,
            tv_nsec: modified.nanoseconds.into(),
        },
    }
}
