//! Messages: the payloads of control frames.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::files::FileRequest;
use crate::frame::{FrameError, Kind, PROTOCOL_VERSION, decode_message};
use crate::limits::ResourceLimit;

/// The first frame of each side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The sender's [`crate::frame::PROTOCOL_VERSION`].
    pub protocol: u16,
    /// The sender's release, for messages to people.
    pub release: String,
    /// From the host: its clock when it wrote this, nanoseconds since the Unix epoch. An agent that
    /// is init sets the guest's clock by it, when the guest's is behind, or far ahead: the message
    /// may have waited for the guest to boot.
    pub realtime_ns: Option<u64>,
    /// From the host: fresh random bytes. An agent that is init mixes them into the guest's pool
    /// before it serves.
    pub entropy: Option<[u8; 32]>,
    /// From the agent: moments of its own start, for the boot timeline.
    pub trace: Vec<TracePoint>,
}

impl Hello {
    /// The greeting of a peer of this release that has nothing to add.
    #[must_use]
    pub fn new() -> Self {
        Self {
            protocol: PROTOCOL_VERSION,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            realtime_ns: None,
            entropy: None,
            trace: Vec::new(),
        }
    }

    /// Decodes a greeting; of another version's it reads nothing but the version.
    pub(crate) fn decode(kind: Kind, payload: &[u8]) -> Result<Self, FrameError> {
        let (theirs, _) =
            postcard::take_from_bytes::<u16>(payload).map_err(|_| FrameError::Malformed(kind))?;
        if theirs != PROTOCOL_VERSION {
            return Err(FrameError::Version {
                theirs,
                ours: PROTOCOL_VERSION,
            });
        }
        decode_message(kind, payload)
    }
}

impl Default for Hello {
    fn default() -> Self {
        Self::new()
    }
}

/// A moment of the agent's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracePoint {
    /// What has just been finished.
    pub name: String,
    /// The guest's `CLOCK_BOOTTIME`, in nanoseconds.
    pub boottime_ns: u64,
}

/// What a session is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Run a command.
    Exec(ExecRequest),
    /// Answer with `Pong`.
    Ping,
    /// End every process, flush and switch the guest off (or end the agent, where it is not init).
    /// There is no answer but the end of the stream.
    PowerOff,
    /// Do something with files.
    Files(FileRequest),
    /// Say what the sandbox uses.
    Usage,
}

/// A command to run. Bytes, not text: what POSIX allows is passed as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments. A program without a slash is looked up in the command's `PATH`.
    pub argv: Vec<ByteBuf>,
    /// The whole environment; only `PATH`, `HOME`, `USER` and `LOGNAME` (and `TERM`, with a terminal)
    /// are added where they are missing.
    pub env: Vec<(ByteBuf, ByteBuf)>,
    /// Working directory; the user's home, or `/` if there is no such folder, without one.
    pub cwd: Option<ByteBuf>,
    /// `user`, `uid`, `user:group` or `uid:gid`, each by name or number. Without one: uid 1000 where
    /// the agent is root, else the agent's own user.
    pub user: Option<String>,
    /// Whether the command's standard input is ours (`/dev/null` otherwise; with a terminal, nothing
    /// is ever typed).
    pub stdin: bool,
    /// A terminal of this size for the command, in place of three pipes. What it shows comes as
    /// standard output.
    pub tty: Option<TerminalSize>,
    /// How long the command may take. Then its whole process tree is told to end, by SIGTERM if there
    /// is a `kill_after`, else by SIGKILL.
    pub timeout: Option<Duration>,
    /// How long after SIGTERM what is left of the tree is killed; at once without it.
    pub kill_after: Option<Duration>,
    /// The most bytes of standard output and standard error each that are passed on; what is beyond
    /// is read and dropped, and told in [`ExitReport::truncated`].
    pub max_output: Option<u64>,
    /// Limits of its own, in place of those that every command has. The last one of a resource holds.
    #[serde(default)]
    pub limits: Vec<ResourceLimit>,
    /// The most processes and threads that the command and all that comes of it may be at a time. Only
    /// an agent that is init can count them.
    #[serde(default)]
    pub processes: Option<u32>,
}

