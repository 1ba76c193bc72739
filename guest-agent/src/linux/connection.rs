//! A stream with frames on it.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use agent_protocol::frame::FrameError;
use agent_protocol::from_agent::AgentFrame;
use agent_protocol::from_host::HostFrame;
use agent_protocol::reader::FrameReader;
use agent_protocol::writer::FrameWriter;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg};

use crate::linux::poll::time_left;

/// How long a frame that nobody acts on may wait for company. Each packet wakes a chain of processes
/// on the host; most commands have ended, or said something, before this is over.
const HOLD: Duration = Duration::from_millis(5);

/// The agent's end of a session's stream. Never blocks but in [`wait`](Self::wait) and
/// [`finish`](Self::finish).
#[derive(Debug)]
pub(crate) struct Connection {
    stream: OwnedFd,
    reader: FrameReader,
    writer: FrameWriter,
    held: Option<Held>,
    /// What came with the request.
    descriptor: Option<OwnedFd>,
}

/// Frames that wait for company.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// How many bytes are to be sent if no company has come.
    length: usize,
    until: Instant,
}

/// The host has gone away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

impl Connection {
    pub(crate) fn new(stream: OwnedFd) -> Self {
        Self {
            stream,
            reader: FrameReader::new(),
            writer: FrameWriter::new(),
            held: None,
            descriptor: None,
        }
    }

    /// Lays a frame ready to be sent.
    pub(crate) fn push(&mut self, frame: &AgentFrame<'_>) {
        // Only data could be too large, and that goes through the writer itself.
        let pushed = self.writer.push_agent(frame);
        debug_assert!(pushed.is_ok(), "{frame:?} does not fit in a frame");
    }

    /// Lays a frame ready that may wait a moment for others.
    pub(crate) fn push_held(&mut self, frame: &AgentFrame<'_>) {
        self.push(frame);
        self.held = Some(Held {
            length: self.pending(),
            until: Instant::now() + HOLD,
        });
    }

    /// Where data frames are made.
    pub(crate) fn writer(&mut self) -> &mut FrameWriter {
        &mut self.writer
    }

    /// How many bytes wait to be sent.
    pub(crate) fn pending(&self) -> usize {
        self.writer.pending().len()
    }

    /// Until when [`send`](Self::send) does nothing, if that is so.
    pub(crate) fn held_until(&self) -> Option<Instant> {
        self.held
            .filter(|held| held.length == self.pending())
            .map(|held| held.until)
    }

    /// Sends what the stream takes now.
    pub(crate) fn send(&mut self) -> Result<(), Gone> {
        if self
            .held_until()
            .is_some_and(|until| Instant::now() < until)
        {
            return Ok(());
        }
        self.held = None;
        while self.pending() > 0 {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.stream, self.writer.pending(), flags) {
                Ok(count) => self.writer.sent(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return Err(Gone),
            }
        }
        Ok(())
    }

    /// Reads once what is there. A descriptor that comes with it is closed.
    pub(crate) fn receive(&mut self) -> Result<(), Gone> {
        let received = rustix::net::recv(&self.stream, self.reader.space(), RecvFlags::DONTWAIT);
        self.received(received.map(|(_, count)| count))
    }

    /// The same, and keeps the first descriptor that comes.
    pub(crate) fn receive_with_descriptor(&mut self) -> Result<(), Gone> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let mut place = [IoSliceMut::new(self.reader.space())];
        let received = recvmsg(&self.stream, &mut place, &mut ancillary, flags);
        let descriptor = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        self.descriptor = self.descriptor.take().or(descriptor);
        self.received(received.map(|message| message.bytes))
    }

    /// What came with the request, once.
    pub(crate) fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptor.take()
    }

    fn received(&mut self, received: Result<usize, Errno>) -> Result<(), Gone> {
        match received {
            Ok(count @ 1..) => {
                self.reader.filled(count);
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Ok(0) | Err(_) => Err(Gone),
        }
    }

    /// The next frame that has come whole.
    pub(crate) fn next_frame(&mut self) -> Result<Option<HostFrame<'_>>, FrameError> {
        match self.reader.next_frame()? {
            Some((kind, payload)) => HostFrame::decode(kind, payload).map(Some),
            None => Ok(None),
        }
    }

    /// Waits until something has come, and sends meanwhile. An error of kind `TimedOut` after the
    /// deadline.
    pub(crate) fn wait(&mut self, deadline: Instant) -> io::Result<()> {
        loop {
            self.send().map_err(|Gone| io::ErrorKind::ConnectionReset)?;
            let held = self.held_until();
            let mut flags = PollFlags::IN;
            if held.is_none() && self.pending() > 0 {
                flags |= PollFlags::OUT;
            }
            let timeout = time_left(held.unwrap_or(deadline).min(deadline));
            let mut fds = [PollFd::new(&self.stream, flags)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) if Instant::now() >= deadline => return Err(io::ErrorKind::TimedOut.into()),
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) if fds.iter().all(|fd| fd.revents() == PollFlags::OUT) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends all that is left, as long as the host takes it before the deadline.
    pub(crate) fn finish(mut self, deadline: Instant) {
        self.held = None;
        while self.send().is_ok() && self.pending() > 0 && Instant::now() < deadline {
            let mut fds = [PollFd::new(&self.stream, PollFlags::OUT)];
            let _ = poll(&mut fds, Some(&time_left(deadline)));
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
