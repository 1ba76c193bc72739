//! Where sessions come from.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;
use std::time::Duration;

use agent_protocol::frame::AGENT_PORT;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockListener, VsockStream};

use crate::linux::bridge::Bridge;
use crate::linux::confine::control::{self, Incoming};

/// How long to let a system recover that is short of memory or descriptors.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);

/// A socket that sessions come in by.
#[derive(Debug)]
pub(crate) enum Listener {
    /// The guest's vsock port. Only the host may connect.
    Vsock(VsockListener),
    /// A Unix socket: whoever may open it.
    Unix(OwnedFd),
    /// A socket that streams are passed over.
    Control(OwnedFd),
    /// The agent's end of a bridge.
    Bridge(Bridge),
}

impl Listener {
    /// Listens on [`AGENT_PORT`].
    pub(crate) fn vsock() -> io::Result<Self> {
        let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, AGENT_PORT)?;
        listener.set_nonblocking(true)?;
        Ok(Self::Vsock(listener))
    }

    /// Listens on a new socket at this path, which only the agent's own user may connect to.
    pub(crate) fn unix(path: &Path) -> io::Result<Self> {
        let old = rustix::process::umask(Mode::RWXG | Mode::RWXO);
        let listener = UnixListener::bind(path);
        rustix::process::umask(old);
        let listener = listener?;
        listener.set_nonblocking(true)?;
        Ok(Self::Unix(listener.into()))
    }

    /// Takes over a listening socket that was made by somebody else.
    pub(crate) fn inherited(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self::Unix(socket))
    }

    /// Connects to a host that listens for a control socket at this path.
    pub(crate) fn control(path: &Path) -> io::Result<Self> {
        let kind = SocketType::SEQPACKET;
        let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self::Control(socket))
    }

    /// The next connection, if one is there that is allowed.
    pub(crate) fn accept(&self) -> io::Result<Incoming> {
        let accepted = match self {
            Self::Vsock(listener) => listener.accept().map(|(stream, peer)| {
                // A process in the guest could connect too, and would be given root's power.
                match peer.cid() {
                    VMADDR_CID_HOST => Incoming::Stream(stream.into()),
                    _ => Incoming::Nothing,
                }
            }),
            Self::Unix(socket) => rustix::net::accept_with(socket, SocketFlags::CLOEXEC)
                .map(Incoming::Stream)
                .map_err(io::Error::from),
            Self::Control(socket) => control::receive(socket),
            Self::Bridge(bridge) => bridge.accept(),
        };
        match accepted {
            Err(error) if is_passing(&error) => Ok(Incoming::Nothing),
            accepted => accepted,
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Vsock(listener) => listener.as_fd(),
            Self::Unix(socket) | Self::Control(socket) => socket.as_fd(),
            Self::Bridge(bridge) => bridge.either.as_fd(),
        }
    }
}

/// Connects to a port of the host.
pub(crate) fn connect_to_host(port: u32) -> io::Result<OwnedFd> {
    VsockStream::connect_with_cid_port(VMADDR_CID_HOST, port).map(OwnedFd::from)
}

/// Whether an error of `accept` says nothing of the socket, but of one connection or of a system
/// that is short of something.
fn is_passing(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    if matches!(
        errno,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    ) {
        // The connection stays in the queue, and would be announced again at once.
        thread::sleep(SHORTAGE_PAUSE);
        return true;
    }
    matches!(
        errno,
        Some(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED | Errno::PROTO)
    )
}
