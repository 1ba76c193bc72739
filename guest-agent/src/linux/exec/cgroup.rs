//! A cgroup for one command, which bounds how many processes it may be (cgroup v2, `pids.max`).
//!
//! Only the first process of a virtual machine can make one. The hierarchy is mounted nowhere: each
//! session that needs it opens it for itself, and a guest whose commands have no such bound never
//! does. Whatever the command leaves behind stays in its cgroup, and so within its bound; the cgroup
//! of a session that has ended is removed by the next one that needs one, once it is empty.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent_protocol::message::AgentError;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use rustix::process::{Pid, getpid, test_kill_process};
use rustix::time::{ClockId, clock_gettime};

use crate::linux::reason::reason;

/// What our cgroups are called, before the session's number.
const PREFIX: &str = "exec-";

/// A cgroup. Dropped, it is removed, if nothing of the command is left in it.
#[derive(Debug)]
pub(crate) struct Cgroup {
    root: OwnedFd,
    name: String,
    members: OwnedFd,
}

impl Cgroup {
    /// A new one that may have so many processes and threads.
    ///
    /// # Errors
    ///
    /// [`AgentError::BadLimit`] if this kernel cannot bound them.
    pub(crate) fn new(processes: u32) -> Result<Self, AgentError> {
        Self::make(processes).map_err(|errno| {
            let why = match errno {
                Errno::NODEV | Errno::NOSYS => "this guest's kernel has no cgroup v2".to_owned(),
                Errno::INVAL | Errno::NOENT => {
                    "this guest's kernel does not count a cgroup's processes".to_owned()
                }
                other => reason(other),
            };
            refusal(processes, why)
        })
    }

    fn make(processes: u32) -> Result<Self, Errno> {
        let root = open_hierarchy()?;
        // The root may have processes of its own and still share controllers out.
        write(&root, "cgroup.subtree_control", "+pids")?;
        remove_leftovers(&root);
        let now = clock_gettime(ClockId::Monotonic);
        let number = getpid().as_raw_nonzero();
        let name = format!("{PREFIX}{number}-{}-{}", now.tv_sec, now.tv_nsec);
        mkdirat(&root, &name, Mode::from_raw_mode(0o755))?;
        let bound = write(&root, &format!("{name}/pids.max"), &processes.to_string());
        let path = format!("{name}/cgroup.procs");
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        match bound.and_then(|()| openat(&root, path, flags, Mode::empty())) {
            Ok(members) => Ok(Self {
                root,
                name,
                members,
            }),
            Err(errno) => {
                remove(&root, &name);
                Err(errno)
            }
        }
    }

    /// Where a process that is to be in it writes a zero.
    pub(crate) fn members(&self) -> BorrowedFd<'_> {
        self.members.as_fd()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.root, &self.name);
    }
}

/// Why a command cannot be bound so.
pub(crate) fn refusal(processes: u32, why: String) -> AgentError {
    AgentError::BadLimit {
        limit: format!("{processes} processes"),
        reason: why,
    }
}

/// The whole hierarchy, as a mount that no path leads to.
fn open_hierarchy() -> Result<OwnedFd, Errno> {
    let context = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn write(root: &OwnedFd, path: &str, text: &str) -> Result<(), Errno> {
    let file = openat(root, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, text.as_bytes()).map(drop)
}

/// Removes what sessions have left that are gone. One in which something still runs cannot be.
fn remove_leftovers(root: &OwnedFd) {
    let Ok(entries) = Dir::read_from(root) else {
        return;
    };
    for entry in entries.flatten() {
        if let Ok(name) = entry.file_name().to_str()
            && session_of(name).is_some_and(|session| test_kill_process(session).is_err())
        {
            remove(root, name);
        }
    }
}

/// The session whose cgroup has this name.
fn session_of(name: &str) -> Option<Pid> {
    let number = name.strip_prefix(PREFIX)?.split('-').next()?;
    Pid::from_raw(number.parse().ok()?)
}

fn remove(root: &OwnedFd, name: &str) {
    // What is left in it keeps it, and is bound on.
    let _ = unlinkat(root, name, AtFlags::REMOVEDIR);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_tells_its_session() {
        assert_eq!(session_of("exec-7-12-345"), Pid::from_raw(7));
        for other in ["cgroup.procs", "exec-", "exec-x-1", "exec--1-2", "7-1-2"] {
            assert_eq!(session_of(other), None, "{other}");
        }
    }
}
