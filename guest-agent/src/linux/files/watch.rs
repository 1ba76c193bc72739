//! What happens to files, as inotify(7) tells it.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use agent_protocol::files::{ChangeKind, FileChange, FileFault, Transfer};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, Event, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use serde_bytes::ByteBuf;

use super::entries::Records;
use super::{Out, fault};

/// Room for many events at a time.
const BUFFER: usize = 16 * 1024;

/// Sends a change whenever something happens, until this process is ended.
pub(crate) fn watch(path: &Path, recursive: bool, out: Out) -> Result<Transfer, FileFault> {
    let failed = |error: Errno| fault::of(path, error);
    let fd = inotify::init(CreateFlags::CLOEXEC).map_err(failed)?;
    let mut watched = Watched {
        root: path.to_path_buf(),
        folders: HashMap::new(),
        recursive,
    };
    watched.add_one(&fd, Path::new("")).map_err(failed)?;
    if recursive {
        watched.add_tree(&fd, Path::new(""))?;
    }
    let mut records = Records::new(out);
    // An empty change for the start: what happens from here on is told.
    records.push(&change(Path::new(""), ChangeKind::Attributes))?;
    records.flush()?;
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    let mut reader = Reader::new(&fd, &mut buffer);
    loop {
        if reader.is_buffer_empty() {
            records.flush()?;
            if !wait(&fd).map_err(failed)? {
                return records.finish();
            }
        }
        let event = match reader.next() {
            Err(Errno::INTR) => continue,
            event => event.map_err(failed)?,
        };
        if let Err(fault) = watched.tell(&fd, &event, &mut records) {
            // What has happened before is told before that.
            records.flush()?;
            return Err(fault);
        }
    }
}

/// Waits until something has happened. `false` if nobody wants to know any more.
fn wait(fd: &OwnedFd) -> Result<bool, Errno> {
    let stdout = rustix::stdio::stdout();
    let mut fds = [
        PollFd::new(fd, PollFlags::IN),
        PollFd::new(&stdout, PollFlags::empty()),
    ];
    match poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error),
    }
    let [_, reader] = fds;
    Ok(reader.revents().is_empty())
}

struct Watched {
    root: PathBuf,
    /// By watch descriptor, from the root.
    folders: HashMap<i32, PathBuf>,
    recursive: bool,
}

impl Watched {
    /// Passes an event on, and watches the folders that there are now.
    fn tell(
        &mut self,
        fd: &OwnedFd,
        event: &Event<'_>,
        records: &mut Records,
    ) -> Result<(), FileFault> {
        let flags = event.events();
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            records.push(&change(Path::new(""), ChangeKind::Overflow))?;
            return self.add_again(fd);
        }
        let Some(folder) = self.folders.get(&event.wd()).cloned() else {
            // It has left the tree.
            return Ok(());
        };
        if flags.contains(ReadFlags::IGNORED) {
            self.folders.remove(&event.wd());
            return Ok(());
        }
        let Some(kind) = kind(flags) else {
            return Ok(());
        };
        let name = event
            .file_name()
            .map(|name| Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())));
        let below = match name {
            Some(name) => folder.join(name),
            // Of itself a folder tells what the one above it tells, too.
            None if !folder.as_os_str().is_empty() => {
                return match flags.contains(ReadFlags::MOVE_SELF) {
                    true => self.follow(fd, event.wd(), &folder),
                    false => Ok(()),
                };
            }
            None => folder,
        };
        records.push(&change(&below, kind))?;
        if self.recursive && kind == ChangeKind::Created && flags.contains(ReadFlags::ISDIR) {
            for found in self.add_tree(fd, &below)? {
                records.push(&change(&found, ChangeKind::Created))?;
            }
        }
        Ok(())
    }

    fn add_one(&mut self, fd: &OwnedFd, below: &Path) -> Result<i32, Errno> {
        let mut flags = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO;
        let path = match below.as_os_str().is_empty() {
            true => self.root.clone(),
            false => {
                flags |= WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW;
                self.root.join(below)
            }
        };
        let wd = inotify::add_watch(fd, &path, flags)?;
        self.folders.insert(wd, below.to_path_buf());
        Ok(wd)
    }

    /// Watches the folders below a folder, and returns what was there before it was watched. One that the
    /// user may not read is passed over.
    fn add_tree(&mut self, fd: &OwnedFd, below: &Path) -> Result<Vec<PathBuf>, FileFault> {
        let mut found = Vec::new();
        let mut waiting = vec![below.to_path_buf()];
        while let Some(folder) = waiting.pop() {
            let path = self.root.join(&folder);
            match self.add_one(fd, &folder) {
                Ok(_) => {}
                // One that is gone meanwhile tells nothing any more.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::PERM) => continue,
                Err(Errno::NOSPC) => {
                    return Err(FileFault {
                        reason: "this user may watch no more folders (fs.inotify.max_user_watches)"
                            .to_owned(),
                        ..fault::of(&path, Errno::NOSPC)
                    });
                }
                Err(error) => return Err(fault::of(&path, error)),
            }
            for entry in path.read_dir().into_iter().flatten().flatten() {
                let path = folder.join(entry.file_name());
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    waiting.push(path.clone());
                }
                found.push(path);
            }
        }
        Ok(found)
    }

    /// Looks where a folder is that has been moved. Where it has come to inside the tree, its new place has
    /// been told before.
    fn follow(&mut self, fd: &OwnedFd, wd: i32, folder: &Path) -> Result<(), FileFault> {
        if self.add_one(fd, folder) == Ok(wd) {
            return Ok(());
        }
        self.forget(fd, |_, path| path.starts_with(folder));
        self.add_tree(fd, folder)?;
        Ok(())
    }

    /// Watches what there is now, after events were lost.
    fn add_again(&mut self, fd: &OwnedFd) -> Result<(), FileFault> {
        if !self.recursive {
            return Ok(());
        }
        let before = std::mem::take(&mut self.folders);
        self.add_tree(fd, Path::new(""))?;
        let now = std::mem::replace(&mut self.folders, before);
        self.forget(fd, |wd, _| !now.contains_key(&wd));
        self.folders = now;
        Ok(())
    }

    fn forget(&mut self, fd: &OwnedFd, is_meant: impl Fn(i32, &Path) -> bool) {
        self.folders.retain(|wd, path| {
            let is_kept = !is_meant(*wd, path);
            if !is_kept {
                // One that was removed has lost its watch with that.
                let _ = inotify::remove_watch(fd, *wd);
            }
            is_kept
        });
    }
}

