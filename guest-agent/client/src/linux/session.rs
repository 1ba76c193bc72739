//! A session over a connected stream socket.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use agent_protocol::files::FileRequest;
use agent_protocol::message::{ExecRequest, Hello, Request};
use agent_protocol::usage::Usage;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};

use crate::conversation::{Conversation, Handover, Stage};
use crate::error::ClientError;
use crate::linux::child::Child;
use crate::linux::files::Files;
use crate::linux::lease::Lease;
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
    lease: Option<OwnedFd>,
    has_lanes: bool,
}

impl Session {
    /// A session over this connected stream socket. It may be one whose other end is not served yet.
    pub fn new(stream: impl Into<OwnedFd>, options: SessionOptions) -> Self {
        Self {
            stream: stream.into(),
            options,
            lease: None,
            has_lanes: false,
        }
    }

    /// Says that the other end takes descriptors: what moves much data may take a lane then.
    #[must_use]
    pub const fn with_lanes(mut self, has_lanes: bool) -> Self {
        self.has_lanes = has_lanes;
        self
    }

    pub(crate) const fn has_lanes(&self) -> bool {
        self.has_lanes
    }

    /// Keeps this packet socket open for as long as the session lasts: whoever has its other end sees
    /// when that is over. A packet of one byte that comes from there is a signal, which the session's
    /// command gets once it runs.
    #[must_use]
    pub fn with_lease(mut self, lease: OwnedFd) -> Self {
        self.lease = Some(lease);
        self
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
        let started = Started::send(self, Request::Exec(request), None)?;
        Ok(Exec {
            started,
            limit: run_time.map(TimeLimit::Run),
            greeted: None,
        })
    }

    /// Has one thing done with files, with the rights of this user; with those that commands have,
    /// without one.
    #[must_use]
    pub fn files(self, user: Option<String>) -> Files {
        Files::new(self, user)
    }

    /// Sends a request about files, whose session goes as a command's does; with the memory of its lane.
    pub(crate) fn request_files(
        self,
        request: FileRequest,
        lane: Option<OwnedFd>,
        until: Option<Instant>,
    ) -> Result<Exec, ClientError> {
        Ok(Exec {
            started: Started::send(self, Request::Files(request), lane)?,
            limit: until.map(TimeLimit::Until),
            greeted: None,
        })
    }

    /// Asks the agent whether it is there, and waits for the answer.
    ///
    /// # Errors
    ///
    /// [`ClientError`] if it is not.
    pub fn ping(self) -> Result<Hello, ClientError> {
        Wait::new(Started::send(self, Request::Ping, None)?).pong()
    }

    /// Asks what the sandbox uses, and waits for the answer.
    ///
    /// # Errors
    ///
    /// [`ClientError`] if there is none.
    pub fn usage(self) -> Result<Usage, ClientError> {
        Wait::new(Started::send(self, Request::Usage, None)?).usage()
    }

    /// Tells the agent to end every process and switch the guest off, and waits until the stream
    /// ends.
    ///
    /// # Errors
    ///
    /// [`ClientError::Silent`] if it does not end in [`SessionOptions::answer_timeout`].
    pub fn power_off(self) -> Result<(), ClientError> {
        Wait::new(Started::send(self, Request::PowerOff, None)?).end()
    }
}

/// A session whose request is on its way.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) stream: OwnedFd,
    pub(crate) lease: Option<Lease>,
    /// Goes with the first bytes.
    pub(crate) lane: Option<OwnedFd>,
    pub(crate) conversation: Conversation,
    pub(crate) answer_timeout: Duration,
    pub(crate) answer_deadline: Instant,
}

