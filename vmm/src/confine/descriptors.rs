//! The descriptors that a process is born with.

// UNSAFETY: an inherited descriptor is known by its number alone, and closing all others is not
// something that the standard library offers.
#![expect(
    unsafe_code,
    reason = "takes ownership of an inherited descriptor; close_range"
)]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd};
use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};

/// The descriptor is not what the owner of a VMM passes.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    /// It was taken before.
    #[error("descriptor {0} has been taken already")]
    Taken(RawFd),
    /// There is none with this number.
    #[error("there is no descriptor {0}")]
    Missing(RawFd),
    /// It is no Unix socket of packets.
    #[error("descriptor {0} is not a Unix socket of type SOCK_SEQPACKET")]
    WrongKind(RawFd),
}

/// What was inherited beside standard input, output and error.
#[derive(Debug)]
pub struct Inherited;

static TAKEN: AtomicBool = AtomicBool::new(false);

impl Inherited {
    /// Takes over the packet socket with this number and closes every descriptor above it.
    ///
    /// To be called once, before the process has opened anything.
    ///
    /// # Errors
    /// When the descriptor is not such a socket.
    pub fn take_packet_socket(number: RawFd) -> Result<OwnedFd, InheritedError> {
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Err(InheritedError::Taken(number));
        }
        // SAFETY: the number has been passed by the parent process; nothing in this one has opened or
        // taken it, as it is the first thing that the process does, and only once. Should it not be
        // open, the first call below says so, and the wrapper is given up without closing anything.
        let socket = unsafe { OwnedFd::from_raw_fd(number) };
        if fcntl_getfd(&socket).is_err() {
            std::mem::forget(socket);
            return Err(InheritedError::Missing(number));
        }
        let kind = (socket_domain(&socket), socket_type(&socket));
        if kind != (Ok(AddressFamily::UNIX), Ok(SocketType::SEQPACKET)) {
            return Err(InheritedError::WrongKind(number));
        }
        // Fails for no open descriptor.
        let _ = fcntl_setfd(&socket, FdFlags::CLOEXEC);
        close_from(number + 1);
        grow_table(&socket);
        Ok(socket)
    }
}

/// Makes room for as many descriptors as a machine with some streams has. Growing the table later, when
/// the process has threads, would stop the growing thread for an RCU grace period, some 10 ms.
fn grow_table(any: &OwnedFd) {
    const ROOM: RawFd = 255;
    // The table stays as large when the copy is closed. Without it, growth is slow and no more.
    let _ = fcntl_dupfd_cloexec(any, ROOM);
}

/// Closes every descriptor from this number on. Kernels before 5.9 cannot, and then the descriptors
/// that the owner did not mark close-on-exec stay open.
fn close_from(number: RawFd) {
    let first = number.unsigned_abs();
    // SAFETY: the process has opened nothing yet, so nothing owns any of these descriptors.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
}
