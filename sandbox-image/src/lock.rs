//! Advisory locks between processes, with deadlines, that name their holder.
//!
//! A lock is `flock(2)` on a file that stays where it is: the kernel drops it when its holder dies,
//! however that happens. The holder writes its process id and what it does into the file, for the
//! message of whoever waits in vain. The text is a courtesy and never trusted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// How long a waiting process sleeps between two attempts. `flock` has no wait with a deadline.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// The most that is read of what a holder wrote about itself.
const MAX_HOLDER_TEXT: u64 = 200;

/// A lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Its holder kept it for too long.
    #[error(
        "{path}: still locked after {waited:?} by {holder}; wait for it to end, or end it",
        path = path.display()
    )]
    Held {
        /// The lock file.
        path: PathBuf,
        /// What the holder wrote about itself.
        holder: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The lock file could not be used.
    #[error("cannot use the lock file {path}", path = path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A held lock. Dropping it lets go.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Who else may hold a lock at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody.
    Exclusive,
    /// Whoever shares as well.
    Shared,
}

impl Lock {
    /// Takes a lock for `purpose` (`building the root file system`), or gives up after `patience`.
    /// `waiting` is called once, with the holder, when the lock is not free at once.
    ///
    /// # Errors
    /// [`LockError::Held`] after `patience`, [`LockError::Io`] if the file cannot be used.
    pub fn acquire(
        path: &Path,
        sharing: Sharing,
        purpose: &str,
        patience: Duration,
        waiting: &mut dyn FnMut(&str),
    ) -> Result<Self, LockError> {
        let failed = |source| LockError::Io {
            path: path.to_owned(),
            source,
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        let start = Instant::now();
        let mut told = false;
        while !try_lock(&file, sharing).map_err(failed)? {
            if !told {
                waiting(&holder(&mut file));
                told = true;
            }
            let waited = start.elapsed();
            if waited >= patience {
                return Err(LockError::Held {
                    path: path.to_owned(),
                    holder: holder(&mut file),
                    waited: patience,
                });
            }
            thread::sleep(RETRY_INTERVAL.min(patience.saturating_sub(waited)));
        }
        if sharing == Sharing::Exclusive {
            // Best effort: a full disk must not keep anyone from cleaning up.
            let text = format!("process {} ({purpose})\n", std::process::id());
            let _ = file
                .set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| file.write_all(text.as_bytes()));
        }
        Ok(Self { _file: file })
    }
}

/// Takes the lock on `file` if it is free.
///
/// # Errors
/// What `flock` says, but for "held by another".
pub(crate) fn try_lock(file: &File, sharing: Sharing) -> io::Result<bool> {
    let operation = match sharing {
        Sharing::Exclusive => FlockOperation::NonBlockingLockExclusive,
        Sharing::Shared => FlockOperation::NonBlockingLockShared,
    };
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What the holder of a lock says of itself.
fn holder(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = file
        .rewind()
        .and_then(|()| file.take(MAX_HOLDER_TEXT).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().next().unwrap_or_default().trim();
    if read.is_err() || line.is_empty() {
        return "another process".to_owned();
    }
    line.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_PATIENCE: Duration = Duration::from_millis(1);

    fn take(path: &Path, sharing: Sharing) -> Result<Lock, LockError> {
        Lock::acquire(path, sharing, "testing", NO_PATIENCE, &mut |_| {})
    }

    #[test]
    fn held_lock_names_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let _held = take(&path, Sharing::Exclusive).unwrap();
        let error = take(&path, Sharing::Shared).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        assert!(error.contains("testing"), "{error}");
    }

    #[test]
    fn shared_locks_coexist_and_keep_exclusive_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = take(&path, Sharing::Shared).unwrap();
        let second = take(&path, Sharing::Shared).unwrap();
        assert!(take(&path, Sharing::Exclusive).is_err());
        drop((first, second));
        assert!(take(&path, Sharing::Exclusive).is_ok());
    }

    #[test]
    fn waiting_ends_when_the_holder_lets_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = take(&path, Sharing::Exclusive).unwrap();
        let mut waited_for = String::new();
        thread::scope(|scope| {
            scope.spawn(move || {
                thread::sleep(Duration::from_millis(30));
                drop(held);
            });
            Lock::acquire(
                &path,
                Sharing::Exclusive,
                "testing",
                Duration::from_secs(10),
                &mut |holder| waited_for = holder.to_owned(),
            )
            .unwrap();
        });
        assert!(waited_for.contains("testing"), "{waited_for}");
    }
}