impl Started {
    fn send(
        session: Session,
        request: Request,
        lane: Option<OwnedFd>,
    ) -> Result<Self, ClientError> {
        let answer_timeout = session.options.answer_timeout;
        let has_command = matches!(request, Request::Exec(_));
        let mut started = Self {
            stream: session.stream,
            lease: session.lease.map(|socket| Lease::new(socket, has_command)),
            lane,
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
            match self.send_once() {
                Ok(count) => {
                    self.lane = None;
                    self.conversation.sent(count);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
    }

    fn send_once(&self) -> Result<usize, Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let bytes = self.conversation.outgoing();
        let Some(lane) = &self.lane else {
            return rustix::net::send(&self.stream, bytes, flags);
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [lane.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, flags)
    }

    /// By what the lease's signals come. What comes too soon waits there until the command runs.
    pub(crate) fn lease_fd(&self) -> Option<BorrowedFd<'_>> {
        let runs = self.conversation.stage() == Stage::Running;
        self.lease.as_ref().filter(|_| runs)?.poll_fd()
    }

    /// Passes the lease's signals on to the command.
    pub(crate) fn heed_lease(&mut self) {
        while let Some(number) = self.lease.as_mut().and_then(Lease::take) {
            self.conversation.signal(number);
        }
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

/// How long a session may go on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TimeLimit {
    /// So long from its command's start: the agent ends it, and has to say so.
    Run(Duration),
    /// Until then, when it is given up.
    Until(Instant),
}

/// A command that has been asked for. Dropped, it is ended, with all its processes.
#[derive(Debug)]
pub struct Exec {
    started: Started,
    limit: Option<TimeLimit>,
    /// What the agent said of itself, if the command is known to run.
    greeted: Option<Hello>,
}

/// What came of moving a command's data.
#[derive(Debug)]
pub enum Pumped {
    /// The command has ended.
    Finished(Finished),
    /// The user typed the keys to leave it; it runs on.
    Detached(Box<Exec>),
}

impl Exec {
    pub(crate) fn running(
        started: Started,
        greeted: Option<Hello>,
        limit: Option<TimeLimit>,
    ) -> Self {
        Self {
            started,
            limit,
            greeted,
        }
    }

    /// Waits until the command runs.
    ///
    /// # Errors
    ///
    /// [`ClientError`] if it cannot be run.
    pub fn wait_until_runs(mut self) -> Result<Self, ClientError> {
        if self.greeted.is_none() {
            let (started, hello) = Wait::new(self.started).started()?;
            self.started = started;
            self.greeted = Some(hello);
        }
        Ok(self)
    }

    /// Moves data between the command and the caller's descriptors until the command has ended and
    /// all its output has been written.
    ///
    /// # Errors
    ///
    /// [`ClientError`] if there is no exit status to report.
    pub fn pump(self, io: PumpIo<'_>) -> Result<Finished, ClientError> {
        let io = PumpIo {
            detach_keys: &[],
            ..io
        };
        match self.pump_until_detached(io)? {
            Pumped::Finished(finished) => Ok(finished),
            Pumped::Detached(_) => Err(ClientError::Cancelled),
        }
    }

    /// As [`pump`](Self::pump), or until [`PumpIo::detach_keys`] have been typed.
    ///
    /// # Errors
    ///
    /// [`ClientError`] if there is no exit status to report.
    pub fn pump_until_detached(self, io: PumpIo<'_>) -> Result<Pumped, ClientError> {
        self.into_pump(io).run()
    }

    pub(crate) fn into_pump(self, io: PumpIo<'_>) -> Pump<'_> {
        Pump::new(self.started, self.greeted, self.limit, io)
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

    /// Gives the command up without ending it: what another process needs to go on with it. It waits
    /// until the command runs.
    ///
    /// # Errors
    ///
    /// [`ClientError`] if it cannot be run, or has ended.
    pub fn hand_over(self) -> Result<(OwnedFd, Handover), ClientError> {
        let Started {
            stream,
            conversation,
            ..
        } = self.wait_until_runs()?.started;
        let handover = conversation
            .hand_over()
            .ok_or(ClientError::Disconnected("it was handed over"))?;
        Ok((stream, handover))
    }

    /// Goes on with a command that another process gave up; `None` if that cannot be.
    #[must_use]
    pub fn take_over(stream: OwnedFd, handover: Handover) -> Option<Self> {
        Some(Self {
            started: Started {
                stream,
                lease: None,
                lane: None,
                conversation: Conversation::take_over(handover)?,
                answer_timeout: Duration::ZERO,
                answer_deadline: Instant::now(),
            },
            // The agent ends it in time, and nobody waits for a report.
            limit: None,
            greeted: Some(Hello::new()),
        })
    }
}
