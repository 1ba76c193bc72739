//! The folders of unconfined commands, and which of them nobody needs any more.
//!
//! An agent that was killed leaves its folder. It is told from one in use by two signs, which both
//! must say so: no process has the number in its name, and nobody holds its lock, which holds in
//! other containers that share the folder above too.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::process::{Pid, test_kill_process};

/// How their names begin, as the agent makes them: the number of its process follows, and a counter.
const PREFIX: &str = "sovereign-local.";

/// The folder that they are in.
pub(crate) const PLACE: &str = "/tmp";

/// A folder that nobody needs. While this value lives, nobody else removes it.
#[derive(Debug)]
pub(crate) struct Abandoned {
    pub(crate) path: PathBuf,
    _lock: OwnedFd,
}

impl Abandoned {
    /// Removes it with all that is in it.
    ///
    /// # Errors
    ///
    /// If something of it cannot be removed.
    pub(crate) fn remove(self) -> io::Result<()> {
        fs::remove_dir_all(&self.path)
    }
}

/// Those in a folder.
pub(crate) fn abandoned(place: &Path) -> Vec<Abandoned> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let (process, number) = name.to_str()?.strip_prefix(PREFIX)?.split_once('.')?;
            number.parse::<u32>().ok()?;
            let process = process.parse().ok().and_then(Pid::from_raw)?;
            let is_gone = test_kill_process(process) == Err(rustix::io::Errno::SRCH);
            if !is_gone {
                return None;
            }
            claim(entry.path())
        })
        .collect()
}

/// Takes a folder's lock, if it is a folder, ours, and free.
fn claim(path: PathBuf) -> Option<Abandoned> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = open(&path, flags, Mode::empty()).ok()?;
    let us = rustix::process::geteuid().as_raw();
    let is_ours = fs::symlink_metadata(&path).ok()?.uid() == us;
    let is_free = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
    (is_ours && is_free).then_some(Abandoned { path, _lock: lock })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// No process has this number (proc(5), pid_max).
    const NOBODY: &str = "4194305";

    fn names(place: &Path) -> Vec<String> {
        let name = |left: &Abandoned| left.path.file_name()?.to_str().map(str::to_owned);
        let mut names: Vec<_> = abandoned(place).iter().filter_map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn only_folders_of_the_dead_are_abandoned() {
        let place = tempfile::tempdir().unwrap();
        let left = format!("{PREFIX}{NOBODY}.0");
        let live = format!("{PREFIX}{}.0", std::process::id());
        let other = format!("{PREFIX}{NOBODY}");
        for name in [&left, &live, &other, "elsewhere.1.0"] {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        fs::write(place.path().join(format!("{PREFIX}{NOBODY}.1")), "").unwrap();
        symlink("/", place.path().join(format!("{PREFIX}{NOBODY}.2"))).unwrap();
        assert_eq!(names(place.path()), [left.as_str()]);
        fs::write(place.path().join(&left).join("file"), "").unwrap();
        for left in abandoned(place.path()) {
            left.remove().unwrap();
        }
        assert!(names(place.path()).is_empty());
        assert!(place.path().join(live).exists());
    }

    #[test]
    fn a_folder_whose_lock_is_held_is_in_use_somewhere() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join(format!("{PREFIX}{NOBODY}.0"));
        fs::create_dir(&path).unwrap();
        let held = claim(path);
        assert!(names(place.path()).is_empty());
        drop(held);
        assert_eq!(names(place.path()).len(), 1);
    }
}
