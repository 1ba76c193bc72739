//! The socket device: streams between the host and the guest (virtio 1.2, section 5.10).
//!
//! ```text
//!   control socket ──▶ accept_stream, connect_stream ─┐
//!   <path>, <path>_P ──▶ host ────────────────────────┤
//!                                                     ▼
//!   host's sockets ◀──▶ stream ◀──▶ connection ◀──▶ muxer ◀──▶ device ◀──▶ rings
//!                                   credit, outbox    │
//!                                                  table, reactor
//! ```
//!
//! The device lives on the VMM's event loop. It waits on an epoll set of its own (`reactor`), takes
//! packets from the TX queue, and fills the RX queue with what its connections have for the guest.
//! Payload moves between guest memory and the host's sockets by `sendmsg` and `recvmsg` on the guest's
//! own buffers, many packets to a system call, and is copied aside only when a socket is full.
//!
//! It serves stream sockets between the guest and CID 2, the host. Nothing that the guest does costs
//! more than a bounded amount of memory: at most 1023 connections, and at most 40 MiB of payload that
//! hosts are slow to read.

mod connection;
mod credit;
mod device;
mod ends;
mod gather;
mod host;
#[cfg(any(test, feature = "test-support"))]
pub mod hostile;
mod lane;
mod muxer;
mod outbox;
mod owed;
mod packet;
mod reactor;
mod rings;
mod spec;
mod spent;
mod stream;
mod table;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

pub use device::Vsock;

/// The socket device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// VIRTIO 1.2 §5.10.4 reserves some context identifiers.
    #[error("guest CID {cid} is reserved: use 3 to 4294967294")]
    ReservedCid {
        /// The configured CID.
        cid: u32,
    },
    /// The kernel gives no descriptors to wait on.
    #[error("cannot set up the event queue of the socket device")]
    Reactor(#[source] io::Error),
    /// A Unix socket address is short, and a port is added to this one.
    #[error(
        "vsock socket path {path:?} has {len} bytes where at most {longest} are possible: use a \
         shorter one"
    )]
    PathTooLong {
        /// The configured path.
        path: PathBuf,
        /// Its length.
        len: usize,
        /// The longest possible length.
        longest: usize,
    },
    /// A socket is there already.
    #[error(
        "a socket exists at vsock socket path {path:?}: another machine uses it, or was killed; if \
         none does, remove the file"
    )]
    SocketExists {
        /// The configured path.
        path: PathBuf,
    },
    /// Something is there that we have not made.
    #[error("a file that is no socket exists at vsock socket path {path:?}: use another path")]
    ForeignFile {
        /// The configured path.
        path: PathBuf,
    },
    /// Another reason.
    #[error("cannot listen at vsock socket path {path:?}")]
    Listen {
        /// The configured path.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}
