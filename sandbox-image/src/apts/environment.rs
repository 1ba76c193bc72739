//! The managed environment of the local tier: a folder of the user's with T-APTS in it, made without
//! network, and looked at before each use.
//!
//! ```text
//!  <data>/apts/<digest>/           for PYTHONPATH; the package and nothing else
//!  <data>/apts/<digest>.verified   the stamp of the folder when it was last compared, file by file
//!  <data>/apts/.new-*/             being made, or left by a process that was killed
//! ```
//!
//! The stamp is a digest of what changes with every change (inode, length, times) of all files and
//! folders: some thirty calls of the system, and no file is read. When it differs, every file is
//! compared with the one in this program; a folder that does not hold the package, or holds more than
//! that, is replaced by a new one in one step. So what a command of an unconfined sandbox leaves there by
//! accident does not reach the next one. Against malice it is no guard: such a command may do whatever the
//! user may, write to stamps too.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tempfile::TempDir;

use crate::digest::{Digest, Hasher};
use crate::store::{Stamp, Store};

use super::FILES;

/// How the name of a folder begins that is being made.
const UNFINISHED: &str = ".new-";

/// Making one takes milliseconds: what is older than this was left.
const ABANDONED_AFTER: Duration = Duration::from_secs(600);

/// The folder cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}", path = path.display())]
pub struct EnvironmentError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The folder below the user's data, if it is there and is what it should be, by its stamp.
#[must_use]
pub fn find(store: &Store) -> Option<PathBuf> {
    let place = Place::new(store);
    let recorded = fs::read_to_string(&place.record).ok()?;
    let stamp = stamp_of(&place.folder).ok()?;
    (recorded == stamp.digest.to_hex()).then_some(place.folder)
}

/// The folder below the user's data, made if it is not there, and made anew if it is not what it
/// should be. Others may do the same at the same time.
///
/// # Errors
/// If it cannot be made.
pub fn ensure(store: &Store) -> Result<PathBuf, EnvironmentError> {
    if let Some(folder) = find(store) {
        return Ok(folder);
    }
    let place = Place::new(store);
    if !is_intact(&place.folder) {
        place.replace()?;
    }
    place.record();
    Ok(place.folder)
}

/// What processes that were killed have left of their attempts to make one.
pub(crate) fn unfinished(store: &Store) -> Vec<PathBuf> {
    let parent = Place::new(store).parent;
    let is_left = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let age = entry.metadata().ok()?.modified().ok()?.elapsed().ok()?;
        let is_ours = name.to_str()?.starts_with(UNFINISHED);
        (is_ours && age > ABANDONED_AFTER).then_some(())
    };
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries
        .filter(|entry| is_left(entry).is_some())
        .map(|entry| entry.path())
        .collect()
}

/// Where things are.
struct Place {
    parent: PathBuf,
    folder: PathBuf,
    record: PathBuf,
}

impl Place {
    fn new(store: &Store) -> Self {
        let parent = store.root().join("apts");
        let name = super::digest().to_hex();
        Self {
            folder: parent.join(&name),
            record: parent.join(format!("{name}.verified")),
            parent,
        }
    }

    /// Puts a new folder into place. What was there goes.
    fn replace(&self) -> Result<(), EnvironmentError> {
        // A home that does not exist is not to be made by us: `.local/share/sovereign` is.
        let is_near = |folder: &Path| folder.ancestors().take(5).any(Path::is_dir);
        if !is_near(&self.parent) {
            let missing = io::ErrorKind::NotFound.into();
            return Err(failed("create", &self.parent)(missing));
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.parent)
            .map_err(failed("create", &self.parent))?;
        let new = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempdir_in(&self.parent)
            .map_err(failed("write to", &self.parent))?;
        fill(&new).map_err(failed("write", new.path()))?;
        self.put(&new).map_err(failed("create", &self.folder))
    }

