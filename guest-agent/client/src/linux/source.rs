//! Where a command's input comes from.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

/// Where a command's input comes from. It is asked only while the command takes more, and never if
/// the request has no `stdin`.
#[derive(Debug, Clone, Copy, Default)]
pub enum InputSource<'a> {
    /// There is none: the command reads the end at once.
    #[default]
    Empty,
    /// This descriptor: a terminal, pipe, socket or file. Its flags are left as they are.
    Fd(BorrowedFd<'a>),
    /// These bytes.
    Bytes(&'a [u8]),
}

impl<'a> InputSource<'a> {
    /// The descriptor to poll before [`read`](Self::read); `None` when it never waits.
    pub(crate) fn poll_fd(&self) -> Option<BorrowedFd<'a>> {
        match self {
            Self::Fd(fd) => Some(*fd),
            Self::Empty | Self::Bytes(_) => None,
        }
    }

    /// Reads once. 0 is the end; `None` that there is nothing just now.
    pub(crate) fn read(&mut self, space: &mut [u8]) -> io::Result<Option<usize>> {
        match self {
            Self::Empty => Ok(Some(0)),
            Self::Bytes(bytes) => {
                let count = bytes.len().min(space.len());
                let (now, later) = bytes.split_at(count);
                space
                    .get_mut(..count)
                    .unwrap_or_default()
                    .copy_from_slice(now);
                *bytes = later;
                Ok(Some(count))
            }
            Self::Fd(fd) => match rustix::io::read(*fd, space) {
                Ok(count) => Ok(Some(count)),
                Err(Errno::AGAIN | Errno::INTR) => Ok(None),
                // A terminal that hung up, or a descriptor that was closed before we began.
                Err(Errno::IO | Errno::BADF) => Ok(Some(0)),
                Err(error) => Err(error.into()),
            },
        }
    }
}
