//! The guest's file systems.
//!
//! ```text
//!  initramfs (holds /init only)          the guest's root
//!    /proc /dev          ────moved────▶    /proc /dev
//!    /lower  the root disk, read-only ┐
//!    /upper  tmpfs, bounded  data     ┴─▶  /        overlay of the two
//!                            shm run tmp ─▶  /dev/shm /run /tmp
//!                                          /sys /dev/pts
//! ```
//!
//! All that can be written to is one tmpfs, so that one bound holds for it. Without it, the three
//! are file systems of their own. With a disk for what is kept, `data` and `tmp` are on that:
//!
//! ```text
//!    /kept   the second disk, ext4   data ──▶ upper layer of /       tmp ──▶ /tmp
//!    /upper  tmpfs, bounded          shm run ─▶ /dev/shm /run
//! ```

use std::ffi::{CStr, CString};
use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use agent_protocol::boot::{BootParameters, RootDisk};
use rustix::fs::{Mode, RawMode};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};

use crate::linux::init::InitError;
use crate::linux::reason::reason;

/// Where the overlay is put together.
const NEW_ROOT: &str = "/sysroot";
/// The tmpfs, and the disk of what is kept, in the initramfs.
const UPPER: &str = "/upper";
const KEPT: &str = "/kept";
/// redirect_dir: a directory of the image can be renamed, as on any other file system.
const IN_MEMORY: Layers = Layers {
    directories: ["/upper/data", "/upper/work"],
    options: c"lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work,redirect_dir=on",
};
const ON_DISK: Layers = Layers {
    directories: ["/kept/data", "/kept/work"],
    options: c"lowerdir=/lower,upperdir=/kept/data,workdir=/kept/work,redirect_dir=on",
};
/// Of a machine that is killed no more is lost than what was written in its last three seconds.
const KEPT_OPTIONS: &CStr = c"commit=1,discard,noinit_itable";
const WRITEBACK: [(&str, &str); 2] = [
    ("/proc/sys/vm/dirty_expire_centisecs", "100"),
    ("/proc/sys/vm/dirty_writeback_centisecs", "100"),
];
/// How long a disk may take to appear, whose driver is a module.
const DISK_TIMEOUT: Duration = Duration::from_secs(10);
const DISK_INTERVAL: Duration = Duration::from_millis(2);
/// A kernel command line is at most this long (COMMAND_LINE_SIZE is 2048 on x86).
const MAX_COMMAND_LINE: u64 = 64 * 1024;

const PROC: Mounting<'_> = Mounting {
    source: "proc",
    target: "/proc",
    kind: "proc",
    flags: MountFlags::NOSUID
        .union(MountFlags::NODEV)
        .union(MountFlags::NOEXEC),
    options: None,
};
const DEV: Mounting<'_> = Mounting {
    source: "dev",
    target: "/dev",
    kind: "devtmpfs",
    flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
    options: Some(c"mode=755"),
};

/// What a guest can do without: a kernel may lack the file system, a read-only root the folder.
const LATE: [Mounting<'_>; 2] = [
    Mounting {
        source: "sysfs",
        target: "/sys",
        kind: "sysfs",
        flags: MountFlags::NOSUID
            .union(MountFlags::NODEV)
            .union(MountFlags::NOEXEC),
        options: None,
    },
    Mounting {
        source: "devpts",
        target: "/dev/pts",
        kind: "devpts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        options: Some(c"gid=5,mode=620,ptmxmode=666"),
    },
];

/// Folders that are empty at each start: the mode, and where they are.
const VOLATILE: [(&CStr, RawMode, &str); 3] = [
    (c"mode=1777", 0o1777, "/dev/shm"),
    (c"mode=755", 0o755, "/run"),
    (c"mode=1777", 0o1777, "/tmp"),
];
/// Files of the writable layer per MiB: as many as there are pages, for each needs one at least.
const FILES_PER_MIB: u32 = 256;