    /// One step: whoever looks finds the old folder or the new one.
    fn put(&self, new: &TempDir) -> io::Result<()> {
        let exchange = |flags| renameat_with(CWD, new.path(), CWD, &self.folder, flags);
        match exchange(RenameFlags::NOREPLACE) {
            // Somebody else's, made in the meantime: a command may be reading it already.
            Err(Errno::EXIST) if is_intact(&self.folder) => {}
            Err(Errno::EXIST) => exchange(RenameFlags::EXCHANGE)?,
            result => result?,
        }
        // What came out by the exchange is removed with the temporary folder's name.
        Ok(())
    }

    /// Notes the stamp of the folder. It only saves work, so nothing is said if it cannot be noted.
    fn record(&self) {
        let Ok(stamp) = stamp_of(&self.folder) else {
            return;
        };
        // A change within the clock's same tick would not show: better to compare again next time.
        if stamp.is_fresh || !is_intact(&self.folder) {
            return;
        }
        let write = |mut file: tempfile::NamedTempFile| {
            io::Write::write_all(&mut file, stamp.digest.to_hex().as_bytes())?;
            file.persist(&self.record).map_err(io::Error::from)
        };
        let _ = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(&self.parent)
            .and_then(write);
    }
}

/// Writes the package, for everyone to read and nobody to write.
fn fill(folder: &TempDir) -> io::Result<()> {
    super::write_to(folder.path())?;
    for (path, is_folder) in below(folder.path())? {
        let mode = if is_folder { 0o755 } else { 0o444 };
        fs::set_permissions(folder.path().join(path), Permissions::from_mode(mode))?;
    }
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755))
}

/// Whether a folder holds the package and nothing else, all of it ours.
fn is_intact(folder: &Path) -> bool {
    let us = rustix::process::geteuid().as_raw();
    let sound = |path: &Path| {
        fs::symlink_metadata(path)
            .is_ok_and(|meta| meta.uid() == us && !meta.is_symlink() && meta.mode() & 0o022 == 0)
    };
    let Ok(found) = below(folder) else {
        return false;
    };
    let files: BTreeSet<_> = found
        .iter()
        .filter(|(_, is_folder)| !is_folder)
        .map(|(path, _)| path.as_path())
        .collect();
    let expected: BTreeSet<_> = FILES.iter().map(|file| Path::new(file.path)).collect();
    let folders: BTreeSet<_> = found
        .iter()
        .filter(|(_, is_folder)| *is_folder)
        .map(|(path, _)| path.as_path())
        .collect();
    let needed: BTreeSet<_> = FILES
        .iter()
        .flat_map(|file| Path::new(file.path).ancestors().skip(1))
        .filter(|path| !path.as_os_str().is_empty())
        .collect();
    files == expected
        && folders == needed
        && sound(folder)
        && found.iter().all(|(path, _)| sound(&folder.join(path)))
        && FILES.iter().all(|file| {
            fs::read(folder.join(file.path)).is_ok_and(|bytes| bytes == file.text.as_bytes())
        })
}

/// What tells a folder from one that was changed.
struct FolderStamp {
    digest: Digest,
    /// Whether it was changed so lately that another change might not show.
    is_fresh: bool,
}

fn stamp_of(folder: &Path) -> io::Result<FolderStamp> {
    let mut hash = Hasher::default();
    let now = SystemTime::now();
    let mut is_fresh = false;
    let mut note = |path: &Path| -> io::Result<()> {
        let stamp = Stamp::of(path)?;
        is_fresh |= !stamp.settles_in(now).is_zero();
        hash.update(&stamp.to_bytes());
        Ok(())
    };
    note(folder)?;
    let found = below(folder)?;
    for (path, _) in &found {
        note(&folder.join(path))?;
    }
    for (path, _) in &found {
        hash.update(path.as_os_str().as_encoded_bytes());
        hash.update(b"\n");
    }
    Ok(FolderStamp {
        digest: hash.finish().0,
        is_fresh,
    })
}

