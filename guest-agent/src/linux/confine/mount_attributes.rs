//! Attributes of a whole tree of mounts at once.

// UNSAFETY: mount_setattr has no safe binding.
#![expect(unsafe_code, reason = "mount_setattr(2)")]

use std::ffi::CString;
use std::io;

/// What a mount is not to allow. linux/mount.h: MOUNT_ATTR_*.
#[derive(Debug, Clone, Copy)]
pub(super) struct Denied(u64);

impl Denied {
    pub(super) const WRITING: Self = Self(0x1);
    pub(super) const SETUID_DEVICES: Self = Self(0x2 | 0x4);
    pub(super) const WRITING_SETUID_DEVICES: Self = Self(0x1 | 0x2 | 0x4);
}

/// How far it reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// The mount at the path.
    Mount,
    /// That mount and all below it.
    Tree,
}

/// Takes these away from the mounts at `path`. Linux 5.12.
pub(super) fn deny(path: &str, denied: Denied, reach: Reach) -> io::Result<()> {
    /// `struct mount_attr` of linux/mount.h.
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let attributes = Attributes {
        set: denied.0,
        clear: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let path = CString::new(path)?;
    let flags = match reach {
        Reach::Mount => 0,
        Reach::Tree => libc::AT_RECURSIVE,
    };
    // SAFETY: the path ends with NUL, and `attributes` has the size that is told; both outlive the
    // call, which writes to neither.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
