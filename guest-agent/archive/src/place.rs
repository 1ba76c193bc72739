//! A folder that nothing leaves: every path is resolved beneath it, by the kernel.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::ArchiveError;

/// Folders that an archive names only in passing.
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o755);

/// What becomes of links that lie in an entry's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// They are followed as far as they stay beneath the folder.
    StayBeneath,
    /// The entry is refused: for archives that come from a sandbox.
    Refuse,
}

/// A folder, and how its paths are resolved.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    folder: BorrowedFd<'a>,
    resolve: ResolveFlags,
    /// The first part that every path must have.
    root: Option<&'a [u8]>,
    /// The parent of the last entry: most have the same one.
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl<'a> Place<'a> {
    pub(crate) fn new(folder: BorrowedFd<'a>, links: Links, root: Option<&'a [u8]>) -> Self {
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        Self {
            folder,
            resolve: match links {
                Links::StayBeneath => beneath,
                Links::Refuse => beneath | ResolveFlags::NO_SYMLINKS,
            },
            root,
            last: None,
        }
    }

    /// The parts of an entry's path. None at all stand for the folder itself.
    pub(crate) fn check<'p>(&self, path: &'p [u8]) -> Result<Vec<&'p [u8]>, ArchiveError> {
        if path.starts_with(b"/") {
            return Err(ArchiveError::refused(path, "its name is absolute"));
        }
        if path.contains(&0) {
            return Err(ArchiveError::refused(path, "its name contains a NUL"));
        }
        let parts: Vec<&[u8]> = path
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty() && *part != b".")
            .collect();
        if parts.contains(&&b".."[..]) {
            return Err(ArchiveError::refused(path, "its name contains \"..\""));
        }
        match (self.root, parts.first()) {
            (Some(root), Some(first)) if root != *first => Err(ArchiveError::refused(
                path,
                "it is not part of what was asked for",
            )),
            (Some(_), None) => Err(ArchiveError::refused(
                path,
                "it stands for the target itself",
            )),
            _ => Ok(parts),
        }
    }

    /// The folder of an entry, made if it is missing.
    pub(crate) fn parent(&mut self, parts: &[&[u8]]) -> Result<BorrowedFd<'_>, ArchiveError> {
        let path = match parts.split_last() {
            Some((_, [])) | None => return Ok(self.folder),
            Some((_, folders)) => folders.join(&b'/'),
        };
        if self.last.as_ref().is_none_or(|(last, _)| *last != path) {
            let opened = match self.open(&path, OFlags::PATH) {
                Err(Errno::NOENT) => {
                    self.make_folders(parts)?;
                    self.open(&path, OFlags::PATH)
                }
                other => other,
            };
            let opened = opened.map_err(|error| ArchiveError::resolving(&path, error))?;
            self.last = Some((path, opened));
        }
        Ok(self.last.as_ref().map_or(self.folder, |(_, fd)| fd.as_fd()))
    }

    fn make_folders(&self, parts: &[&[u8]]) -> Result<(), ArchiveError> {
        for end in 1..parts.len() {
            let Some((name, above)) = parts.get(..end).and_then(<[_]>::split_last) else {
                continue;
            };
            let above = above.join(&b'/');
            let parent = match above.as_slice() {
                [] => None,
                above => Some(
                    self.open(above, OFlags::PATH)
                        .map_err(|error| ArchiveError::resolving(above, error))?,
                ),
            };
            let parent = parent.as_ref().map_or(self.folder, AsFd::as_fd);
            match rustix::fs::mkdirat(parent, *name, FOLDER_MODE) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => {
                    let path = parts.get(..end).unwrap_or_default().join(&b'/');
                    return Err(ArchiveError::file(&path, error));
                }
            }
        }
        Ok(())
    }

    /// Opens a folder beneath this one.
    pub(crate) fn open(&self, path: &[u8], access: OFlags) -> Result<OwnedFd, Errno> {
        let flags = access | OFlags::DIRECTORY | OFlags::CLOEXEC;
        loop {
            match rustix::fs::openat2(self.folder, path, flags, Mode::empty(), self.resolve) {
                // Something was renamed meanwhile.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }
}
