//! New namespaces for a copy of this process.

// UNSAFETY: clone with flags for namespaces has no safe binding.
#![expect(unsafe_code, reason = "the birth of a process")]

use std::io;
use std::os::fd::AsFd;

use agent_protocol::local::{ConfineStep, Shortfall};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::Pid;

use super::{errno_of, shortfall};
use crate::linux::sys;

const FLAGS: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP
    | libc::SIGCHLD;

/// Who one is after [`enter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The new process, first of its namespaces.
    Inside,
    /// The old one, with the new one's number.
    Outside(Pid),
}

/// Makes a copy of this process in namespaces of its own.
pub(super) fn enter() -> io::Result<Side> {
    // SAFETY: without CLONE_VM and without a stack this is fork: the agent has one thread, so no lock
    // can be held by a thread that the copy lacks. The C library is not told, which only matters to
    // the thread number that it keeps for threads and `raise`, which the agent does not use.
    let result = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(FLAGS), 0, 0, 0, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let number = i32::try_from(result).map_err(io::Error::other)?;
    Ok(Pid::from_raw(number).map_or(Side::Inside, Side::Outside))
}

/// Gives the new namespaces a name and a loopback device.
pub(super) fn furnish(hostname: &str) -> Result<(), Shortfall> {
    rustix::system::sethostname(hostname.as_bytes())
        .map_err(|errno| shortfall(ConfineStep::Network, hostname, errno))?;
    match rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None) {
        Ok(socket) => sys::loopback_up(socket.as_fd())
            .map_err(|error| shortfall(ConfineStep::Network, "lo", errno_of(&error))),
        // A kernel without IPv4.
        Err(Errno::AFNOSUPPORT) => Ok(()),
        Err(errno) => Err(shortfall(ConfineStep::Network, "lo", errno)),
    }
}
