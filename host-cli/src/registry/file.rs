//! Files that are there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

/// Puts `bytes` in the place of a file, so that whoever reads it sees the old or the new one, also
/// after a crash. The caller is the only one who writes it.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = write_beside(path, bytes, File::sync_data)?;
    put(&new, path)
}

/// As [`replace`], but it is not waited for the disk: after a crash of the machine it may be neither.
pub(crate) fn replace_unsynced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = write_beside(path, bytes, |_| Ok(()))?;
    fs::rename(new, path)
}

/// Takes so much room on the disk for [`replace_in_room`].
pub(super) fn make_room(path: &Path, bytes: u64) -> io::Result<()> {
    let room = room(path);
    let file = options().truncate(true).open(&room)?;
    let taken = fallocate(&file, FallocateFlags::empty(), 0, bytes);
    if taken.is_err() {
        let _ = fs::remove_file(&room);
    }
    Ok(taken?)
}

/// As [`replace`], in the room that was taken before: a full disk does not matter then.
pub(super) fn replace_in_room(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let room = room(path);
    let file = OpenOptions::new().write(true).open(&room)?;
    let length = u64::try_from(bytes.len()).map_err(io::Error::other)?;
    if file.metadata()?.len() < length {
        return Err(ErrorKind::StorageFull.into());
    }
    file.write_all_at(bytes, 0)?;
    file.set_len(length)?;
    file.sync_data()?;
    put(&room, path)
}

/// Gives the room back.
pub(super) fn give_room_back(path: &Path) {
    // It may have been used, or never taken.
    let _ = fs::remove_file(room(path));
}

/// Writes what is to take the place of a file, and does with it what makes it whole.
fn write_beside(
    path: &Path,
    bytes: &[u8],
    finish: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<PathBuf> {
    let new = path.with_extension("new");
    let mut file = options().truncate(true).open(&new)?;
    match file.write_all(bytes).and_then(|()| finish(&file)) {
        Ok(()) => Ok(new),
        Err(error) => {
            // Half of it is of no use, and takes what a full disk has left.
            let _ = fs::remove_file(&new);
            Err(error)
        }
    }
}

fn put(new: &Path, path: &Path) -> io::Result<()> {
    fs::rename(new, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_data(),
        None => Ok(()),
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}

fn room(path: &Path) -> PathBuf {
    path.with_extension("room")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_room_is_replaced_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        replace(&path, b"old").unwrap();
        assert!(replace_in_room(&path, b"new").is_err());
        make_room(&path, 100).unwrap();
        assert!(replace_in_room(&path, &[b'x'; 101]).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        replace_in_room(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        make_room(&path, 100).unwrap();
        give_room_back(&path);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_replaced_leaves_nothing_half_done() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        replace(&path, b"old").unwrap();
        std::os::unix::fs::symlink("/dev/full", path.with_extension("new")).unwrap();
        replace(&path, b"new").unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
