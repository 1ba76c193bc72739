//! The disk of a sandbox that stays: what is written in it outlives its machine.
//!
//! A sparse file in the sandbox's state folder, made with an empty file system in it at the first
//! start. From then on it is the guest's alone: the host never looks at what is in it.

mod ext4;

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, getrlimit};
use rustix::rand::{GetRandomFlags, getrandom};

use self::ext4::{BLOCK, Identity};
use crate::lock::lock;

/// Its name in the state folder.
const NAME: &str = "disk";
/// How long the VMM of the last life may take to let go of it: it ends by itself when its supervisor
/// was killed.
const LETTING_GO: Duration = Duration::from_secs(10);

/// A disk that a machine cannot have.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It cannot be made.
    #[error("cannot make the sandbox's disk {}", path.display())]
    Make {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Files of this size are forbidden here.
    #[error(
        "cannot make the sandbox's disk {}: it has {mib} MiB, and this process may only make files \
         of {limit} bytes (ulimit -f)", path.display()
    )]
    Limit {
        /// The file.
        path: PathBuf,
        /// Its size.
        mib: u32,
        /// What is allowed.
        limit: u64,
    },
    /// It was made, and cannot be used.
    #[error("cannot use the sandbox's disk {}", path.display())]
    Use {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// The disk in this state folder, which nobody uses; it is made if there is none.
///
/// # Errors
///
/// If it cannot be made, or somebody still has it.
pub(super) fn ready(folder: &Path, mib: u32) -> Result<PathBuf, DiskError> {
    let path = folder.join(NAME);
    let used = |source| DiskError::Use {
        path: path.clone(),
        source,
    };
    match OpenOptions::new().read(true).write(true).open(&path) {
        // A VMM has its disk locked for as long as it lives.
        Ok(file) => lock(&file, LETTING_GO).map_err(used)?,
        Err(error) if error.kind() == ErrorKind::NotFound => make(&path, mib)?,
        Err(error) => return Err(used(error)),
    }
    Ok(path)
}

/// Makes it whole under another name, and then has it seen: one that was half made is made again.
fn make(path: &Path, mib: u32) -> Result<(), DiskError> {
    let bytes = u64::from(mib) << 20;
    if let Some(limit) = getrlimit(Resource::Fsize).current
        && limit < bytes
    {
        return Err(DiskError::Limit {
            path: path.to_owned(),
            mib,
            limit,
        });
    }
    let unfinished = path.with_extension("new");
    let made = fill(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, path));
    made.map_err(|source| {
        let _ = fs::remove_file(&unfinished);
        DiskError::Make {
            path: path.to_owned(),
            source,
        }
    })
}

fn fill(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.set_len(bytes)?;
    let blocks = u32::try_from(bytes / u64::from(BLOCK)).unwrap_or(u32::MAX);
    ext4::make(blocks, &identity()?, |number, block| {
        file.write_all_at(block, u64::from(number) * u64::from(BLOCK))
    })
}

fn identity() -> io::Result<Identity> {
    let (mut uuid, mut hash_seed) = ([0; 16], [0; 16]);
    for bytes in [&mut uuid, &mut hash_seed] {
        // So few bytes come at once or not at all.
        rustix::io::retry_on_intr(|| getrandom(&mut bytes[..], GetRandomFlags::empty()))?;
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Ok(Identity {
        uuid,
        hash_seed,
        made: now.map_or(0, |now| u32::try_from(now.as_secs()).unwrap_or(u32::MAX)),
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::thread;

    use rustix::fs::{FlockOperation, flock};

    use super::*;

    #[test]
    fn it_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = ready(folder.path(), 32).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 32 << 20);
        File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.write_all_at(b"mine", 20 << 20))
            .unwrap();
        // A later wish changes nothing of it.
        assert_eq!(ready(folder.path(), 64).unwrap(), path);
        assert_eq!(fs::metadata(&path).unwrap().len(), 32 << 20);
        let mut found = [0; 4];
        File::open(&path)
            .and_then(|file| file.read_exact_at(&mut found, 20 << 20))
            .unwrap();
        assert_eq!(&found, b"mine");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn it_waits_for_the_last_machine_to_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = ready(folder.path(), 32).unwrap();
        let held = File::open(&path).unwrap();
        flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
        let waiting = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            drop(held);
        });
        ready(folder.path(), 32).unwrap();
        waiting.join().unwrap();
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = ready(Path::new("/nowhere/at/all"), 32).unwrap_err();
        assert!(
            error.to_string().contains("/nowhere/at/all/disk"),
            "{error}"
        );
    }
}