/// Names that programs expect and devtmpfs lacks.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Mounts what is needed to know what is to be done, and returns that.
pub(super) fn early() -> Result<BootParameters, InitError> {
    PROC.make()?;
    DEV.make()?;
    let mut line = String::new();
    std::fs::File::open("/proc/cmdline")
        .and_then(|file| file.take(MAX_COMMAND_LINE).read_to_string(&mut line))
        .map_err(InitError::system("reading /proc/cmdline"))?;
    Ok(BootParameters::decode(&line)?)
}

/// Puts the guest's root together and moves there. Without a root disk the initramfs stays.
pub(super) fn root(parameters: &BootParameters) -> Result<(), InitError> {
    let Some(disk) = &parameters.root else {
        return Ok(());
    };
    match parameters.overlay_mib {
        None => mount_disk(disk, NEW_ROOT)?,
        Some(mib) => {
            mount_disk(disk, "/lower")?;
            mount_upper(mib)?;
            match &parameters.upper {
                None => mount_overlay(&IN_MEMORY)?,
                Some(device) => {
                    mount_kept(device)?;
                    mount_overlay(&ON_DISK)?;
                }
            }
            share_upper(parameters.upper.is_some())?;
        }
    }
    for moved in ["/dev", "/proc"] {
        let target = format!("{NEW_ROOT}{moved}");
        mount_move(moved, target.as_str()).map_err(|error| mount_error(moved, &target, error))?;
    }
    let failed = |error: Errno| InitError::system("changing to the new root")(error.into());
    rustix::process::chdir(NEW_ROOT).map_err(failed)?;
    mount_move(".", "/").map_err(failed)?;
    rustix::process::chroot(".").map_err(failed)?;
    rustix::process::chdir("/").map_err(failed)
}

/// Mounts what commands expect. What cannot be had is left out.
pub(super) fn late(parameters: &BootParameters) {
    let is_shared = parameters.root.is_some() && parameters.overlay_mib.is_some();
    let own = VOLATILE.iter().map(|(options, _, target)| Mounting {
        source: "volatile",
        target,
        kind: "tmpfs",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        options: Some(options),
    });
    for mounting in LATE.into_iter().chain(own.filter(|_| !is_shared)) {
        if let Err(error) = mounting.make() {
            eprintln!("sovereign-agent: {error}");
        }
    }
    for (target, link) in LINKS {
        let _ = rustix::fs::symlink(target, link);
    }
}

fn mount_disk(disk: &RootDisk, target: &str) -> Result<(), InitError> {
    let mounting = Mounting {
        source: &disk.device,
        target,
        kind: &disk.fstype,
        flags: MountFlags::RDONLY,
        options: None,
    };
    let deadline = Instant::now() + DISK_TIMEOUT;
    loop {
        match mounting.try_make() {
            // A driver in the kernel has found its disks before init runs; one that was loaded as a
            // module may still be looking.
            Err(Errno::NOENT | Errno::NXIO)
                if modules_are_in_use() && Instant::now() < deadline =>
            {
                thread::sleep(DISK_INTERVAL);
            }
            result => return result.map_err(|error| mounting.error(error)),
        }
    }
}

fn modules_are_in_use() -> bool {
    std::fs::read("/proc/modules").is_ok_and(|list| !list.is_empty())
}

fn mount_upper(mib: u32) -> Result<(), InitError> {
    let files = mib.saturating_mul(FILES_PER_MIB);
    let bounds = format!("mode=755,size={mib}m,nr_inodes={files}");
    let size = CString::new(bounds).unwrap_or_default();
    Mounting {
        source: "upper",
        target: UPPER,
        kind: "tmpfs",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        options: Some(&size),
    }
    .make()
}

