//! Where the agent in a container meets the engine: a control socket in a private folder.
//!
//! ```text
//!  <runtime folder>/sovereign-container-<owner>-<number>/   0700: nobody else comes past it
//!    host/                                                  mounted into the container, read-only
//!      control                                              the agent connects, once
//! ```
//!
//! When the two have met, all of it is removed: what follows passes over the connection alone.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};

use super::readiness::readable;
use crate::owner::Owner;

/// The socket's name in the folder that the container sees.
pub(super) const SOCKET: &str = "control";
const PREFIX: &str = "sovereign-container-";

/// A place to meet. Dropped, nothing is left of it.
#[derive(Debug)]
pub(super) struct Meeting {
    folder: PathBuf,
    listener: OwnedFd,
}

impl Meeting {
    /// Makes one below a folder, for the sandbox with this id.
    pub(super) fn new(below: &Path, id: &str) -> io::Result<Self> {
        let folder = below.join(format!("{PREFIX}{id}"));
        DirBuilder::new().mode(0o700).create(&folder)?;
        match listen_in(&folder.join("host")) {
            Ok(listener) => Ok(Self { folder, listener }),
            Err(error) => {
                let _ = fs::remove_dir_all(&folder);
                Err(error)
            }
        }
    }

    /// The folder that the container has to see.
    pub(super) fn shared_folder(&self) -> PathBuf {
        self.folder.join("host")
    }

    /// Waits for the agent. Only one comes: nobody else can open the socket.
    pub(super) async fn wait(&self) -> io::Result<OwnedFd> {
        loop {
            readable(self.listener.as_fd()).await?;
            match accept_with(&self.listener, SocketFlags::CLOEXEC) {
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
                accepted => return Ok(accepted?),
            }
        }
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        // What cannot be removed now is removed as a leftover later.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Removes what owners that are gone have left below a folder.
pub(super) fn remove_leftovers(below: &Path) {
    for path in leftovers(below) {
        let _ = fs::remove_dir_all(path);
    }
}

/// The folders of this user's that owners that are gone have left below a folder.
pub(super) fn leftovers(below: &Path) -> Vec<PathBuf> {
    let us = rustix::process::geteuid().as_raw();
    let is_left = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let owner = name.to_str()?.strip_prefix(PREFIX)?;
        let is_gone = Owner::of_id(owner)?.is_gone();
        let is_ours = entry.metadata().ok()?.uid() == us;
        (is_gone && is_ours).then_some(())
    };
    let entries = fs::read_dir(below).into_iter().flatten().flatten();
    entries
        .filter(|entry| is_left(entry).is_some())
        .map(|entry| entry.path())
        .collect()
}

fn listen_in(folder: &Path) -> io::Result<OwnedFd> {
    // The container's user is not ours: it may look into the folder and connect, no more.
    DirBuilder::new().mode(0o755).create(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    let path = folder.join(SOCKET);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    bind(&listener, &SocketAddrUnix::new(&path)?)?;
    fs::set_permissions(&path, Permissions::from_mode(0o666))?;
    listen(&listener, 1)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_comes_past_the_folder_and_nothing_is_left() {
        let below = tempfile::tempdir().unwrap();
        let meeting =
            Meeting::new(below.path(), &Owner::this().unwrap().new_id().unwrap()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&meeting.folder), 0o700);
        assert_eq!(mode(&meeting.shared_folder()), 0o755);
        assert_eq!(mode(&meeting.shared_folder().join(SOCKET)), 0o666);
        remove_leftovers(below.path());
        assert!(meeting.folder.exists());
        drop(meeting);
        assert_eq!(fs::read_dir(below.path()).unwrap().count(), 0);
    }

    #[test]
    fn leftovers_of_the_dead_are_removed_and_strangers_stay() {
        let below = tempfile::tempdir().unwrap();
        // No process has this number (proc(5), pid_max).
        let this = Owner::this().unwrap().to_string();
        let (_, rest) = this.split_once('-').unwrap();
        let left = below.path().join(format!("{PREFIX}4194305-{rest}-00"));
        let strange = [format!("{PREFIX}x"), "other".to_owned()];
        fs::create_dir_all(left.join("host")).unwrap();
        for name in &strange {
            fs::create_dir(below.path().join(name)).unwrap();
        }
        remove_leftovers(below.path());
        assert!(!left.exists());
        assert!(strange.iter().all(|name| below.path().join(name).exists()));
    }
}
