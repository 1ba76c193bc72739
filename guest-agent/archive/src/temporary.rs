//! The name that a file has on its way to its place, where it must have one; and what becomes of it
//! when whoever wrote the file is killed.
//!
//! ```text
//!  make ─▶ lock ─▶ still there? ─▶ written ─▶ renamed, or removed: the lock goes with the file
//!            │          └ no: somebody has taken it for left behind; once more
//!            └ held by somebody who looks: once more
//! ```
//!
//! A file that is written is locked (`flock`), and whoever is killed lets go of its locks. So what has a
//! name of ours, and nobody's lock, was left behind: whoever makes the next one in that folder removes
//! it. Nothing is looked for where files need no name.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, Stat, flock, fstat, fstatfs, openat,
    statat, unlinkat,
};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// Nobody else's until it is in its place.
pub(crate) const OWN_MODE: Mode = Mode::from_raw_mode(0o600);

/// How names of ours begin, and how many digits follow.
const PREFIX: &[u8] = b".sovereign-";
const DIGITS: usize = 16;

/// How often a new one is made in the place of one that somebody took for left behind.
const ATTEMPTS: u32 = 16;

/// A folder is looked through once in this time: a tree may have many files for it.
const INTERVAL: Duration = Duration::from_secs(10);
/// How many folders are known to have been looked through.
const KNOWN: usize = 64;

/// For how long nothing was written to what was left behind where locks may not reach whoever writes.
const STALE_SECONDS: i64 = 60;

/// File systems of one machine (linux/magic.h, and the file systems' own headers): all who write there
/// see each other's locks.
const OF_ONE_MACHINE: [u32; 11] = [
    0x4d44,      // vfat
    0x2011_bab0, // exfat
    0x7366_746e, // ntfs3
    0x794c_7630, // overlay
    0xef53,      // ext2 to ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0xf2f5_2010, // f2fs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x2fc1_2fc1, // zfs
];

/// What a file is, whatever it is called: its device and its number there.
type FileId = (u64, u64);

/// The folders that this process has looked through.
static LOOKED: Mutex<Looked> = Mutex::new(Looked(Vec::new()));

/// Folders that were looked through, and when.
#[derive(Debug)]
struct Looked(Vec<(FileId, Instant)>);

impl Looked {
    /// Whether it is time to look through a folder, which is done next.
    fn is_due(&mut self, folder: FileId, now: Instant) -> bool {
        let Self(known) = self;
        known.retain(|(_, at)| now.duration_since(*at) < INTERVAL);
        if known.iter().any(|(known, _)| *known == folder) {
            return false;
        }
        if known.len() >= KNOWN {
            known.remove(0);
        }
        known.push((folder, now));
        true
    }
}

/// An empty file with a name that nothing else has, locked; and nothing of those whose writers were
/// killed is left beside it, but for those that may be too new, or are somebody else's.
///
/// # Errors
///
/// The system's, if there can be none.
pub(crate) fn create(folder: BorrowedFd<'_>) -> rustix::io::Result<(File, Vec<u8>)> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for _ in 0..ATTEMPTS {
        let name = name()?;
        let file = openat(folder, name.as_slice(), flags, OWN_MODE)?;
        if hold(&file) && is_called(&file, folder, &name) {
            let place = fstat(folder)?;
            let mut looked = LOOKED.lock().unwrap_or_else(PoisonError::into_inner);
            let is_due = looked.is_due(id(&place), Instant::now());
            drop(looked);
            if is_due {
                remove_left(folder, &file);
            }
            return Ok((file.into(), name));
        }
        // Whoever took it for left behind may not be done with it.
        let _ = unlinkat(folder, name.as_slice(), AtFlags::empty());
    }
    Err(Errno::AGAIN)
}

/// A name that nothing else has.
pub(crate) fn name() -> rustix::io::Result<Vec<u8>> {
    let mut random = [0; 8];
    getrandom(&mut random, GetRandomFlags::empty())?;
    let digits = format!("{:0DIGITS$x}", u64::from_ne_bytes(random));
    Ok([PREFIX, digits.as_bytes()].concat())
}

/// Locks a file that is written. `false` if somebody else has the lock. Where there are no locks nobody
/// can take the file for left behind either.
pub(crate) fn hold(file: impl AsFd) -> bool {
    flock(file, FlockOperation::NonBlockingLockExclusive) != Err(Errno::WOULDBLOCK)
}

fn is_name(name: &[u8]) -> bool {
    let digits = name.strip_prefix(PREFIX);
    digits.is_some_and(|digits| {
        let is_digit = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        digits.len() == DIGITS && digits.iter().all(is_digit)
    })
}

