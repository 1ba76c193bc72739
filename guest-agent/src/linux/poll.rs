//! Waiting for several things at once, until a moment.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Polls those that are there until the deadline, and tells what each has.
pub(crate) fn poll_some<const N: usize>(
    wanted: [Option<(BorrowedFd<'_>, PollFlags)>; N],
    deadline: Option<Instant>,
) -> [PollFlags; N] {
    let mut fds: Vec<PollFd<'_>> = wanted
        .iter()
        .flatten()
        .map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
        .collect();
    let timeout = deadline.map(time_left);
    // An interrupted wait has found nothing, and the other errors are of a system without memory, which has
    // found nothing yet.
    let _ = poll(&mut fds, timeout.as_ref());
    let mut found = fds.iter().map(PollFd::revents);
    wanted.map(|wanted| {
        wanted
            .and_then(|_| found.next())
            .unwrap_or(PollFlags::empty())
    })
}

/// How long until then, for `poll`: rounded up, so that it does not wake before.
pub(crate) fn time_left(deadline: Instant) -> Timespec {
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(1);
    Timespec::try_from(left).unwrap_or(Timespec {
        tv_sec: i64::MAX,
        tv_nsec: 0,
    })
}
