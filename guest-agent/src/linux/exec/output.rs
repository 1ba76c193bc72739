//! The way from the command to `Stdout` or `Stderr` frames.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent_protocol::credit::SendCredit;
use agent_protocol::frame::{FrameError, Kind, MAX_DATA};
use agent_protocol::writer::FrameWriter;
use rustix::event::PollFlags;
use rustix::io::Errno;

/// A pipe's size for a command that says much: as much as one may have without privilege.
const LARGE_PIPE: usize = 1024 * 1024;
/// The first reads take no more, since most commands say little, and a buffer has to be cleared. Each
/// that is filled makes the next one four times as large.
const FIRST_READ: usize = 4 * 1024;
/// More than a pseudoterminal ever holds: its buffers are bounded to 8 KiB (`pty_common_install`), and its line
/// discipline to 4 KiB (`N_TTY_BUF_SIZE`).
const FULL_TERMINAL: u64 = 64 * 1024;

/// One of a command's outputs.
#[derive(Debug)]
pub(crate) struct Output {
    kind: Kind,
    fd: Option<OwnedFd>,
    is_terminal: bool,
    credit: SendCredit,
    /// How much may still be passed on, if there is a limit.
    allowance: Option<u64>,
    /// Nobody wants it any more: it is read and dropped.
    unwanted: bool,
    truncated: bool,
    /// How much the next read takes.
    step: usize,
    /// What lay in it when the command ended and has not been read since; of a terminal at most.
    owed: u64,
}

impl Output {
    pub(crate) fn new(
        kind: Kind,
        fd: Option<OwnedFd>,
        is_terminal: bool,
        limit: Option<u64>,
    ) -> Self {
        Self {
            kind,
            fd,
            is_terminal,
            credit: SendCredit::new(),
            allowance: limit,
            unwanted: false,
            truncated: false,
            step: FIRST_READ,
            owed: 0,
        }
    }

