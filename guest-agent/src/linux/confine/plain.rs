//! Serving without confinement: a folder of its own is all that a command gets.
//!
//! Whoever finds the folder later can tell that nobody needs it any more: this process holds a lock on
//! it (`flock(2)`) for as long as it lives.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::process::getuid;

use super::kept::Kept;

/// How often a name is tried that somebody else has taken.
const ATTEMPTS: u32 = 64;

/// A folder that is home and working directory to commands that name none. Unless it is kept, it is
/// removed with all that is in it.
#[derive(Debug)]
pub(super) struct PlainHome {
    path: PathBuf,
    /// Of one that nobody else may remove; without it, it stays.
    lock: Option<OwnedFd>,
}

impl PlainHome {
    pub(super) fn new() -> io::Result<Self> {
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700);
        for attempt in 0..ATTEMPTS {
            let name = format!("sovereign-local.{}.{attempt}", std::process::id());
            let path = Path::new("/tmp").join(name);
            match builder.create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => {
                    result?;
                    let lock = Some(lock(&path)?);
                    return Ok(Self { path, lock });
                }
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// One that stays.
    pub(super) fn kept(kept: &Kept) -> io::Result<Self> {
        Ok(Self {
            path: kept.home()?,
            lock: None,
        })
    }

    pub(super) fn path(&self) -> &[u8] {
        let path: &OsStr = self.path.as_ref();
        path.as_bytes()
    }
}

impl Drop for PlainHome {
    fn drop(&mut self) {
        if self.lock.is_none() {
            return;
        }
        // A command may have made a folder in it that its user cannot enter; what is left then can
        // be told by its name.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn lock(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = open(folder, flags, Mode::empty())?;
    flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
    Ok(fd)
}

/// The user of commands that name none: the agent's own. Root says so, or it would be user 1000,
/// which in a sandbox is nobody, but on the host may be somebody.
pub(super) fn user() -> Option<String> {
    getuid().is_root().then(|| "0".to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_home_is_private_and_leaves_nothing_behind() {
        let home = PlainHome::new().unwrap();
        let path = home.path.clone();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        std::fs::create_dir_all(path.join("a/b")).unwrap();
        std::fs::write(path.join("a/b/c"), "x").unwrap();
        drop(home);
        // Another test may have taken the name by now.
        assert!(!path.join("a").exists());
    }

    #[test]
    fn a_home_is_locked_while_it_is_in_use() {
        let home = PlainHome::new().unwrap();
        assert!(lock(&home.path).is_err());
    }

    #[test]
    fn two_homes_are_two_folders() {
        let (one, two) = (PlainHome::new().unwrap(), PlainHome::new().unwrap());
        assert_ne!(one.path(), two.path());
    }
}
