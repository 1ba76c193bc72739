//! The folder of the host's in which a sandbox that stays keeps what its commands write.
//!
//! It lies where nobody but the host's user gets to, whom the sandbox of root's does not know. So it is
//! opened as a mount that is nowhere yet, by whoever may, and mounted inside.
//!
//! Its owner is the sandbox's user as the host numbers it, which tells the next life of the same
//! sandbox what its numbers are.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

/// Such a folder.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    /// `None` if only the inside may make a mount of it.
    tree: Option<OwnedFd>,
}

impl Kept {
    /// Opens a folder that is there.
    pub(super) fn open(path: &[u8]) -> Self {
        let path = PathBuf::from(OsStr::from_bytes(path));
        let tree = clone_of(&path).ok();
        Self { path, tree }
    }

    /// Who it belongs to.
    pub(super) fn owner(&self) -> io::Result<u32> {
        Ok(fs::metadata(&self.path)?.uid())
    }

    /// Gives it to a user and a group.
    pub(super) fn give_to(&self, user: u32, group: u32) -> io::Result<()> {
        lchown(&self.path, Some(user), Some(group))
    }

    /// It as a mount that is nowhere yet, for the namespace of this process.
    pub(super) fn tree(&self) -> Result<OwnedFd, Errno> {
        match &self.tree {
            Some(tree) => rustix::io::fcntl_dupfd_cloexec(tree, 0),
            None => clone_of(&self.path),
        }
    }

    /// A folder in it, which is made if there is none, for commands that are not confined.
    pub(super) fn home(&self) -> io::Result<PathBuf> {
        let home = self.path.join("home");
        match fs::create_dir(&home) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(home),
        }
    }
}

/// Lets such a mount appear at `target`.
pub(super) fn mount(tree: impl AsFd, target: &str) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(tree, "", CWD, target, flags)
}

fn clone_of(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, path, flags)
}
