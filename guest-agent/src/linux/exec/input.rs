//! The way from `Stdin` frames to the command.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent_protocol::credit::ReceiveCredit;
use agent_protocol::frame::{FrameError, Kind};
use rustix::io::Errno;
use rustix::termios::{SpecialCodeIndex, tcgetattr};

/// A command's standard input.
#[derive(Debug)]
pub(crate) struct Input {
    place: Place,
    /// What the command has not taken yet: at most a window of credit.
    waiting: Vec<u8>,
    taken: usize,
    credit: ReceiveCredit,
    /// The host has said that no more will come.
    ended: bool,
    is_terminal: bool,
    /// The last byte that went to the terminal.
    last: u8,
}

#[derive(Debug)]
enum Place {
    /// The request had no input.
    Absent,
    Open(OwnedFd),
    /// The command closed it, or its end has been passed on.
    Closed,
}

/// What the host is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// Nothing.
    None,
    /// So much more may be sent.
    Credit(u32),
    /// Nobody reads any more.
    Closed,
}

impl Input {
    pub(crate) fn new(fd: Option<OwnedFd>, is_terminal: bool) -> Self {
        Self {
            place: fd.map_or(Place::Absent, Place::Open),
            waiting: Vec::new(),
            taken: 0,
            credit: ReceiveCredit::new(),
            ended: false,
            is_terminal,
            last: b'\n',
        }
    }

    /// Takes what has come from the host. [`flush`](Self::flush) passes it on.
    pub(crate) fn push(&mut self, data: &[u8]) -> Result<(), FrameError> {
        if self.ended || matches!(self.place, Place::Absent) {
            return Err(FrameError::Unexpected(Kind::Stdin));
        }
        self.credit.receive(data.len(), Kind::Stdin)?;
        if matches!(self.place, Place::Open(_)) {
            self.waiting.extend_from_slice(data);
        }
        Ok(())
    }

    /// Notes that no more will come.
    pub(crate) fn end(&mut self) -> Result<(), FrameError> {
        if self.ended || matches!(self.place, Place::Absent) {
            return Err(FrameError::Unexpected(Kind::StdinEof));
        }
        if self.is_terminal {
            self.type_end();
        }
        self.ended = true;
        Ok(())
    }

    /// Passes on what the command takes now, and its end when all has been taken.
    pub(crate) fn flush(&mut self) -> News {
        let Place::Open(fd) = &self.place else {
            return News::None;
        };
        let mut count = 0;
        loop {
            let rest = self.waiting.get(self.taken + count..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            match rustix::io::write(fd, rest) {
                Ok(written) => count += written,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.close();
                    return News::Closed;
                }
            }
        }
        self.book(count)
    }

    /// The descriptor to poll: for writability while something waits, else for its reader's end only.
    pub(crate) fn poll_fd(&self) -> Option<(BorrowedFd<'_>, bool)> {
        match &self.place {
            // A terminal has other ways to say that it is over.
            Place::Open(_) if self.is_terminal && !self.is_waiting() => None,
            Place::Open(fd) => Some((fd.as_fd(), self.is_waiting())),
            Place::Absent | Place::Closed => None,
        }
    }

    /// Closes it after its reader has gone.
    pub(crate) fn close(&mut self) {
        self.place = Place::Closed;
        self.waiting = Vec::new();
        self.taken = 0;
    }

    fn is_waiting(&self) -> bool {
        self.taken < self.waiting.len()
    }

    fn book(&mut self, count: usize) -> News {
        if let Some(last) = count
            .checked_sub(1)
            .and_then(|end| self.waiting.get(self.taken + end))
        {
            self.last = *last;
        }
        self.taken += count;
        if !self.is_waiting() {
            self.waiting.clear();
            self.taken = 0;
            if self.ended && !self.is_terminal {
                self.place = Place::Closed;
            }
        } else if self.taken > self.waiting.len() / 2 {
            self.waiting.drain(..self.taken);
            self.taken = 0;
        }
        self.credit.consume(count).map_or(News::None, News::Credit)
    }

    /// A terminal has no end: what a person would do is type the end-of-file character. It only sends
    /// off a line that has been begun, so then it takes two.
    fn type_end(&mut self) {
        let Place::Open(fd) = &self.place else { return };
        let Ok(attributes) = tcgetattr(fd) else {
            return;
        };
        let eof = attributes.special_codes[SpecialCodeIndex::VEOF];
        let last = self.waiting.last().copied().unwrap_or(self.last);
        if last != b'\n' && last != b'\r' {
            self.waiting.push(eof);
        }
        self.waiting.push(eof);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use agent_protocol::credit::INITIAL_CREDIT;
    use rustix::pipe::{PipeFlags, pipe_with};

    fn pipe() -> (std::fs::File, Input) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        rustix::io::ioctl_fionbio(&write, true).unwrap();
        (read.into(), Input::new(Some(write), false))
    }

    #[test]
    fn end_comes_after_all_that_waited() {
        let (mut read, mut input) = pipe();
        let data = vec![7; 200_000];
        for chunk in data.chunks(50_000) {
            input.push(chunk).unwrap();
        }
        input.end().unwrap();
        let mut received = Vec::new();
        while input.poll_fd().is_some() {
            input.flush();
            let mut space = [0; 10_000];
            let count = read.read(&mut space).unwrap();
            received.extend_from_slice(&space[..count]);
        }
        read.read_to_end(&mut received).unwrap();
        assert!(received == data);
    }

    #[test]
    fn credit_is_given_back_as_the_command_reads() {
        let (mut read, mut input) = pipe();
        input.push(&[0; 60_000]).unwrap();
        assert_eq!(input.flush(), News::None);
        read.read_exact(&mut [0; 60_000]).unwrap();
        input.push(&[0; 10_000]).unwrap();
        assert_eq!(input.flush(), News::Credit(70_000));
    }

    #[test]
    fn more_than_a_window_is_refused() {
        let (_read, mut input) = pipe();
        input
            .push(&vec![0; usize::try_from(INITIAL_CREDIT).unwrap()])
            .unwrap();
        assert_eq!(
            input.push(&[0]),
            Err(FrameError::CreditExceeded(Kind::Stdin))
        );
    }

    #[test]
    fn reader_that_goes_away_is_told_once() {
        let (read, mut input) = pipe();
        drop(read);
        input.push(b"x").unwrap();
        assert_eq!(input.flush(), News::Closed);
        input.push(b"y").unwrap();
        assert_eq!(input.flush(), News::None);
        assert!(input.poll_fd().is_none());
    }

    #[test]
    fn input_that_was_not_announced_is_refused() {
        let mut input = Input::new(None, false);
        assert_eq!(input.push(b"x"), Err(FrameError::Unexpected(Kind::Stdin)));
        let (_read, mut input) = pipe();
        input.end().unwrap();
        assert_eq!(input.push(b"x"), Err(FrameError::Unexpected(Kind::Stdin)));
        assert_eq!(input.end(), Err(FrameError::Unexpected(Kind::StdinEof)));
    }
}