fn kind(flags: ReadFlags) -> Option<ChangeKind> {
    let has = |wanted: ReadFlags| flags.intersects(wanted);
    if has(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
        Some(ChangeKind::Created)
    } else if has(ReadFlags::DELETE | ReadFlags::DELETE_SELF)
        || has(ReadFlags::MOVED_FROM | ReadFlags::MOVE_SELF)
    {
        Some(ChangeKind::Removed)
    } else if has(ReadFlags::MODIFY) {
        Some(ChangeKind::Modified)
    } else if has(ReadFlags::ATTRIB) {
        Some(ChangeKind::Attributes)
    } else {
        None
    }
}

fn change(path: &Path, kind: ChangeKind) -> FileChange {
    FileChange {
        path: ByteBuf::from(path.as_os_str().as_bytes()),
        kind,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn watched(root: &Path) -> (OwnedFd, Watched) {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        let mut watched = Watched {
            root: root.to_path_buf(),
            folders: HashMap::new(),
            recursive: true,
        };
        watched.add_tree(&fd, Path::new("")).unwrap();
        (fd, watched)
    }

    fn folders(watched: &Watched) -> Vec<&str> {
        let paths = watched.folders.values();
        let mut names: Vec<_> = paths.map(|path| path.to_str().unwrap()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn folders_of_lost_events_are_watched() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        let (fd, mut watched) = watched(root.path());
        assert_eq!(folders(&watched), ["", "a", "a/b"]);
        fs::rename(root.path().join("a/b"), root.path().join("b")).unwrap();
        fs::remove_dir(root.path().join("a")).unwrap();
        fs::create_dir_all(root.path().join("new/sub")).unwrap();
        watched.add_again(&fd).unwrap();
        assert_eq!(folders(&watched), ["", "b", "new", "new/sub"]);
    }

    #[test]
    fn folder_that_left_the_tree_is_watched_no_more() {
        let (root, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        let (fd, mut watched) = watched(root.path());
        let wd = watched.add_one(&fd, Path::new("a")).unwrap();
        watched.follow(&fd, wd, Path::new("a")).unwrap();
        assert_eq!(folders(&watched), ["", "a", "a/b"]);
        fs::rename(root.path().join("a"), elsewhere.path().join("a")).unwrap();
        watched.follow(&fd, wd, Path::new("a")).unwrap();
        assert_eq!(folders(&watched), [""]);
    }
}
