//! The stream that the agent opens by itself, until somebody has a use for it.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use agent_protocol::frame::REQUEST_PATIENCE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long it is good for. The agent has waited somewhat longer than we know of, and who gets the
/// stream needs a moment as well.
const GOOD_FOR: Duration = Duration::from_secs(REQUEST_PATIENCE.as_secs() / 3);

/// A stream on which the agent has greeted, and nothing was said yet.
#[derive(Debug)]
pub(super) struct First {
    stream: UnixStream,
    heard: Instant,
}

impl First {
    /// One on which the agent was heard just now.
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            heard: Instant::now(),
        }
    }

    /// The stream, if the agent still waits for a request on it, and will for a while.
    pub(super) fn still_good(self) -> Option<UnixStream> {
        let is_good = self.heard.elapsed() < GOOD_FOR && !has_ended(&self.stream);
        is_good.then_some(self.stream)
    }
}

/// Whether the other end is closed, whatever there is to read.
fn has_ended(stream: &UnixStream) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(stream, PollFlags::RDHUP)];
    // Of one that cannot be asked the worse is assumed: there can be another.
    poll(&mut fds, Some(&now)) != Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::Shutdown;

    use super::*;

    /// The agent's end has greeted.
    fn greeted() -> (First, UnixStream) {
        let (stream, mut agent) = UnixStream::pair().unwrap();
        agent.write_all(b"hello").unwrap();
        (First::new(stream), agent)
    }

    #[test]
    fn one_that_the_agent_waits_on_is_good_and_has_its_greeting() {
        let (first, _agent) = greeted();
        let mut greeting = [0; 5];
        first
            .still_good()
            .unwrap()
            .read_exact(&mut greeting)
            .unwrap();
        assert_eq!(&greeting, b"hello");
    }

    #[test]
    fn one_that_the_agent_will_give_up_soon_is_not_good() {
        let (first, _agent) = greeted();
        let heard = first.heard.checked_sub(GOOD_FOR).unwrap();
        assert!(First { heard, ..first }.still_good().is_none());
    }

    #[test]
    fn one_that_the_agent_has_given_up_is_not_good() {
        let (first, agent) = greeted();
        // Not by closing it, as another test may have forked a process that has it too.
        agent.shutdown(Shutdown::Both).unwrap();
        assert!(first.still_good().is_none());
    }
}
