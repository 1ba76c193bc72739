//! Waits for an answer of the agent, and for nothing else.

use std::time::{Duration, Instant};

use agent_protocol::message::Hello;
use agent_protocol::usage::Usage;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::conversation::Event;
use crate::error::ClientError;
use crate::linux::session::Started;

/// A request under way.
pub(crate) struct Wait {
    started: Started,
    /// Whether the stream still takes what we write.
    open: bool,
}

impl Wait {
    pub(crate) fn new(started: Started) -> Self {
        Self {
            started,
            open: true,
        }
    }

    /// Waits for the agent's greeting and pong.
    pub(crate) fn pong(mut self) -> Result<Hello, ClientError> {
        const WAITING: &str = "waiting for its answer to a ping";
        let mut greeting = None;
        loop {
            while let Some(event) = self.started.conversation.next_event()? {
                match event {
                    Event::Hello(hello) => greeting = Some(hello),
                    Event::Pong => return greeting.ok_or(ClientError::Disconnected(WAITING)),
                    Event::Refused(error) => return Err(ClientError::Refused(error)),
                    // The conversation lets no event of a running command through to here.
                    Event::Started { .. }
                    | Event::Output(..)
                    | Event::InputWanted
                    | Event::StdinClosed
                    | Event::Usage(_)
                    | Event::Exited(_) => {}
                }
            }
            if !self.advance(WAITING)? {
                return Err(ClientError::Disconnected(WAITING));
            }
        }
    }

    /// Waits for what the sandbox uses.
    pub(crate) fn usage(mut self) -> Result<Usage, ClientError> {
        const WAITING: &str = "measuring the sandbox";
        loop {
            while let Some(event) = self.started.conversation.next_event()? {
                match event {
                    Event::Usage(usage) => return Ok(usage),
                    Event::Refused(error) => return Err(ClientError::Refused(error)),
                    // The conversation lets no event of a running command through to here.
                    Event::Hello(_)
                    | Event::Started { .. }
                    | Event::Output(..)
                    | Event::InputWanted
                    | Event::StdinClosed
                    | Event::Pong
                    | Event::Exited(_) => {}
                }
            }
            if !self.advance(WAITING)? {
                return Err(ClientError::Disconnected(WAITING));
            }
        }
    }

    /// Waits until the command runs.
    pub(crate) fn started(mut self) -> Result<(Started, Hello), ClientError> {
        const WAITING: &str = "starting the command";
        // A connection that the guest's kernel refused never greets, unlike most sessions that died.
        const UNGREETED: &str = "starting the command, before the agent's greeting";
        let mut greeting = None;
        loop {
            while let Some(event) = self.started.conversation.next_event()? {
                match event {
                    Event::Hello(hello) => greeting = Some(hello),
                    Event::Started { .. } => {
                        let hello = greeting.ok_or(ClientError::Disconnected(WAITING))?;
                        return Ok((self.started, hello));
                    }
                    Event::Refused(error) => return Err(ClientError::Refused(error)),
                    // The conversation lets none of these through to here.
                    Event::Pong
                    | Event::Usage(_)
                    | Event::Output(..)
                    | Event::InputWanted
                    | Event::StdinClosed
                    | Event::Exited(_) => {}
                }
            }
            if !self.advance(WAITING)? {
                return Err(ClientError::Disconnected(match greeting {
                    None => UNGREETED,
                    Some(_) => WAITING,
                }));
            }
        }
    }

    /// Waits for the stream's end.
    pub(crate) fn end(mut self) -> Result<(), ClientError> {
        loop {
            while let Some(event) = self.started.conversation.next_event()? {
                if let Event::Refused(error) = event {
                    return Err(ClientError::Refused(error));
                }
            }
            if !self.advance("waiting for it to switch off")? {
                return Ok(());
            }
        }
    }

    /// Waits until there is something to do and does it. `false` at the stream's end.
    fn advance(&mut self, waiting_for: &'static str) -> Result<bool, ClientError> {
        let mut flags = PollFlags::IN;
        if self.open && !self.started.conversation.outgoing().is_empty() {
            flags |= PollFlags::OUT;
        }
        let timeout = time_left(self.started.answer_deadline);
        let mut fds = [PollFd::new(&self.started.stream, flags)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => {
                let silence = self.started.answer_timeout;
                return Err(ClientError::Silent {
                    waiting_for,
                    silence,
                });
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                return Err(ClientError::Io {
                    doing: "waiting for the guest agent",
                    source: error.into(),
                });
            }
        }
        self.open = self.started.send_outgoing();
        self.started.receive()
    }
}

/// How long until then, for `poll`: rounded up, so that it does not wake before.
pub(crate) fn time_left(deadline: Instant) -> Timespec {
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(1);
    Timespec::try_from(left).unwrap_or(Timespec {
        tv_sec: i64::MAX,
        tv_nsec: 0,
    })
}
