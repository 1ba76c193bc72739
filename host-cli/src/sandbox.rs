//! A running sandbox.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use agent_client::{ClientError, Exec, Files, Finished, PumpIo, Session, SessionOptions};
use agent_protocol::message::{AgentError, ExecRequest, ExitReport};

use crate::command::CommandError;
use crate::error::{ENGINE_FAILURE, ErrorKind, Problem, chain};
use crate::orphans;
use crate::spec::Unsupported;
use crate::tier::Isolation;
use crate::tier::choose::Choice;
use crate::tier::started::{Started, TierError};
use crate::usage::{self, Stats};

/// A running sandbox. It ends with this value: dropped, nothing of it is left.
#[derive(Debug)]
pub struct Sandbox {
    choice: Choice,
    started: Started,
}

/// A command that has no result.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The agent could not serve the request, or the conversation with it failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The tier cannot honour what was asked for.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The sandbox ended under the command.
    #[error("the sandbox ended: {}", chain(source))]
    Ended {
        /// Why.
        source: TierError,
    },
}

impl ExecError {
    /// What kind of error it is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Client(error) => client_kind(error),
            Self::Unsupported(_) => ErrorKind::UnsupportedFlag,
            Self::Ended { source } => source.kind(),
        }
    }

    /// What the user can do, if we know.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Client(_) => None,
            Self::Unsupported(refusal) => Some(refusal.hint()),
            Self::Ended { source } => source.hint(),
        }
    }

    /// The newest lines of the guest's console, where they may help.
    #[must_use]
    pub fn console(&self) -> &[String] {
        match self {
            Self::Client(_) | Self::Unsupported(_) => &[],
            Self::Ended { source } => source.console(),
        }
    }

    /// The exit code to report: 126 or 127 for a command that cannot be run, else 125.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) => error.exit_code(),
            Self::Unsupported(_) | Self::Ended { .. } => ENGINE_FAILURE,
        }
    }

    /// The error with its causes, in one line.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Client(_) | Self::Unsupported(_) => chain(self),
            // Its own text has its causes already.
            Self::Ended { .. } => self.to_string(),
        }
    }
}

impl From<&ExecError> for Problem {
    fn from(error: &ExecError) -> Self {
        Self {
            hint: error.hint(),
            console: error.console().to_vec(),
            exit_code: error.exit_code(),
            // The error's own text has its causes already.
            ..Self::new(error.kind(), error.text())
        }
    }
}

/// A word for programs.
pub(crate) const fn client_kind(error: &ClientError) -> ErrorKind {
    match error {
        ClientError::Refused(refused) => match refused {
            AgentError::NotFound(_) => ErrorKind::CommandNotFound,
            AgentError::NotExecutable { .. } => ErrorKind::CommandNotExecutable,
            AgentError::BadDirectory { .. } => ErrorKind::BadDirectory,
            AgentError::BadUser(_) => ErrorKind::BadUser,
            AgentError::TooLarge(_) => ErrorKind::RequestTooLarge,
            AgentError::BadLimit { .. } => ErrorKind::BadLimit,
            AgentError::BadRequest(_) => ErrorKind::BadRequest,
            AgentError::Protocol(_) => ErrorKind::Protocol,
            AgentError::System { .. } => ErrorKind::GuestSystem,
        },
        ClientError::Silent { .. } => ErrorKind::AgentSilent,
        ClientError::OutOfTime => ErrorKind::OutOfTime,
        ClientError::Disconnected(_) => ErrorKind::AgentLost,
        ClientError::Protocol(_) => ErrorKind::Protocol,
        ClientError::RequestTooLarge { .. } => ErrorKind::RequestTooLarge,
        ClientError::Interrupted(_) | ClientError::Cancelled => ErrorKind::Interrupted,
        ClientError::Output { .. } => ErrorKind::Output,
        ClientError::Input(_) => ErrorKind::Input,
        ClientError::Io { .. } => ErrorKind::System,
    }
}

impl Sandbox {
    pub(crate) const fn new(choice: Choice, started: Started) -> Self {
        Self { choice, started }
    }

    /// The tier that was taken, the isolation that it reaches, and what was passed over for it.
    #[must_use]
    pub const fn choice(&self) -> &Choice {
        &self.choice
    }

    /// The process that holds the sandbox.
    #[must_use]
    pub fn process_id(&self) -> i32 {
        self.started.process_id()
    }

