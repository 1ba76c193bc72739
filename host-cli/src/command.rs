//! A command, put together step by step, as with [`std::process::Command`].

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use agent_client::{Child, ClientError, Exec, Output};
use agent_protocol::limits::{Resource, ResourceLimit};
use agent_protocol::message::{ExecRequest, ExitReport, TerminalSize};
use serde_bytes::ByteBuf;

use crate::detached::{Detached, DetachedError};
use crate::error::ErrorKind;
use crate::sandbox::{ExecError, Sandbox};

/// How much of each output is collected, unless told otherwise: 16 MiB.
const DEFAULT_LIMIT: usize = 16 << 20;

/// A command for a sandbox. Nothing of this program's environment reaches it.
///
/// ```no_run
/// use std::time::Duration;
/// use sovereign::{Isolation, Sandbox};
///
/// let mut sandbox = Sandbox::builder().min_isolation(Isolation::Container).memory_mib(256).start()?;
/// let output = sandbox
///     .command("python3")
///     .arg("-c")
///     .arg("import os; print(os.environ['WHO'])")
///     .env("WHO", "world")
///     .timeout(Duration::from_secs(10))
///     .output()?;
/// assert_eq!(output.report.exit_code(), 0);
/// assert_eq!(output.stdout, b"world\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Command<'a> {
    place: Place<'a>,
    request: ExecRequest,
    input: Vec<u8>,
    limit: usize,
}

/// Where a command runs.
#[derive(Debug)]
enum Place<'a> {
    Attached(&'a mut Sandbox),
    Detached(&'a Detached),
}

/// A command that has no result.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// In a sandbox of one's own.
    #[error(transparent)]
    Attached(#[from] ExecError),
    /// In one of the registry.
    #[error(transparent)]
    Detached(#[from] DetachedError),
}

impl From<ClientError> for CommandError {
    fn from(error: ClientError) -> Self {
        ExecError::from(error).into()
    }
}

impl CommandError {
    /// What kind of error it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Attached(error) => error.kind(),
            Self::Detached(error) => error.kind(),
        }
    }

    /// What a program that passes exit codes on exits with: 126 or 127 for a command that cannot be
    /// run, else 125.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Attached(error) => error.exit_code(),
            Self::Detached(error) => error.problem().exit_code,
        }
    }
}

impl Sandbox {
    /// A command for this sandbox. A program without a slash is looked up in its `PATH`.
    pub fn command(&mut self, program: impl AsRef<OsStr>) -> Command<'_> {
        Command::new(Place::Attached(self), program.as_ref())
    }
}

impl Detached {
    /// A command for this sandbox. A program without a slash is looked up in its `PATH`.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command<'_> {
        Command::new(Place::Detached(self), program.as_ref())
    }
}

impl<'a> Command<'a> {
    fn new(place: Place<'a>, program: &OsStr) -> Self {
        Self {
            place,
            request: ExecRequest::new([program.as_bytes()]),
            input: Vec::new(),
            limit: DEFAULT_LIMIT,
        }
    }

    /// Adds an argument. It is passed on as it is; no shell is put between.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.request.argv.push(bytes(argument.as_ref()));
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = A>) -> Self {
        arguments.into_iter().fold(self, Self::arg)
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let (name, value) = (bytes(name.as_ref()), bytes(value.as_ref()));
        self.request.env.retain(|(known, _)| *known != name);
        self.request.env.push((name, value));
        self
    }

    /// Has it run in this folder of the sandbox; in the user's home without one.
    #[must_use]
    pub fn current_dir(mut self, folder: impl AsRef<Path>) -> Self {
        self.request.cwd = Some(bytes(folder.as_ref().as_os_str()));
        self
    }

    /// Has it run as this user (`name`, `uid`, with `:group` if wanted); as uid 1000 without one.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.request.user = Some(user.into());
        self
    }

    /// Ends it, with all its processes, after this time.
    #[must_use]
    pub fn timeout(mut self, time: Duration) -> Self {
        self.request.timeout = Some(time);
        self
    }

    /// Sends SIGTERM at the timeout, and SIGKILL only this much later.
    #[must_use]
    pub fn kill_after(mut self, time: Duration) -> Self {
        self.request.kill_after = Some(time);
        self
    }

    /// Limits what each of its processes may use (getrlimit(2)); `None` is no limit. Above the hard
    /// limit that the sandbox gives, only root of a virtual machine may go.
    #[must_use]
    pub fn rlimit(mut self, resource: Resource, soft: Option<u64>, hard: Option<u64>) -> Self {
        let limit = ResourceLimit {
            resource,
            soft,
            hard,
        };
        self.request.limits.push(limit);
        self
    }

    /// Limits how many processes and threads it may be at a time, all that it starts included. In tier
    /// `microvm` only: in the others [`SandboxSpec::processes`](crate::SandboxSpec::processes) bounds
    /// those of the whole sandbox.
    #[must_use]
    pub fn pid_limit(mut self, processes: u32) -> Self {
        self.request.processes = Some(processes);
        self
    }

    /// Gives it a terminal of this size in place of three pipes; what it shows is its standard output.
    #[must_use]
    pub fn terminal(mut self, rows: u16, columns: u16) -> Self {
        self.request.tty = Some(TerminalSize { rows, columns });
        self
    }

    /// What it reads from its standard input, for [`output`](Self::output). Without it, nothing.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self.request.stdin = true;
        self
    }

    /// The most that is collected of each output; 16 MiB without it. What is beyond is dropped, and
    /// told in [`ExitReport::truncated`].
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Runs it to its end, and collects what it writes.
    ///
    /// # Errors
    ///
    /// If it cannot be run, or the sandbox ends under it. That it fails is no error: see
    /// [`ExitReport::exit_code`].
    pub fn output(self) -> Result<Output, CommandError> {
        let Self {
            mut place,
            request,
            input,
            limit,
        } = self;
        let exec = place.exec(request)?;
        exec.output(&input, limit)
            .map_err(|error| place.explain(error))
    }

    #[cfg(feature = "async")]
    pub(crate) fn take_input(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.input)
    }

    #[cfg(feature = "async")]
    pub(crate) const fn collected(&self) -> usize {
        self.limit
    }

    /// Runs it to its end, and drops what it writes.
    ///
    /// # Errors
    ///
    /// As [`output`](Self::output).
    pub fn status(self) -> Result<ExitReport, CommandError> {
        Ok(self.limit(0).output()?.report)
    }

    /// Starts it, with ends to write its input to and to read its output from, live.
    ///
    /// # Errors
    ///
    /// If the sandbox has ended. That the command cannot be run shows in [`Child::wait`], and that the
    /// sandbox ends under it too, why so in [`Sandbox::explain`] and [`Detached::explain`].
    pub fn spawn(self) -> Result<Child, CommandError> {
        let Self {
            mut place,
            mut request,
            ..
        } = self;
        request.stdin = true;
        let exec = place.exec(request)?;
        exec.spawn().map_err(|error| place.explain(error))
    }
}

impl Place<'_> {
    fn exec(&mut self, request: ExecRequest) -> Result<Exec, CommandError> {
        Ok(match self {
            Self::Attached(sandbox) => sandbox.exec(request)?,
            Self::Detached(sandbox) => sandbox.exec(request)?,
        })
    }

    fn explain(&mut self, error: ClientError) -> CommandError {
        match self {
            Self::Attached(sandbox) => sandbox.explained(error).into(),
            Self::Detached(sandbox) => sandbox.explain(error).into(),
        }
    }
}

fn bytes(text: &OsStr) -> ByteBuf {
    ByteBuf::from(text.as_bytes())
}
