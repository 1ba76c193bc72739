//! A root file system of the sandbox's own.
//!
//! ```text
//!  /                 tmpfs, read-only at the end
//!   usr bin lib …    the host's, read-only; links stay links
//!   etc              own files, and a few of the host's (etc.rs)
//!   dev              tmpfs with the devices that mean no hardware, a devpts of its own
//!   proc             of the new process namespace
//!   run/sovereign    copies of the Python modules that the host has given
//!   tmp var/tmp home/sandbox dev/shm    parts of one tmpfs, whose size is the bound for all four; of a
//!                     sandbox that stays, the first three are parts of a folder of the host's
//! ```

use std::ffi::{CStr, CString};
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use agent_protocol::local::{ConfineStep, Setup, Shortfall};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change,
    unmount,
};
use rustix::process::{chdir, pivot_root};

use super::kept::{self, Kept};
use super::mount_attributes::{Denied, Reach, deny};
use super::users::{Inner, SANDBOX, TTY};
use super::{Given, errno_of, etc, shortfall};

/// Where the root is put together. Every host has the folder, and what the mount hides of it is not
/// for the sandbox anyway.
const ROOT: &str = "/tmp";
/// Where programs and their libraries are.
const PROGRAMS: [&str; 9] = [
    "usr",
    "bin",
    "sbin",
    "lib",
    "lib32",
    "lib64",
    "libx32",
    "nix/store",
    "gnu/store",
];
/// Folders that something will be mounted on, or that programs expect.
const FOLDERS: [&str; 8] = [
    "dev",
    "etc",
    "home/sandbox",
    "proc",
    "run",
    "sys",
    "tmp",
    "var/tmp",
];
const DEVICES: [&str; 6] = ["full", "null", "random", "tty", "urandom", "zero"];
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];
/// What commands may write to: a folder of the bounded tmpfs, where it appears, and its mode.
const WRITABLE: [(&str, &str, u32); 4] = [
    ("home", "home/sandbox", 0o700),
    ("shm", "dev/shm", 0o1777),
    ("var", "var/tmp", 0o1777),
    // The last one: it hides the tmpfs itself.
    ("tmp", "tmp", 0o1777),
];
/// Where the Python modules are that the host has given.
pub(super) const MODULES: &str = "/run/sovereign/python";
/// Files of the bounded tmpfs per MiB: as many as there are pages, for each needs one at least.
const FILES_PER_MIB: u64 = 256;

/// Puts the root together and moves there; of the host's nothing else is left. Returns whether the
/// modules are there: a sandbox that has none is no weaker.
pub(super) fn enter(setup: &Setup, given: &Given, inner: Inner) -> Result<bool, Shortfall> {
    // Whoever started the agent may have one that hides files from their own user.
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(|errno| files("/", errno))?;
    // It may lie below the place that is hidden next.
    let kept = given.kept.as_ref().map(Kept::tree).transpose();
    let kept = kept.map_err(|errno| files("the folder of what is kept", errno))?;
    let options = c"mode=755,size=2m,nr_inodes=4096";
    mount_tmpfs(ROOT, MountFlags::NOSUID | MountFlags::NODEV, options)?;
    for folder in FOLDERS {
        fs::create_dir_all(format!("{ROOT}/{folder}")).map_err(|error| failed(folder, &error))?;
    }
    for folder in PROGRAMS {
        share(folder).map_err(|error| failed(folder, &error))?;
    }
    etc::fill(&format!("{ROOT}/etc"), &setup.hostname)
        .map_err(|(path, error)| failed(&path, &error))?;
    let has_modules = given
        .modules
        .as_ref()
        .is_some_and(|modules| modules.copy_to(&format!("{ROOT}{MODULES}")).is_ok());
    deny(ROOT, Denied::WRITING_SETUID_DEVICES, Reach::Tree)
        .map_err(|error| failed("read-only", &error))?;
    make_devices(inner)?;
    mount_proc()?;
    match kept {
        None => mount_writable(setup.writable_mib)?,
        Some(tree) => mount_kept(&tree, setup.writable_mib)?,
    }
    leave_the_host()?;
    Ok(has_modules)
}

