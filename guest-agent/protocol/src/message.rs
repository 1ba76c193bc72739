//! Messages.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// The first frame of each side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The sender's [`crate::frame::PROTOCOL_VERSION`].
    pub protocol: u16,
    /// The sender's release, for messages to people.
    pub release: String,
    /// From the host: its clock, nanoseconds since the Unix epoch. An agent that is init sets the
    /// guest's clock by it.
    pub realtime_ns: Option<u64>,
    /// From the host: fresh random bytes. An agent that is init mixes them into the guest's pool
    /// before it serves.
    pub entropy: Option<[u8; 32]>,
    /// From the agent: moments of its own start, for the boot timeline.
    pub trace: Vec<TracePoint>,
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
    PowerOff,
}

/// A command to run. Bytes, not text: what POSIX allows is passed as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments. A program without a slash is looked up in the command's `PATH`.
    pub argv: Vec<ByteBuf>,
    /// The whole environment.
    pub env: Vec<(ByteBuf, ByteBuf)>,
    /// Working directory; the user's home or `/` without one.
    pub cwd: Option<ByteBuf>,
    /// `user`, `uid`, `user:group` or `uid:gid`; the agent's default without one.
    pub user: Option<String>,
    /// Whether the command's standard input is ours (`/dev/null` otherwise).
    pub stdin: bool,
    /// A terminal of this size for the command, in place of three pipes.
    pub tty: Option<TerminalSize>,
    /// How long the command may take.
    pub timeout: Option<Duration>,
    /// How long after SIGTERM a command that timed out is killed; at once without it.
    pub kill_after: Option<Duration>,
    /// The most bytes of standard output and standard error each that are passed on; what is beyond
    /// is read and dropped, and told in [`ExitReport::truncated`].
    pub max_output: Option<u64>,
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