/// Removes what was left behind in a folder, by whoever writes this new file there. What cannot be
/// looked at, or removed, stays.
fn remove_left(folder: BorrowedFd<'_>, new: &OwnedFd) {
    let Ok(own) = fstat(new) else {
        return;
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listed = openat(folder, ".", flags, Mode::empty()).and_then(Dir::new);
    let oldest = match is_of_one_machine(folder) {
        true => i64::MAX,
        false => own.st_mtime.saturating_sub(STALE_SECONDS),
    };
    for entry in listed.into_iter().flatten().flatten() {
        let name = entry.file_name().to_bytes();
        if is_name(name) {
            // It may be in use, or gone by now.
            let _ = remove_if_left(folder, name, |left| {
                left.st_uid == own.st_uid && left.st_mtime <= oldest
            });
        }
    }
}

/// Whether all who write to this folder see each other's locks.
fn is_of_one_machine(folder: BorrowedFd<'_>) -> bool {
    fstatfs(folder).is_ok_and(|system| {
        u32::try_from(system.f_type).is_ok_and(|magic| OF_ONE_MACHINE.contains(&magic))
    })
}

/// Removes a file that is called as ours are, if it is one of ours and nobody has its lock.
fn remove_if_left(
    folder: BorrowedFd<'_>,
    name: &[u8],
    is_ours: impl Fn(&Stat) -> bool,
) -> rustix::io::Result<()> {
    let fits = |found: &Stat| {
        let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
        is_file && found.st_nlink == 1 && is_ours(found)
    };
    // Looked at before it is opened: to open something else could do something.
    if !fits(&statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?) {
        return Ok(());
    }
    // Where locks are those of a server, one needs the right to write.
    let open = |access| {
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        openat(folder, name, flags, Mode::empty())
    };
    let file = open(OFlags::RDWR).or_else(|_| open(OFlags::RDONLY))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    // Whoever wrote it may have put it into its place meanwhile.
    if fits(&fstat(&file)?) && is_called(&file, folder, name) {
        unlinkat(folder, name, AtFlags::empty())?;
    }
    Ok(())
}

/// Whether a file that is open is what this name leads to.
fn is_called(file: &OwnedFd, folder: BorrowedFd<'_>, name: &[u8]) -> bool {
    let there = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    let (Ok(there), Ok(own)) = (there, fstat(file)) else {
        return false;
    };
    id(&there) == id(&own)
}

fn id(file: &Stat) -> FileId {
    (file.st_dev, file.st_ino)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;
    use std::thread;

    use super::*;

    struct Folder {
        path: tempfile::TempDir,
        opened: File,
    }

    impl Folder {
        fn new() -> Self {
            let path = tempfile::tempdir().unwrap();
            let opened = File::open(&path).unwrap();
            Self { path, opened }
        }

        fn create(&self) -> (File, Vec<u8>) {
            create(self.opened.as_fd()).unwrap()
        }

        fn has(&self, name: &[u8]) -> bool {
            statat(&self.opened, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
        }

        fn path(&self, name: &str) -> PathBuf {
            self.path.path().join(name)
        }

        fn look(&self) {
            let new = File::from(openat(&self.opened, ".", OFlags::RDONLY, OWN_MODE).unwrap());
            remove_left(self.opened.as_fd(), &new.into());
        }
    }

    #[test]
    fn what_nobody_writes_any_more_is_removed_and_what_somebody_writes_stays() {
        let folder = Folder::new();
        let (written, kept) = folder.create();
        let (killed, left) = folder.create();
        drop(killed);
        let protected = folder.path(".sovereign-00000000000000aa");
        fs::write(&protected, "mode").unwrap();
        fs::set_permissions(&protected, Permissions::from_mode(0o400)).unwrap();
        folder.look();
        assert!(folder.has(&kept) && !folder.has(&left) && !protected.exists());
        drop(written);
        folder.look();
        assert!(!folder.has(&kept));
    }

    #[test]
    fn what_is_only_called_as_ours_are_stays() {
        let folder = Folder::new();
        let file = |name: &str| fs::write(folder.path(name), "").unwrap();
        for name in [
            ".sovereign-0123456789abcde",
            ".sovereign-0123456789abcdef0",
            ".sovereign-0123456789ABCDEF",
            ".sovereign-0123456789abcdef~",
            "x.sovereign-0123456789abcdef",
            ".sovereign-",
            "other",
        ] {
            file(name);
        }
        let named = |digit: char| format!(".sovereign-{}", String::from(digit).repeat(DIGITS));
        fs::create_dir(folder.path(&named('1'))).unwrap();
        symlink("other", folder.path(&named('2'))).unwrap();
        rustix::fs::mkfifoat(&folder.opened, named('3'), OWN_MODE).unwrap();
        // A file that has another name too is not only ours.
        fs::hard_link(folder.path("other"), folder.path(&named('4'))).unwrap();
        let names = || fs::read_dir(&folder.path).unwrap().count();
        let before = names();
        folder.look();
        assert_eq!(names(), before);
    }

    #[test]
    fn of_a_strangers_and_of_a_new_file_in_doubt_nothing_is_removed() {
        let folder = Folder::new();
        let (killed, left) = folder.create();
        drop(killed);
        let fitting = |fits: bool| remove_if_left(folder.opened.as_fd(), &left, |_| fits);
        fitting(false).unwrap();
        assert!(folder.has(&left));
        fitting(true).unwrap();
        assert!(!folder.has(&left));
    }

    #[test]
    fn a_folder_is_looked_through_once_in_a_while() {
        let mut looked = Looked(Vec::new());
        let now = Instant::now();
        assert!(looked.is_due((1, 0), now) && !looked.is_due((1, 0), now));
        assert!(looked.is_due((2, 0), now) && looked.is_due((1, 0), now + INTERVAL));
        for number in 0..2 * KNOWN as u64 {
            looked.is_due((3, number), now);
        }
        assert_eq!(looked.0.len(), KNOWN);
    }

    /// Each makes files and looks for what others left: nobody's own is ever gone.
    #[test]
    fn writers_and_those_who_look_do_not_harm_each_other() {
        const ROUNDS: usize = 300;
        let folder = Folder::new();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        let (file, name) = folder.create();
                        folder.look();
                        assert!(folder.has(&name), "its writer still has it");
                        unlinkat(&folder.opened, name.as_slice(), AtFlags::empty()).unwrap();
                        drop(file);
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(&folder.path).unwrap().count(), 0);
    }
}