/// All that is below a folder, sorted, and whether it is a folder itself.
fn below(root: &Path) -> io::Result<Vec<(PathBuf, bool)>> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            let is_folder = entry.file_type()?.is_dir();
            if is_folder {
                pending.push(path.clone());
            }
            found.push((path, is_folder));
        }
    }
    found.sort();
    Ok(found)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EnvironmentError {
    move |source| EnvironmentError {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn store() -> (TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("data")).unwrap();
        (folder, store)
    }

    /// Made, and old enough that its stamp can be trusted.
    fn settled(store: &Store) -> PathBuf {
        ensure(store).unwrap();
        thread::sleep(Duration::from_millis(50));
        ensure(store).unwrap()
    }

    fn left_over(store: &Store) -> Vec<String> {
        let names = fs::read_dir(store.root().join("apts")).unwrap();
        names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with(UNFINISHED))
            .collect()
    }

    #[test]
    fn it_is_made_once_and_then_found_by_its_stamp() {
        let (_folder, store) = store();
        assert_eq!(find(&store), None);
        let folder = settled(&store);
        assert!(is_intact(&folder));
        assert_eq!(find(&store), Some(folder));
        assert!(left_over(&store).is_empty());
    }

    #[test]
    fn what_another_process_made_meanwhile_is_not_taken_from_its_readers() {
        let (_folder, store) = store();
        let folder = ensure(&store).unwrap();
        let inode = || fs::metadata(&folder).unwrap().ino();
        let first = inode();
        // As a process does that has looked before the other one was done.
        Place::new(&store).replace().unwrap();
        assert_eq!(inode(), first);
        assert!(left_over(&store).is_empty());
    }

    #[test]
    fn any_change_is_seen_and_undone() {
        type Change = fn(&Path);
        let changes: [Change; 5] = [
            |folder| {
                let path = folder.join("terminai_apts/model.py");
                fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
                fs::write(path, "import os").unwrap();
            },
            |folder| fs::write(folder.join("json.py"), "print('mine')").unwrap(),
            |folder| fs::create_dir(folder.join("apts/__pycache__")).unwrap(),
            |folder| fs::remove_file(folder.join("apts/__init__.py")).unwrap(),
            |folder| fs::remove_dir_all(folder).unwrap(),
        ];
        let (_folder, store) = store();
        for change in changes {
            let folder = settled(&store);
            assert_eq!(find(&store).as_ref(), Some(&folder));
            change(&folder);
            assert_eq!(find(&store), None);
            assert!(is_intact(&ensure(&store).unwrap()));
            assert!(left_over(&store).is_empty());
        }
    }

    #[test]
    fn many_that_start_at_once_all_get_a_whole_one() {
        let (_folder, store) = store();
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| assert!(is_intact(&ensure(&store).unwrap())));
            }
        });
        assert!(left_over(&store).is_empty());
    }

    #[test]
    fn a_home_that_does_not_exist_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        let store = Store::open(home.join(".local/share/sovereign")).unwrap();
        ensure(&store).unwrap_err();
        assert!(!home.exists());
        fs::create_dir(&home).unwrap();
        ensure(&store).unwrap();
    }

    #[test]
    fn only_an_old_attempt_is_unfinished() {
        let (_folder, store) = store();
        assert!(unfinished(&store).is_empty());
        ensure(&store).unwrap();
        let path = store.root().join("apts/.new-x");
        fs::create_dir(&path).unwrap();
        assert!(unfinished(&store).is_empty());
        let old = SystemTime::now() - 2 * ABANDONED_AFTER;
        fs::File::open(&path).unwrap().set_modified(old).unwrap();
        assert_eq!(unfinished(&store), [path]);
    }

    #[test]
    fn a_place_that_cannot_be_written_to_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        let store = Store::open(&data).unwrap();
        fs::write(data.join("apts"), "in the way").unwrap();
        let error = ensure(&store).unwrap_err().to_string();
        assert!(error.contains("data/apts"), "{error}");
    }
}
