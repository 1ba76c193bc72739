//! Why a conversation with the agent failed.

use std::io;
use std::time::Duration;

use agent_protocol::frame::FrameError;
use agent_protocol::message::{AgentError, OutputStream};

/// The exit code of whatever had no more time, as timeout(1) has it.
const OUT_OF_TIME: u8 = 124;

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The agent could not serve the request: command not found, bad user, and so on.
    #[error(transparent)]
    Refused(AgentError),
    /// The agent was silent beyond a deadline.
    #[error("the guest agent was silent for {} s while {waiting_for}", silence.as_secs_f32())]
    Silent {
        /// What was waited for, as in "while waiting for its greeting".
        waiting_for: &'static str,
        /// How long.
        silence: Duration,
    },
    /// It was not done when its time was up.
    #[error("it was not done in the time that it had")]
    OutOfTime,
    /// The stream ended before the conversation did: the sandbox or its agent is gone.
    #[error("the connection to the guest agent ended while {0}")]
    Disconnected(&'static str),
    /// The agent broke the protocol, or speaks another version of it.
    #[error("the guest agent and this program do not understand each other")]
    Protocol(#[from] FrameError),
    /// The request is larger than a frame may be.
    #[error("arguments and environment are too large: {size} bytes, and {limit} can be passed on")]
    RequestTooLarge {
        /// The request's size in bytes.
        size: usize,
        /// The most it may be.
        limit: usize,
    },
    /// A signal was to be passed on when there was no command to take it: not yet, or no more.
    #[error("interrupted by signal {0}")]
    Interrupted(u8),
    /// The owner of the session ended it.
    #[error("the command was cancelled")]
    Cancelled,
    /// The host's side of an output took no more, for a reason other than being closed.
    #[error("writing the command's {}", stream_name(*stream))]
    Output {
        /// The output.
        stream: OutputStream,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The host's side of the input could not be read.
    #[error("reading the input for the command")]
    Input(#[source] io::Error),
    /// The host's system failed the client.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl ClientError {
    /// The exit code to report: 124 if the time was up, 126 or 127 for a command that cannot be run,
    /// 128+N for a signal that met no command, else 125.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(error) => error.exit_code(),
            Self::OutOfTime => OUT_OF_TIME,
            Self::Interrupted(signal) => signal.saturating_add(128),
            _ => 125,
        }
    }
}

fn stream_name(stream: OutputStream) -> &'static str {
    match stream {
        OutputStream::Stdout => "standard output",
        OutputStream::Stderr => "standard error",
    }
}