/// Mounts the disk of what is kept. Its journal is replayed if the last machine was killed.
fn mount_kept(device: &str) -> Result<(), InitError> {
    Mounting {
        source: device,
        target: KEPT,
        kind: "ext4",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        options: Some(KEPT_OPTIONS),
    }
    .make()?;
    for (path, value) in WRITEBACK {
        // A kernel without these settings keeps what it writes back later.
        let _ = std::fs::write(path, value);
    }
    Ok(())
}

fn mount_overlay(layers: &Layers) -> Result<(), InitError> {
    for directory in layers.directories {
        match make_directory(directory) {
            // The last machine has made it.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => {
                return Err(InitError::Mount {
                    what: directory.to_owned(),
                    reason: reason(error),
                });
            }
        }
    }
    Mounting {
        source: "root",
        target: NEW_ROOT,
        kind: "overlay",
        flags: MountFlags::empty(),
        options: Some(layers.options),
    }
    .make()
}

/// Lets the volatile folders be parts of the writable layer. `/dev` is not in its place yet, and
/// takes along what is mounted on it.
///
/// With `kept`, `/tmp` is a part of what is kept.
fn share_upper(kept: bool) -> Result<(), InitError> {
    for (_, mode, target) in VOLATILE {
        let name = target.rsplit('/').next().unwrap_or_default();
        let base = if kept && target == "/tmp" {
            KEPT
        } else {
            UPPER
        };
        let source = format!("{base}/{name}");
        let target = match target.strip_prefix("/dev/") {
            Some(_) => target.to_owned(),
            None => format!("{NEW_ROOT}{target}"),
        };
        let failed = |error| mount_error(&source, &target, error);
        match make_directory(&source) {
            Ok(()) => {
                rustix::fs::chmod(&source, Mode::from_raw_mode(mode)).map_err(failed)?;
            }
            // The last machine has made it, and whoever it belongs to may have changed it.
            Err(Errno::EXIST) if kept => {}
            Err(error) => return Err(failed(error)),
        }
        match mount_bind(&source, &target) {
            Err(Errno::NOENT) if make_directory(&target).is_ok() => mount_bind(&source, &target),
            result => result,
        }
        .map_err(failed)?;
    }
    Ok(())
}

/// Where the overlay has what is written.
struct Layers {
    directories: [&'static str; 2],
    options: &'static CStr,
}

/// One call of `mount`.
#[derive(Clone, Copy)]
struct Mounting<'a> {
    source: &'a str,
    target: &'a str,
    kind: &'a str,
    flags: MountFlags,
    options: Option<&'a CStr>,
}

impl Mounting<'_> {
    fn make(&self) -> Result<(), InitError> {
        self.try_make().map_err(|error| self.error(error))
    }

    /// Mounts, on a folder that is made if there is none.
    fn try_make(&self) -> Result<(), Errno> {
        let attempt = || {
            mount(
                self.source,
                self.target,
                self.kind,
                self.flags,
                self.options,
            )
        };
        match attempt() {
            Err(Errno::NOENT) if make_directory(self.target).is_ok() => attempt(),
            result => result,
        }
    }

    fn error(&self, error: Errno) -> InitError {
        let what = match self.source.starts_with('/') {
            true => format!("{} as {}", self.source, self.kind),
            false => format!("{} on {}", self.kind, self.target),
        };
        let why = match error {
            Errno::NODEV => format!("this kernel has no {}", self.kind),
            Errno::NOENT | Errno::NXIO if self.source.starts_with('/') => {
                "there is no such disk".to_owned()
            }
            Errno::INVAL if self.source.starts_with('/') => {
                format!("it holds no valid {}", self.kind)
            }
            other => reason(other),
        };
        InitError::Mount { what, reason: why }
    }
}

fn mount_error(what: &str, target: &str, error: Errno) -> InitError {
    InitError::Mount {
        what: format!("{what} on {target}"),
        reason: reason(error),
    }
}

fn make_directory(path: &str) -> Result<(), Errno> {
    rustix::fs::mkdir(path, Mode::from_raw_mode(0o755))
}
