// UNSAFETY: the runtime takes a descriptor on the promise that it stays the same while it waits.
#![expect(
    unsafe_code,
    reason = "a descriptor's lifetime is promised, not checked"
)]

//! Waiting for descriptors that are not the runtime's own.

use std::io;
use std::os::fd::BorrowedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits until there is something to read, or to accept.
pub(super) async fn readable(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a borrowed descriptor stays open, and the same, while it is borrowed, which is longer
    // than the registration lives; its number does not change either.
    let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
    let _ready = fd.readable().await?;
    Ok(())
}
