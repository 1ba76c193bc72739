//! A session over a connected stream socket.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use agent_protocol::message::{ExecRequest, Hello, Request};
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};

use crate::conversation::Conversation;
use crate::error::ClientError;
use crate::linux::child::Child;
use crate::linux::output::Output;
use crate::linux::pump::{Finished, Pump, PumpIo};
use crate::linux::wait::Wait;

/// How a session begins.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// What to say to the agent. The default has our clock and fresh entropy for a guest's init.
    pub hello: Hello,
    /// How long the agent may take to answer the request: for the first session in a microVM that
    /// includes the guest's boot.
    pub answer_timeout: Duration,
}

impl Default for SessionOptions {
    fn default() -> Self {
        let now = clock_gettime(ClockId::Realtime);
        let nanoseconds = u64::try_from(now.tv_sec)
            .ok()
            .zip(u64::try_from(now.tv_nsec).ok())
            .and_then(|(s, ns)| s.checked_mul(1_000_000_000)?.checked_add(ns));
        let mut entropy = [0; 32];
        let filled = getrandom(&mut entropy, GetRandomFlags::empty());
        Self {
            hello: Hello {
                realtime_ns: nanoseconds,
                entropy: (filled == Ok(entropy.len())).then_some(entropy),
                ..Hello::new()
            },
            answer_timeout: Duration::from_secs(30),
        }
    }
}

/// A stream to an agent that nothing has been said on.
#[derive(Debug)]
pub struct Session {
    stream: OwnedFd,
    options: SessionOptions,
}

impl Session {
    /// A session over this connected stream socket. It may be one whose other end is not served yet.
    pub fn new(stream: impl Into<OwnedFd>, options: SessionOptions) -> Self {
        Self {
            stream: stream.into(),
            options,
        }
    }

    /// Sends a request to run a command, without waiting for anything: the request lies ready when
    /// the agent comes up.
    ///
    /// # Errors
    ///
    /// [`ClientError::RequestTooLarge`]. That the stream is dead shows when the result is waited for.
    pub fn exec(self, request: ExecRequest) -> Result<Exec, ClientError> {
        let run_time = request
            .timeout
            .map(|timeout| timeout.saturating_add(request.kill_after.unwrap_or_default()));
        let started = Started::send(self, Request::Exec(request))?;
        Ok(Exec { started, run_time })
    }

    /// Asks the agent whether it is there, and waits for the answer.
    ///
    /// # Errors
    ///
    /// [`ClientError`] if it is not.
    pub fn ping(self) -> Result<Hello, ClientError> {
        Wait::new(Started::send(self, Request::Ping)?).pong()
    }

    /// Tells the agent to end every process and switch the guest off, and waits until the stream
    /// ends.
    ///
    /// # Errors
    ///
    /// [`ClientError::Silent`] if it does not end in [`SessionOptions::answer_timeout`].
    pub fn power_off(self) -> Result<(), ClientError> {
        Wait::new(Started::send(self, Request::PowerOff)?).end()
    }
}

/// A session whose request is on its way.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) stream: OwnedFd,
    pub(crate) conversation: Conversation,
    pub(crate) answer_timeout: Duration,
    pub(crate) answer_deadline: Instant,
}

impl Started {
    fn send(session: Session, request: Request) -> Result<Self, ClientError> {
        let answer_timeout = session.options.answer_timeout;
        let mut started = Self {
            stream: session.stream,
            conversation: Conversation::new(session.options.hello, request)?,
            answer_timeout,
            answer_deadline: Instant::now() + answer_timeout,
        };
        started.send_outgoing();
        Ok(started)
    }

    /// Writes as much as the stream takes now. Returns whether it takes anything at all: a dead
    /// stream may still have something to read, and says by its end that it is dead.
    pub(crate) fn send_outgoing(&mut self) -> bool {
        while !self.conversation.outgoing().is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.stream, self.conversation.outgoing(), flags) {
                Ok(count) => self.conversation.sent(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
    }

    /// Reads once what is there. `false` at the stream's end.
    pub(crate) fn receive(&mut self) -> Result<bool, ClientError> {
        let flags = rustix::net::RecvFlags::DONTWAIT;
        match rustix::net::recv(&self.stream, self.conversation.space(), flags) {
            Ok((0, _)) | Err(Errno::CONNRESET | Errno::PIPE) => Ok(false),
            Ok((count, _)) => {
                self.conversation.filled(count);
                Ok(true)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(true),
            Err(error) => Err(ClientError::Io {
                doing: "reading from the guest agent",
                source: error.into(),
            }),
        }
    }
}

/// A command that has been asked for. Dropped, it is ended, with all its processes.
#[derive(Debug)]
pub struct Exec {
    started: Started,
    run_time: Option<Duration>,
}

impl Exec {
    /// Moves data between the command and the caller's descriptors until the command has ended and
    /// all its output has been written.
    ///
    /// # Errors
    ///
    /// [`ClientError`] if there is no exit status to report.
    pub fn pump(self, io: PumpIo<'_>) -> Result<Finished, ClientError> {
        Pump::new(self.started, self.run_time, io).run()
    }

    /// Runs the command with this input, and collects at most `limit` bytes of each output.
    ///
    /// # Errors
    ///
    /// [`ClientError`] if there is no exit status to report.
    pub fn output(self, input: &[u8], limit: usize) -> Result<Output, ClientError> {
        Output::collect(self, input, limit)
    }

    /// Lets a thread of its own do the moving, and returns ends to read from and write to.
    ///
    /// # Errors
    ///
    /// [`ClientError::Io`] if there are no more descriptors or threads.
    pub fn spawn(self) -> Result<Child, ClientError> {
        Child::spawn(self)
    }
}
