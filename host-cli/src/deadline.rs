//! Deadlines in the form that the system's calls want, and waiting for a descriptor until one.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Waits for something to read, or for the end of it. `false` if the caller gave up, which `cancel`
/// tells by becoming readable.
///
/// # Errors
///
/// `TimedOut` after the deadline, or the system's.
pub(crate) fn is_readable(
    fd: impl AsFd,
    cancel: Option<BorrowedFd>,
    deadline: Option<Instant>,
) -> io::Result<bool> {
    let fd = fd.as_fd();
    loop {
        let mut fds =
            [fd, cancel.unwrap_or(fd)].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let left = deadline.map(remaining);
        rustix::io::retry_on_intr(|| poll(&mut fds, left.as_ref()))?;
        let [fd, cancel] = fds.map(|fd| !fd.revents().is_empty());
        if fd || cancel {
            return Ok(fd);
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(ErrorKind::TimedOut.into());
        }
    }
}

/// The time that is left until a deadline, as `poll` wants it.
pub(crate) fn remaining(deadline: Instant) -> Timespec {
    timespec(deadline.saturating_duration_since(Instant::now()))
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_comes_first_ends_the_wait() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (cancel, gives_up) = UnixStream::pair().unwrap();
        let soon = || Some(Instant::now() + Duration::from_millis(10));
        let waited = |deadline| is_readable(&ours, Some(cancel.as_fd()), deadline);
        assert_eq!(waited(soon()).unwrap_err().kind(), ErrorKind::TimedOut);
        gives_up.shutdown(Shutdown::Write).unwrap();
        assert!(!waited(None).unwrap());
        theirs.shutdown(Shutdown::Write).unwrap();
        assert!(waited(None).unwrap());
        assert!(is_readable(&ours, None, soon()).unwrap());
    }

    #[test]
    fn a_deadline_in_the_past_leaves_no_time() {
        let left = remaining(Instant::now());
        assert_eq!((left.tv_sec, left.tv_nsec), (0, 0));
    }

    #[test]
    fn fractions_of_a_second_are_kept() {
        let left = timespec(Duration::from_millis(1500));
        assert_eq!((left.tv_sec, left.tv_nsec), (1, 500_000_000));
    }
}
