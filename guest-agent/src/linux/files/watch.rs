//! What happens to files, as inotify(7) tells it.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use agent_protocol::files::{ChangeKind, FileChange, FileFault, Transfer};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
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
    watched.add(&fd, PathBuf::new()).map_err(failed)?;
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
        let flags = event.events();
        let name = event
            .file_name()
            .map(|name| Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())));
        let Some(kind) = kind(flags) else { continue };
        let folder = watched
            .folders
            .get(&event.wd())
            .cloned()
            .unwrap_or_default();
        // Of itself a folder tells what the one above it tells, too.
        if name.is_none() && !folder.as_os_str().is_empty() {
            continue;
        }
        let below = name.map_or_else(|| folder.clone(), |name| folder.join(name));
        records.push(&change(&below, kind))?;
        if recursive && kind == ChangeKind::Created && flags.contains(ReadFlags::ISDIR) {
            for found in watched.add_tree(&fd, &below) {
                records.push(&change(&found, ChangeKind::Created))?;
            }
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
    fn add(&mut self, fd: &OwnedFd, below: PathBuf) -> Result<(), Errno> {
        self.add_one(fd, &below)?;
        if self.recursive {
            self.add_tree(fd, &below);
        }
        Ok(())
    }

    fn add_one(&mut self, fd: &OwnedFd, below: &Path) -> Result<(), Errno> {
        let flags = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO;
        let path = match below.as_os_str().is_empty() {
            true => self.root.clone(),
            false => self.root.join(below),
        };
        let wd = inotify::add_watch(fd, &path, flags)?;
        self.folders.insert(wd, below.to_path_buf());
        Ok(())
    }

    /// Watches the folders below a folder, and returns what was there before it was watched.
    fn add_tree(&mut self, fd: &OwnedFd, below: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut waiting = vec![below.to_path_buf()];
        while let Some(folder) = waiting.pop() {
            // One that is gone meanwhile tells nothing any more.
            if self.add_one(fd, &folder).is_err() {
                continue;
            }
            let listed = self.root.join(&folder).read_dir();
            for entry in listed.into_iter().flatten().flatten() {
                let path = folder.join(entry.file_name());
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    waiting.push(path.clone());
                }
                found.push(path);
            }
        }
        found
    }
}

fn kind(flags: ReadFlags) -> Option<ChangeKind> {
    let has = |wanted: ReadFlags| flags.intersects(wanted);
    if has(ReadFlags::QUEUE_OVERFLOW) {
        Some(ChangeKind::Overflow)
    } else if has(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
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
