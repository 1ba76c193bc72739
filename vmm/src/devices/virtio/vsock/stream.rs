// UNSAFETY: payload moves between guest memory and host sockets without a copy in between. Guest
// memory cannot be borrowed as `&[u8]`, as the guest writes to it at any time, so the safe wrappers
// of sendmsg(2) and recvmsg(2) cannot be used with it.
#![expect(
    unsafe_code,
    reason = "system calls on guest memory, which cannot be borrowed as slices"
)]

//! The host's end of a connection: a stream socket, never waited for.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::net::{RecvFlags, SendFlags, Shutdown};
use vm_memory::VolatileSlice;

/// The most buffers that one system call gets: enough for the largest read or packet as Linux lays
/// them out, and few enough for the stack. (The kernel would take `UIO_MAXIOV`, 1024.)
pub(super) const MAX_BUFFERS: usize = 64;

/// A connected stream socket of the host.
///
/// Whether the descriptor is in blocking mode does not matter: every call says `MSG_DONTWAIT`.
#[derive(Debug)]
pub(super) struct HostStream {
    fd: OwnedFd,
}

/// What [`HostStream::receive`] got.
#[derive(Debug)]
pub(super) struct Received {
    /// Bytes put into the buffers; 0 at the end of the stream.
    pub(super) bytes: usize,
    /// The first descriptor that came with the bytes, if it was asked for.
    pub(super) descriptor: Option<OwnedFd>,
    /// Whether descriptors came with the bytes. All but that one are closed (they cannot cross into a
    /// guest), and the kernel stops there: more bytes may wait although the buffers are not full.
    pub(super) cut_short: bool,
}

