//! What is said to a sandbox's supervisor, and what is made of its answers.

use std::io::{self, ErrorKind};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use agent_client::ClientError;

use super::{Detached, DetachedError};
use crate::deadline::is_readable;
use crate::error::{self, Problem};
use crate::registry::State;
use crate::registry::record::{Ending, Status};
use crate::supervisor::door::knock;
use crate::supervisor::message::{Asked, Reply, Request, VERSION, receive, send};

/// How long a supervisor may take to open its door once its sandbox runs, and how often to look.
const DOOR_PATIENCE: Duration = Duration::from_secs(60);
const DOOR_PAUSE: Duration = Duration::from_millis(10);

impl Detached {
    pub(super) fn done(&self, request: Request) -> Result<(), DetachedError> {
        match self.ask(request, None)?.0 {
            Reply::Done => Ok(()),
            reply => Err(self.unexpected(reply)),
        }
    }

    pub(super) fn ask(
        &self,
        request: Request,
        descriptor: Option<BorrowedFd>,
    ) -> Result<(Reply, Option<OwnedFd>, OwnedFd), DetachedError> {
        self.ask_until(request, descriptor, None)
    }

    /// The same, of somebody who has no more time than until then.
    pub(super) fn ask_until(
        &self,
        request: Request,
        descriptor: Option<BorrowedFd>,
        until: Option<Instant>,
    ) -> Result<(Reply, Option<OwnedFd>, OwnedFd), DetachedError> {
        let socket = self.knock(request, descriptor, until)?;
        let (reply, descriptor) = self.hear(&socket, until)?;
        Ok((reply, descriptor, socket))
    }

    /// Comes to the supervisor's door and says what is wanted.
    pub(super) fn knock(
        &self,
        request: Request,
        descriptor: Option<BorrowedFd>,
        until: Option<Instant>,
    ) -> Result<OwnedFd, DetachedError> {
        let asked = Asked {
            version: VERSION,
            request,
        };
        let deadline = Instant::now() + DOOR_PATIENCE;
        loop {
            let sent = knock(&self.entry)
                .and_then(|socket| send(&socket, &asked, descriptor).map(|()| socket));
            let error = match sent {
                Ok(socket) => return Ok(socket),
                Err(error) => error,
            };
            let gone = matches!(
                error.kind(),
                ErrorKind::NotFound
                    | ErrorKind::ConnectionRefused
                    | ErrorKind::ConnectionReset
                    | ErrorKind::BrokenPipe
            );
            if !gone {
                return Err(self.lost(error));
            }
            in_time(until)?;
            let record = self.entry.read()?;
            match self.entry.state(&record) {
                // It is coming up, or going down.
                State::Starting | State::Running if Instant::now() < deadline => {
                    thread::sleep(DOOR_PAUSE);
                }
                state => {
                    return Err(DetachedError::NotRunning {
                        name: record.name,
                        state,
                    });
                }
            }
        }
    }

    pub(super) fn hear(
        &self,
        socket: &OwnedFd,
        until: Option<Instant>,
    ) -> Result<(Reply, Option<OwnedFd>), DetachedError> {
        self.wait_for_word(socket, until)?;
        match receive(socket) {
            Ok(Some((Reply::Refused { problem }, _))) => Err(DetachedError::Refused(problem)),
            Ok(Some(heard)) => Ok(heard),
            Ok(None) => {
                let record = self.entry.read()?;
                Err(DetachedError::NotRunning {
                    state: self.entry.state(&record),
                    name: record.name,
                })
            }
            Err(error) => Err(self.lost(error)),
        }
    }

    /// Waits for the word that the sandbox has ended.
    pub(super) fn end_by(
        &self,
        socket: OwnedFd,
        cancel: Option<BorrowedFd>,
        patience: Option<Duration>,
    ) -> Result<Ending, DetachedError> {
        let deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
        match is_readable(&socket, cancel, deadline) {
            Ok(true) => {}
            Ok(false) => return Err(DetachedError::Interrupted),
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                return Err(DetachedError::DidNotEnd {
                    name: self.entry.read()?.name,
                    waited: patience.unwrap_or_default(),
                });
            }
            Err(error) => return Err(self.lost(error)),
        }
        match receive(&socket) {
            Ok(Some((Reply::Ended { ending }, _))) => Ok(ending),
            Ok(Some((Reply::Refused { problem }, _))) => Err(DetachedError::Refused(problem)),
            Ok(Some((reply, _))) => Err(self.unexpected(reply)),
            // It was killed.
            Ok(None) => self.ending(),
            Err(error) => Err(self.lost(error)),
        }
    }

    /// How it ended, by its record.
    pub(super) fn ending(&self) -> Result<Ending, DetachedError> {
        let record = self.entry.read()?;
        let state = self.entry.state(&record);
        match record.status {
            Status::Ended { ending, .. } => Ok(ending),
            Status::Failed { problem, .. } => Ok(Ending::Broken { problem }),
            Status::Running { .. } if state == State::Dead => Ok(Ending::Broken {
                problem: Problem::new(
                    error::ErrorKind::SupervisorKilled,
                    format!("sandbox {}: its supervisor was killed", record.name),
                ),
            }),
            Status::Created | Status::Running { .. } => Err(DetachedError::NotRunning {
                name: record.name,
                state,
            }),
        }
    }

    pub(super) fn expect_descriptor(
        &self,
        reply: Reply,
        descriptor: Option<OwnedFd>,
    ) -> Result<OwnedFd, DetachedError> {
        match (reply, descriptor) {
            (Reply::Descriptor, Some(descriptor)) => Ok(descriptor),
            (reply, _) => Err(self.unexpected(reply)),
        }
    }

    pub(super) fn unexpected(&self, reply: Reply) -> DetachedError {
        match reply {
            Reply::Refused { problem } => DetachedError::Refused(problem),
            reply => self.lost(io::Error::other(format!(
                "an answer that is none: {reply:?}"
            ))),
        }
    }

    pub(super) fn lost(&self, source: io::Error) -> DetachedError {
        match self.entry.read() {
            Ok(record) => DetachedError::Supervisor {
                name: record.name,
                source,
            },
            Err(error) => error.into(),
        }
    }
}

/// Sees that whoever waits has time left.
pub(super) fn in_time(until: Option<Instant>) -> Result<(), DetachedError> {
    match until.is_some_and(|until| until <= Instant::now()) {
        true => Err(ClientError::OutOfTime.into()),
        false => Ok(()),
    }
}