impl ExecRequest {
    /// A request to run this program with these arguments, and nothing else asked for.
    pub fn new<I>(argv: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<Vec<u8>>,
    {
        let argv = argv
            .into_iter()
            .map(|argument| ByteBuf::from(argument.into()))
            .collect();
        Self {
            argv,
            ..Self::default()
        }
    }
}

/// One of a command's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReport {
    /// Its exit code, if it ended by itself.
    pub code: Option<u8>,
    /// The signal that ended it, if one did.
    pub signal: Option<u8>,
    /// Whether its time was up.
    pub timed_out: bool,
    /// Whether output was dropped for [`ExecRequest::max_output`].
    pub truncated: bool,
    /// How long it ran.
    pub duration: Duration,
}

impl ExitReport {
    /// The exit code to report: 124 on timeout, 128+N for signal N, else the command's own.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match (self.timed_out, self.signal, self.code) {
            (true, _, _) => 124,
            (false, Some(signal), _) => signal.saturating_add(128),
            (false, None, Some(code)) => code,
            (false, None, None) => 125,
        }
    }
}

/// Why a request could not be served. Each names the thing it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AgentError {
    /// Exit code 127.
    #[error("command not found: {0}")]
    NotFound(String),
    /// Exit code 126.
    #[error("cannot execute {program}: {reason}")]
    NotExecutable {
        /// The file.
        program: String,
        /// The system's reason.
        reason: String,
    },
    /// Exit code 125.
    #[error("working directory {path}: {reason}")]
    BadDirectory {
        /// The directory.
        path: String,
        /// The system's reason.
        reason: String,
    },
    /// Exit code 125.
    #[error("no such user or group: {0}")]
    BadUser(String),
    /// Exit code 125.
    #[error("arguments and environment are too large: {0}")]
    TooLarge(String),
    /// Exit code 125: a limit that cannot be had here.
    #[error("cannot limit the command to {limit}: {reason}")]
    BadLimit {
        /// The limit.
        limit: String,
        /// Why it cannot be had.
        reason: String,
    },
    /// Exit code 125: the request makes no sense.
    #[error("invalid request: {0}")]
    BadRequest(String),
    /// Exit code 125: the peer broke the protocol.
    #[error("protocol violation: {0}")]
    Protocol(String),
    /// Exit code 125: the agent's own system failed it.
    #[error("{doing}: {reason}")]
    System {
        /// What was being done.
        doing: String,
        /// The system's reason.
        reason: String,
    },
}

impl AgentError {
    /// The exit code to report: 127 not found, 126 not executable, else 125.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound(_) => 127,
            Self::NotExecutable { .. } => 126,
            Self::BadDirectory { .. }
            | Self::BadUser(_)
            | Self::TooLarge(_)
            | Self::BadLimit { .. }
            | Self::BadRequest(_)
            | Self::Protocol(_)
            | Self::System { .. } => 125,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(code: Option<u8>, signal: Option<u8>, timed_out: bool) -> ExitReport {
        ExitReport {
            code,
            signal,
            timed_out,
            truncated: false,
            duration: Duration::ZERO,
        }
    }

    #[test]
    fn exit_codes_follow_the_contract() {
        assert_eq!(report(Some(3), None, false).exit_code(), 3);
        assert_eq!(report(None, Some(9), false).exit_code(), 137);
        assert_eq!(report(None, Some(15), true).exit_code(), 124);
        assert_eq!(report(Some(0), None, true).exit_code(), 124);
        assert_eq!(AgentError::NotFound(String::new()).exit_code(), 127);
        assert_eq!(AgentError::BadUser(String::new()).exit_code(), 125);
    }
}