impl HostStream {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Writes out of guest memory. Returns how many bytes the socket took: fewer than there are when
    /// it is full.
    ///
    /// # Errors
    /// Nothing was written, and nothing can be any more.
    pub(super) fn send(&self, buffers: &[VolatileSlice<'_>]) -> io::Result<usize> {
        let mut sent = 0;
        for batch in buffers.chunks(MAX_BUFFERS) {
            let wanted: usize = batch.iter().map(VolatileSlice::len).sum();
            match self.send_batch(batch) {
                Ok(bytes) => {
                    sent += bytes;
                    if bytes < wanted {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The next call meets the error again, and has nothing else to tell.
                Err(_) if sent > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    /// Writes the host's own bytes. Returns how many the socket took.
    ///
    /// # Errors
    /// Nothing was written, and nothing can be any more.
    pub(super) fn send_bytes(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::net::send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::AGAIN) => return Ok(0),
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// Reads into guest memory, as many bytes as there are and as have room; and a descriptor, if one
    /// is wanted and comes with them.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing now; any other error is the end of the stream.
    pub(super) fn receive(
        &self,
        buffers: &[VolatileSlice<'_>],
        wants_descriptor: bool,
    ) -> io::Result<Received> {
        let batch = buffers.get(..MAX_BUFFERS).unwrap_or(buffers);
        let guards: Vec<_> = batch.iter().map(VolatileSlice::ptr_guard_mut).collect();
        let mut vectors: Vec<_> = guards
            .iter()
            .map(|guard| libc::iovec {
                iov_base: guard.as_ptr().cast(),
                iov_len: guard.len(),
            })
            .collect();
        let mut message = empty_message();
        message.msg_iov = vectors.as_mut_ptr();
        message.msg_iovlen = vectors.len() as _;
        let mut control = ControlBuffer::default();
        if wants_descriptor {
            message.msg_control = (&raw mut control).cast();
            message.msg_controllen = ONE_DESCRIPTOR as _;
        }
        loop {
            // SAFETY: `message` names the first of `vectors`, which outlives the call, no address, and
            // no control buffer or `control`, which outlives the call, too, and is as long as is said.
            // Each vector is a `VolatileSlice`, so it is valid for writes of its length
            // while its guest memory is borrowed, and nothing has a Rust reference to it. The
            // descriptor is open, being owned.
            let result = unsafe {
                libc::recvmsg(
                    self.fd.as_raw_fd(),
                    &raw mut message,
                    libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC,
                )
            };
            if let Ok(bytes) = usize::try_from(result) {
                let descriptor = control.take_descriptor();
                return Ok(Received {
                    bytes,
                    cut_short: descriptor.is_some() || message.msg_flags & libc::MSG_CTRUNC != 0,
                    descriptor,
                });
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Looks at the first bytes of the stream without taking them; `None` when there is nothing now.
    ///
    /// # Errors
    /// The stream has failed.
    pub(super) fn peek(&self, bytes: &mut [u8]) -> io::Result<Option<usize>> {
        self.receive_bytes(bytes, RecvFlags::PEEK)
    }

    /// Takes bytes that were seen before.
    ///
    /// # Errors
    /// The stream has failed.
    pub(super) fn take(&self, bytes: &mut [u8]) -> io::Result<Option<usize>> {
        self.receive_bytes(bytes, RecvFlags::empty())
    }

    /// Tells the peer that nothing more is sent or received. A peer that has gone cannot be told.
    pub(super) fn shut_down(&self, how: Shutdown) {
        let _ = rustix::net::shutdown(&self.fd, how);
    }

    fn receive_bytes(&self, bytes: &mut [u8], flags: RecvFlags) -> io::Result<Option<usize>> {
        loop {
            match rustix::net::recv(&self.fd, &mut *bytes, flags | RecvFlags::DONTWAIT) {
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(Some(other?.0)),
            }
        }
    }

    fn send_batch(&self, batch: &[VolatileSlice<'_>]) -> io::Result<usize> {
        let mut vectors = vectors(batch);
        let mut message = empty_message();
        message.msg_iov = vectors.as_mut_ptr();
        message.msg_iovlen = batch.len() as _;
        loop {
            // SAFETY: `message` names the first of `vectors`, which outlives the call, and no address
            // or control buffer. Each vector is a `VolatileSlice`, so it is valid for reads of its length while
            // its guest memory is borrowed; the kernel copes with bytes that change meanwhile. The
            // descriptor is open, being owned.
            let result = unsafe {
                libc::sendmsg(
                    self.fd.as_raw_fd(),
                    &raw const message,
                    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                )
            };
            if let Ok(bytes) = usize::try_from(result) {
                return Ok(bytes);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

impl AsRawFd for HostStream {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// The length of a control message with one descriptor (cmsg(3), `CMSG_LEN`).
const ONE_DESCRIPTOR: usize = size_of::<libc::cmsghdr>() + size_of::<RawFd>();

/// Room for one control message with one descriptor. Zeroed, it holds none.
#[repr(C)]
struct ControlBuffer {
    header: libc::cmsghdr,
    descriptor: RawFd,
}

impl Default for ControlBuffer {
    fn default() -> Self {
        let buffer = MaybeUninit::<Self>::zeroed();
        // SAFETY: all fields, and those of the header, are integers, for which zero is a value. (The
        // header has private padding with musl, so it cannot be written out.)
        unsafe { buffer.assume_init() }
    }
}

impl ControlBuffer {
    /// The descriptor that the kernel has put there, if it has. It is asked once.
    fn take_descriptor(self) -> Option<OwnedFd> {
        let holds_one = self.header.cmsg_level == libc::SOL_SOCKET
            && self.header.cmsg_type == libc::SCM_RIGHTS
            && u64::try_from(self.header.cmsg_len).is_ok_and(|len| len == ONE_DESCRIPTOR as u64);
        // SAFETY: the buffer was zeroed, so a header that says so was written by recvmsg, which has
        // made the descriptor for us alone; nobody has it but this buffer, which ends here.
        holds_one.then(|| unsafe { OwnedFd::from_raw_fd(self.descriptor) })
    }
}

/// Buffers as system calls take them; at most [`MAX_BUFFERS`].
fn vectors(buffers: &[VolatileSlice<'_>]) -> [libc::iovec; MAX_BUFFERS] {
    let empty = libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    };
    let mut vectors = [empty; MAX_BUFFERS];
    for (vector, buffer) in vectors.iter_mut().zip(buffers) {
        // The guard only matters for memory that is mapped on demand, which is Xen's.
        let base = buffer.ptr_guard_mut().as_ptr();
        *vector = libc::iovec {
            iov_base: base.cast(),
            iov_len: buffer.len(),
        };
    }
    vectors
}

/// A message without address, buffers or control data.
fn empty_message() -> libc::msghdr {
    let message = MaybeUninit::<libc::msghdr>::zeroed();
    // SAFETY: all fields are integers and pointers, for which zero is a value. (It has private
    // padding with musl, so it cannot be written out.)
    unsafe { message.assume_init() }
}
