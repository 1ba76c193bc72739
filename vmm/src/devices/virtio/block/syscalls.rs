//! System calls between a file and guest memory, and the wait for a kick.

// UNSAFETY: the kernel reads and writes guest memory by address. Rust slices of guest memory would
// be unsound, as the guest changes it at any time, so no safe wrapper can take it; and an eventfd of
// `vmm_sys_util` can be borrowed only by its number.
#![expect(unsafe_code, reason = "vectored I/O on guest memory")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, poll};
use vm_memory::VolatileSlice;
use vmm_sys_util::eventfd::EventFd;

/// How many buffers one system call takes: a whole request, unless its buffers cross regions of
/// guest memory. 2 KiB of stack.
const MAX_BUFFERS: usize = 128;

const NO_BUFFER: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

/// Reads from `file` at `offset` into `buffers`, as many bytes as come at once.
pub(super) fn read_at(
    file: &File,
    buffers: &[VolatileSlice<'_>],
    offset: u64,
) -> io::Result<usize> {
    let offset = file_offset(offset)?;
    let mut iovecs = [NO_BUFFER; MAX_BUFFERS];
    let count = describe(buffers, &mut iovecs);
    // SAFETY: the first `count` entries of `iovecs` were made by `describe` from slices that are
    // borrowed until after the call, and a volatile slice is memory that may be written.
    retry(|| unsafe { libc::preadv(file.as_raw_fd(), iovecs.as_ptr(), count, offset) })
}

/// Writes `buffers` to `file` at `offset`, as many bytes as go at once.
pub(super) fn write_at(
    file: &File,
    buffers: &[VolatileSlice<'_>],
    offset: u64,
) -> io::Result<usize> {
    let offset = file_offset(offset)?;
    let mut iovecs = [NO_BUFFER; MAX_BUFFERS];
    let count = describe(buffers, &mut iovecs);
    // SAFETY: as in `read_at`; the kernel only reads here.
    retry(|| unsafe { libc::pwritev(file.as_raw_fd(), iovecs.as_ptr(), count, offset) })
}

/// Waits until `kick` was signalled, and takes the signal.
pub(super) fn wait_for_kick(kick: &EventFd) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `kick`, which outlives this function.
    let descriptor = unsafe { BorrowedFd::borrow_raw(kick.as_raw_fd()) };
    let mut descriptors = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut descriptors, None))?;
    match kick.read() {
        // Nobody else takes signals but a reset, after which nobody waits.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

/// Fills `iovecs` with the first buffers and returns how many it took.
fn describe(buffers: &[VolatileSlice<'_>], iovecs: &mut [libc::iovec; MAX_BUFFERS]) -> i32 {
    let mut count = 0;
    for (iovec, buffer) in iovecs.iter_mut().zip(buffers) {
        iovec.iov_base = buffer.ptr_guard_mut().as_ptr().cast();
        iovec.iov_len = buffer.len();
        count += 1;
    }
    count
}

fn file_offset(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