/// Lets the sandbox see a folder of the host's, or a link that is in its place.
fn share(folder: &str) -> io::Result<()> {
    let (source, target) = (format!("/{folder}"), format!("{ROOT}/{folder}"));
    match fs::symlink_metadata(&source) {
        Ok(metadata) if metadata.is_symlink() => symlink(fs::read_link(&source)?, target),
        Ok(metadata) if metadata.is_dir() => {
            fs::create_dir_all(&target)?;
            bind(&source, &target)
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes `source`, with all that is mounted below it, appear at `target` too.
pub(super) fn bind(source: &str, target: &str) -> io::Result<()> {
    Ok(mount_bind_recursive(source, target)?)
}

fn make_devices(inner: Inner) -> Result<(), Shortfall> {
    let dev = format!("{ROOT}/dev");
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount_tmpfs(&dev, flags, c"mode=755,size=64k,nr_inodes=64")?;
    for device in DEVICES {
        let (source, target) = (format!("/dev/{device}"), format!("{dev}/{device}"));
        fs::write(&target, "")
            .and_then(|()| bind(&source, &target))
            .map_err(|error| failed(&source, &error))?;
    }
    for (target, link) in DEVICE_LINKS {
        symlink(target, format!("{dev}/{link}")).map_err(|error| failed(link, &error))?;
    }
    for folder in ["pts", "shm"] {
        let path = format!("{dev}/{folder}");
        fs::create_dir(&path).map_err(|error| failed(&path, &error))?;
    }
    let mut options = "newinstance,mode=620,ptmxmode=666".to_owned();
    if inner == Inner::Root {
        options.push_str(&format!(",gid={TTY}"));
    }
    let options = CString::new(options).unwrap_or_default();
    let pts = format!("{dev}/pts");
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("devpts", pts.as_str(), "devpts", flags, options.as_c_str())
        .map_err(|errno| files("/dev/pts", errno))?;
    deny(&dev, Denied::WRITING, Reach::Mount).map_err(|error| failed("/dev", &error))
}

fn mount_proc() -> Result<(), Shortfall> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", format!("{ROOT}/proc"), "proc", flags, None::<&CStr>)
        .map_err(|errno| shortfall(ConfineStep::Proc, "", errno))
}

fn mount_writable(mib: u32) -> Result<(), Shortfall> {
    let base = format!("{ROOT}/tmp");
    let inodes = u64::from(mib) * FILES_PER_MIB;
    let options = CString::new(format!("mode=755,size={mib}m,nr_inodes={inodes}"));
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount_tmpfs(&base, flags, &options.unwrap_or_default())?;
    for (name, place, mode) in WRITABLE {
        let (source, target) = (format!("{base}/{name}"), format!("{ROOT}/{place}"));
        fs::create_dir(&source)
            .and_then(|()| fs::set_permissions(&source, Permissions::from_mode(mode)))
            .and_then(|()| chown(&source, Some(SANDBOX), Some(SANDBOX)))
            .and_then(|()| bind(&source, &target))
            .map_err(|error| failed(&target, &error))?;
    }
    Ok(())
}

/// As [`mount_writable`], of what is kept. The volatile part keeps its bound.
fn mount_kept(tree: &OwnedFd, mib: u32) -> Result<(), Shortfall> {
    let options = CString::new(format!("mode=1777,size={mib}m")).unwrap_or_default();
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount_tmpfs(&format!("{ROOT}/dev/shm"), flags, &options)?;
    let base = format!("{ROOT}/tmp");
    kept::mount(tree, &base).map_err(|errno| files(&base, errno))?;
    deny(&base, Denied::SETUID_DEVICES, Reach::Mount).map_err(|error| failed(&base, &error))?;
    for (name, place, mode) in WRITABLE.into_iter().filter(|(name, ..)| *name != "shm") {
        let (source, target) = (format!("{base}/{name}"), format!("{ROOT}/{place}"));
        let made = match fs::create_dir(&source) {
            // A life before this one has made it, and its user may have changed it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
            Ok(()) => fs::set_permissions(&source, Permissions::from_mode(mode))
                .and_then(|()| chown(&source, Some(SANDBOX), Some(SANDBOX))),
        };
        made.and_then(|()| bind(&source, &target))
            .map_err(|error| failed(&target, &error))?;
    }
    Ok(())
}

/// pivot_root(2): the old root comes to lie on the new one, and is taken away.
fn leave_the_host() -> Result<(), Shortfall> {
    chdir(ROOT)
        .and_then(|()| pivot_root(".", "."))
        .and_then(|()| unmount(".", UnmountFlags::DETACH))
        .and_then(|()| chdir("/"))
        .map_err(|errno| files("pivot_root", errno))
}

fn mount_tmpfs(target: &str, flags: MountFlags, options: &CStr) -> Result<(), Shortfall> {
    mount("tmpfs", target, "tmpfs", flags, options).map_err(|errno| files(target, errno))
}

fn failed(about: &str, error: &io::Error) -> Shortfall {
    files(about, errno_of(error))
}

fn files(about: &str, errno: Errno) -> Shortfall {
    shortfall(ConfineStep::Files, about, errno)
}
