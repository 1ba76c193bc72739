//! Following what a command writes, as it writes it.

use std::fs::DirBuilder;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::detached::Detached;
use crate::error::Problem;
use crate::registry::State;
use crate::registry::output::{OutputReader, Piece};

/// How often to look whether the sandbox is still there: nothing else tells when its supervisor was
/// killed.
const LOOK: Duration = Duration::from_secs(1);

/// A command's output that may grow.
#[derive(Debug)]
pub(super) struct Follower {
    sandbox: Detached,
    path: PathBuf,
    reader: Option<OutputReader>,
    changes: OwnedFd,
}

/// What a follower has for whoever waits.
#[derive(Debug)]
pub(super) enum News {
    /// The command wrote something, or ended.
    Piece(Piece),
    /// There will be nothing more: the sandbox is gone.
    Gone,
    /// One of the others that are waited for has something.
    Other(usize),
}

/// What is to be said where a command wrote faster than it was read.
pub(super) const TOLD_LOST: &str = "it wrote faster than this was read, and some of it is lost";

/// What is to be said where the disk did not take all that a command wrote.
pub(super) fn told_missing(bytes: u64) -> String {
    format!("{bytes} bytes of it are missing: the disk that keeps it was full")
}

impl Follower {
    /// Follows a command of a sandbox, from the oldest that is still known.
    ///
    /// # Errors
    ///
    /// If the sandbox is gone, or the system's.
    pub(super) fn new(sandbox: &Detached, command: u32) -> Result<Self, Problem> {
        Self::at(sandbox, sandbox.entry().output_path(command))
    }

    /// Follows what is kept at this path of a sandbox's folder.
    ///
    /// # Errors
    ///
    /// If the sandbox is gone, or the system's.
    pub(super) fn at(sandbox: &Detached, path: PathBuf) -> Result<Self, Problem> {
        let changes =
            inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(io::Error::from)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        // The sandbox's own folder is not made: it may have been removed just now.
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                sandbox.entry().read()?;
                made?;
            }
        }
        let watched = WatchFlags::MODIFY | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        inotify::add_watch(&changes, folder, watched).map_err(io::Error::from)?;
        Ok(Self {
            sandbox: sandbox.clone(),
            path,
            reader: None,
            changes,
        })
    }

    /// Whether something is kept of the command, if it has written anything or not.
    pub(super) const fn is_kept(&self) -> bool {
        self.reader.is_some()
    }

    /// Opens what is kept, if it is there. What is open can be read to its end, whatever becomes of the
    /// sandbox.
    ///
    /// # Errors
    ///
    /// If it cannot be opened.
    pub(super) fn open(&mut self) -> io::Result<()> {
        if self.reader.is_none() {
            self.reader = match OutputReader::open(&self.path) {
                Ok(reader) => Some(reader),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }

    /// What there is now, without waiting.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub(super) fn next_piece(&mut self) -> io::Result<Option<Piece>> {
        self.open()?;
        self.reader
            .as_mut()
            .map_or(Ok(None), OutputReader::next_piece)
    }

    /// Waits for what comes next: of the command, or of one of `others`, each waited for so.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub(super) fn next(&mut self, others: &[(BorrowedFd, PollFlags)]) -> io::Result<News> {
        loop {
            if let Some(piece) = self.next_piece()? {
                return Ok(News::Piece(piece));
            }
            let timeout = Timespec::try_from(LOOK).map_err(io::Error::other)?;
            let mut fds = vec![PollFd::new(&self.changes, PollFlags::IN)];
            for (fd, flags) in others {
                fds.push(PollFd::from_borrowed_fd(*fd, *flags));
            }
            let count = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timeout)))?;
            let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
            if let Some(other) = fds.iter().skip(1).position(ready) {
                return Ok(News::Other(other));
            }
            self.forget_changes();
            if count == 0 && !self.is_alive() {
                // It may have written between the two.
                return Ok(self.next_piece()?.map_or(News::Gone, News::Piece));
            }
        }
    }

    fn is_alive(&self) -> bool {
        let entry = self.sandbox.entry();
        entry
            .read()
            .is_ok_and(|record| matches!(entry.state(&record), State::Running | State::Starting))
    }

    /// Reads the changes away: that there were some is all that they tell.
    fn forget_changes(&self) {
        let mut space = [MaybeUninit::uninit(); 4096];
        while rustix::io::read(self.changes.as_fd(), &mut space).is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::registry::Registry;
    use crate::registry::record::Plan;

    #[test]
    fn whoever_reads_does_not_bring_a_removed_sandbox_back() {
        let root = tempfile::tempdir().unwrap();
        let registry = Registry::open(root.path());
        let sandbox = Detached::create(&registry, None, Plan::default()).unwrap();
        Follower::new(&sandbox, 0).unwrap();
        Follower::new(&sandbox, 0).unwrap();
        sandbox.remove(false).unwrap();
        let problem = Follower::new(&sandbox, 0).unwrap_err();
        assert_eq!(problem.code, ErrorKind::NoSuchSandbox);
        assert!(!sandbox.entry().folder().exists());
    }
}