    /// The descriptor to poll, while there is use for what it has.
    pub(crate) fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        let wanted = self.is_dropped() || self.credit.available() > 0;
        self.fd.as_ref().filter(|_| wanted).map(OwnedFd::as_fd)
    }

    /// Whether more can come.
    pub(crate) fn is_open(&self) -> bool {
        self.fd.is_some()
    }

    /// Whether something was read and not passed on for the limit's sake.
    pub(crate) fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Whether what the command itself had written has all been read.
    pub(crate) fn is_settled(&self) -> bool {
        self.fd.is_none() || self.owed == 0
    }

    /// Takes down what the command has written, when it has ended. A terminal tells of no more than its line
    /// discipline has, so it owes all that it could hold, until it is found empty.
    pub(crate) fn settle(&mut self) {
        self.owed = match &self.fd {
            None => 0,
            Some(_) if self.is_terminal => FULL_TERMINAL,
            Some(fd) => rustix::io::ioctl_fionread(fd).unwrap_or(0),
        };
    }

    /// Whether only a read can tell that nothing is owed any more, and there is use for what it brings.
    pub(crate) fn is_to_be_tried(&self) -> bool {
        self.is_terminal && !self.is_settled() && self.poll_fd().is_some()
    }

    /// Allows more to be sent.
    pub(crate) fn grant(&mut self, bytes: u32) -> Result<(), FrameError> {
        self.credit.grant(bytes, Kind::OutputCredit)
    }

    /// Stops passing it on. The reader of a pipe goes away, as in a shell's pipeline; a terminal is
    /// still read, or its command would block.
    pub(crate) fn close(&mut self) {
        self.unwanted = true;
        if !self.is_terminal {
            self.fd = None;
        }
    }

    /// Reads once if a poll has found anything, and makes a frame of it.
    ///
    /// That nobody holds the other end any more (`HUP` alone) does not say that nothing is left: Linux looks for
    /// data first and for writers later, and a command's last words and its end fit in between (`pipe_poll`,
    /// `n_tty_poll`). So only a read that finds nothing is the end.
    pub(crate) fn relay(&mut self, found: PollFlags, writer: &mut FrameWriter) {
        let Some(fd) = self.fd.as_ref().filter(|_| !found.is_empty()) else {
            return;
        };
        let read = if self.is_dropped() {
            rustix::io::read(fd, &mut [0; 16 * 1024])
        } else {
            let allowance = self.allowance.map_or(usize::MAX, |left| {
                usize::try_from(left).unwrap_or(usize::MAX)
            });
            let limit = self.step.min(self.credit.available()).min(allowance);
            writer.push_data(self.kind, limit, |space| rustix::io::read(fd, space))
        };
        match read {
            Ok(0) => self.fd = None,
            Ok(count) => self.book(count),
            Err(Errno::INTR) => {}
            // Somebody else has read it, or a terminal held less than it could: nothing is left of what
            // lay there.
            Err(Errno::AGAIN) => self.owed = 0,
            // A terminal that no process holds any more says EIO.
            Err(_) => self.fd = None,
        }
    }

    fn book(&mut self, count: usize) {
        let bytes = u64::try_from(count).unwrap_or(u64::MAX);
        self.owed = self.owed.saturating_sub(bytes);
        if self.is_dropped() {
            self.truncated |= !self.unwanted;
            return;
        }
        self.credit.spend(count);
        if let Some(left) = &mut self.allowance {
            *left = left.saturating_sub(bytes);
        }
        if count == self.step && self.step < MAX_DATA {
            self.step = (self.step * 4).min(MAX_DATA);
            if self.step == MAX_DATA
                && !self.is_terminal
                && let Some(fd) = &self.fd
            {
                // It only saves turns; where it is not allowed, the pipe stays as it is.
                let _ = rustix::pipe::fcntl_setpipe_size(fd, LARGE_PIPE);
            }
        }
    }

    fn is_dropped(&self) -> bool {
        self.unwanted || self.allowance == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    fn pipe(limit: Option<u64>) -> (std::fs::File, Output) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        (
            write.into(),
            Output::new(Kind::Stdout, Some(read), false, limit),
        )
    }

    #[test]
    fn limit_cuts_and_tells() {
        let (mut write, mut output) = pipe(Some(4));
        let mut writer = FrameWriter::new();
        write.write_all(b"sixteen").unwrap();
        output.relay(PollFlags::IN, &mut writer);
        assert!(!output.is_truncated());
        output.relay(PollFlags::IN, &mut writer);
        assert!(output.is_truncated());
        drop(write);
        output.relay(PollFlags::IN, &mut writer);
        assert!(!output.is_open());
        assert_eq!(writer.pending(), b"\x04\0\0\0\x83\0\0\0sixt");
    }

    #[test]
    fn last_words_that_a_poll_missed_are_read() {
        let (mut write, mut output) = pipe(None);
        let mut writer = FrameWriter::new();
        write.write_all(b"last").unwrap();
        drop(write);
        // As if the poll had looked for data before, and for writers after.
        output.relay(PollFlags::HUP, &mut writer);
        assert!(writer.pending().ends_with(b"last"));
        assert!(output.is_open());
        output.relay(PollFlags::HUP, &mut writer);
        assert!(!output.is_open());
    }

    #[test]
    fn output_of_just_the_limit_is_whole() {
        let (mut write, mut output) = pipe(Some(3));
        write.write_all(b"abc").unwrap();
        drop(write);
        let mut writer = FrameWriter::new();
        output.relay(PollFlags::IN, &mut writer);
        output.relay(PollFlags::IN, &mut writer);
        assert!(!output.is_open() && !output.is_truncated());
    }

    #[test]
    fn nothing_is_read_without_credit() {
        let (mut write, mut output) = pipe(None);
        let mut writer = FrameWriter::new();
        while output.poll_fd().is_some() {
            write.write_all(&[1; 4096]).unwrap();
            output.relay(PollFlags::IN, &mut writer);
        }
        assert_eq!(output.credit.available(), 0);
        output.grant(10).unwrap();
        assert!(output.poll_fd().is_some());
    }

    #[test]
    fn closing_breaks_the_commands_pipe() {
        let (mut write, mut output) = pipe(None);
        output.close();
        let error = write.write_all(b"x").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn what_lay_in_the_pipe_is_owed() {
        let (mut write, mut output) = pipe(None);
        write.write_all(b"abc").unwrap();
        output.settle();
        assert!(!output.is_settled());
        output.relay(PollFlags::IN, &mut FrameWriter::new());
        assert!(output.is_settled() && output.is_open());
    }

    #[test]
    fn empty_terminal_owes_nothing_once_it_has_been_tried() {
        let (_write, mut output) = pipe(None);
        rustix::io::ioctl_fionbio(output.fd.as_ref().unwrap(), true).unwrap();
        output.is_terminal = true;
        output.settle();
        assert!(!output.is_settled() && output.is_to_be_tried());
        output.relay(PollFlags::IN, &mut FrameWriter::new());
        assert!(output.is_settled() && !output.is_to_be_tried() && output.is_open());
    }

    #[test]
    fn what_the_command_reads_itself_is_owed_no_more() {
        let (mut write, mut output) = pipe(None);
        rustix::io::ioctl_fionbio(output.fd.as_ref().unwrap(), true).unwrap();
        write.write_all(b"abc").unwrap();
        output.settle();
        rustix::io::read(output.fd.as_ref().unwrap(), &mut [0; 3]).unwrap();
        output.relay(PollFlags::IN, &mut FrameWriter::new());
        assert!(output.is_settled() && output.is_open());
    }
}