    /// Asks for a command to be run, without waiting for anything.
    ///
    /// # Errors
    ///
    /// If the sandbox has ended, the request is too large, or its tier cannot honour it.
    pub fn exec(&mut self, request: ExecRequest) -> Result<Exec, ExecError> {
        if let Some(refusal) = self.choice.tier.refuses(&request) {
            return Err(refusal.into());
        }
        Ok(Session::new(self.connect()?, SessionOptions::default()).exec(request)?)
    }

    /// A session for one thing to do with files, with the rights of this user; with those that
    /// commands have, without one.
    ///
    /// # Errors
    ///
    /// If the sandbox has ended.
    pub fn files(&mut self, user: Option<String>) -> Result<Files, ExecError> {
        let session = Session::new(self.connect()?, SessionOptions::default());
        Ok(session.with_lanes(self.choice.tier.has_lanes()).files(user))
    }

    /// What it uses, as it sees it itself and as this machine does.
    ///
    /// # Errors
    ///
    /// If the sandbox has ended.
    pub fn stats(&mut self) -> Result<Stats, ExecError> {
        let session = Session::new(self.connect()?, SessionOptions::default());
        Ok(Stats {
            inside: Some(session.usage()?),
            host: usage::on_this_machine(self.choice.tier, self.process_id()),
        })
    }

    /// A stream to the agent, for one session.
    pub(crate) fn connect(&mut self) -> Result<UnixStream, ExecError> {
        self.started
            .connect()
            .map_err(|source| ExecError::Ended { source })
    }

    /// Has what is kept beyond its end written down, where it is not anyway. It runs nothing any more
    /// then.
    pub(crate) fn settle(&mut self, patience: Duration) {
        self.started.settle(patience);
    }

    /// Moves data between a command and the caller's descriptors, live, until it has ended.
    ///
    /// # Errors
    ///
    /// If there is no exit status to report; the error says why the sandbox ended, if it did.
    pub fn pump(&mut self, exec: Exec, io: PumpIo) -> Result<Finished, ExecError> {
        exec.pump(io).map_err(|error| self.explained(error))
    }

    /// Runs a command to its end and collects its output, at most `limit` bytes of each stream.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::exec`] and [`Sandbox::pump`].
    pub fn output(
        &mut self,
        request: ExecRequest,
        input: &[u8],
        limit: usize,
    ) -> Result<agent_client::Output, ExecError> {
        let exec = self.exec(request)?;
        exec.output(input, limit)
            .map_err(|error| self.explained(error))
    }

    /// Ends the sandbox for a program that is about to end itself.
    ///
    /// Its process is told to end in a way that it cannot survive, and the kernel then needs some
    /// milliseconds to take the sandbox apart. Nobody needs to wait for that where the first process
    /// of the system reaps orphans; where it is not known to (an application that is the first
    /// process of a container), this waits and reaps, so that no zombie is left. So it does with a
    /// sandbox that isolates nothing, which has files to remove. Dropping a sandbox always waits and
    /// reaps.
    pub fn abandon(mut self) {
        if self.choice.isolation != Isolation::None && orphans::are_reaped() {
            self.started.begin_end();
            std::mem::forget(self);
        }
    }

    /// A conversation that breaks off has a reason, and the sandbox knows it: that it ran out of memory,
    /// that somebody killed it. A [`Child`](crate::Child) does not know its sandbox, so its errors are worth
    /// being explained, and those of an `AsyncChild`; [`pump`](Self::pump) and [`output`](Self::output)
    /// have done it. Any other error is as it was. Takes some moments at most, and tells the most when it is
    /// asked for the first time.
    #[must_use]
    pub fn explain(&mut self, error: impl Into<CommandError>) -> CommandError {
        match error.into() {
            CommandError::Attached(ExecError::Client(error)) => self.explained(error).into(),
            error => error,
        }
    }

    /// The same of what its agent's client says.
    pub(crate) fn explained(&mut self, error: ClientError) -> ExecError {
        match error {
            ClientError::Disconnected(_) => ExecError::Ended {
                source: self.started.why_gone(),
            },
            error => ExecError::Client(error),
        }
    }
}

/// What to report of a command whose time was up and whose sandbox could not even say so.
#[must_use]
pub fn overdue(request: &ExecRequest, began: Instant, error: &ExecError) -> Option<ExitReport> {
    let allowed = request
        .timeout?
        .saturating_add(request.kill_after.unwrap_or_default());
    let duration = began.elapsed();
    let silent = matches!(error, ExecError::Client(ClientError::Silent { .. }));
    (silent && duration >= allowed).then(|| timed_out(duration))
}

const fn timed_out(duration: Duration) -> ExitReport {
    ExitReport {
        code: None,
        signal: Some(9),
        timed_out: true,
        truncated: false,
        duration,
    }
}
