//! Waiting for several things at once, until a moment.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::ClientError;

/// Polls those that are there, and tells which have something.
pub(crate) fn ready<const N: usize>(
    wanted: [Option<(BorrowedFd<'_>, PollFlags)>; N],
    timeout: Option<&Timespec>,
) -> Result<[bool; N], ClientError> {
    let mut fds: Vec<PollFd<'_>> = wanted
        .iter()
        .flatten()
        .map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
        .collect();
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => {
            return Err(ClientError::Io {
                doing: "waiting for the guest agent",
                source: error.into(),
            });
        }
    }
    let mut results = fds.iter().map(|fd| !fd.revents().is_empty());
    Ok(wanted.map(|wanted| wanted.is_some() && results.next().unwrap_or(false)))
}

/// How long until then, for `poll`: rounded up, so that it does not wake before.
pub(crate) fn time_left(deadline: Instant) -> Timespec {
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(1);
    Timespec::try_from(left).unwrap_or(Timespec {
        tv_sec: i64::MAX,
        tv_nsec: 0,
    })
}
