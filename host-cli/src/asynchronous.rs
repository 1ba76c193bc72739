//! The same for programs that run on tokio: nothing here blocks a thread of its runtime. Feature
//! `async`.
//!
//! A future that is dropped cancels: a start is given up, a command is ended with all its processes.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use sovereign::Sandbox;
//!
//! let mut sandbox = Sandbox::builder().memory_mib(256).start_async().await?;
//! let output = sandbox.command("uname").output_async().await?;
//! assert_eq!(output.stdout, b"Linux\n");
//! sandbox.close_async().await;
//! # Ok(())
//! # }
//! ```

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use agent_client::{Child, ClientError, Control, ControlSender, Finished, Output};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::task::{JoinError, spawn_blocking};

use crate::builder::SandboxBuilder;
use crate::command::{Command, CommandError};
use crate::engine::{Engine, StartError};
use crate::launch::Launch;
use crate::sandbox::{ExecError, Sandbox};
use crate::timeline::Timeline;

/// A command in a sandbox. Dropped before it has ended, it is ended with all its processes.
#[derive(Debug)]
pub struct AsyncChild {
    /// Its standard input: dropped, the command reads the end.
    pub stdin: Option<Sender>,
    /// Its standard output.
    pub stdout: Option<Receiver>,
    /// Its standard error.
    pub stderr: Option<Receiver>,
    child: Option<Child>,
    running: Running,
}

/// Ends its command when it is dropped. One that has ended takes no harm.
#[derive(Debug)]
struct Running(ControlSender);

impl Drop for Running {
    fn drop(&mut self) {
        // Whoever has ended has no ear for it.
        let _ = self.0.send(Control::Cancel);
    }
}

impl SandboxBuilder {
    /// As [`start`](Self::start).
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn start_async(&self) -> Result<Sandbox, StartError> {
        let builder = self.clone();
        // The other end is closed when this future is dropped, and then the start is given up.
        let (cancel, alive) = match pipe_with(PipeFlags::CLOEXEC) {
            Ok((read, write)) => (Some(read), Some(write)),
            // Without it the start goes on to its end, and is thrown away.
            Err(_) => (None, None),
        };
        let started = spawn_blocking(move || {
            let launch = Launch {
                cancel: cancel.as_ref().map(AsFd::as_fd),
                ..Launch::new(builder.spec())
            };
            Engine::new().start(builder.policy(), launch, &mut Timeline::default())
        })
        .await;
        drop(alive);
        match started {
            Ok(started) => started.map(|(sandbox, _)| sandbox),
            Err(error) => std::panic::resume_unwind(panic_of(error)),
        }
    }
}

impl Sandbox {
    /// Ends it, and waits until nothing of it is left. (Dropping it does the same, and blocks the
    /// thread meanwhile: for some milliseconds, and with a container until its daemon has removed it.)
    pub async fn close_async(self) {
        // A panic while ending it is not worth another one.
        let _ = spawn_blocking(move || drop(self)).await;
    }
}

impl Command<'_> {
    /// As [`output`](Self::output).
    ///
    /// # Errors
    ///
    /// As [`output`](Self::output). Why a sandbox ended under the command only
    /// [`Sandbox::explain`] and [`Detached::explain`](crate::detached::Detached::explain) tell, which may
    /// wait for it.
    pub async fn output_async(mut self) -> Result<Output, CommandError> {
        let input = self.take_input();
        let limit = self.collected();
        let mut child = self.spawn_async()?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let write = async {
            if let Some(mut stdin) = stdin {
                // A command that reads no further than it wants is none of our business.
                let _ = stdin.write_all(&input).await;
            }
        };
        let ((), stdout, stderr) =
            tokio::join!(write, collect(stdout, limit), collect(stderr, limit));
        let mut report = child.wait().await?.report;
        let ((stdout, cut), (stderr, also_cut)) = (stdout?, stderr?);
        report.truncated |= cut || also_cut;
        Ok(Output {
            report,
            stdout,
            stderr,
        })
    }

    /// As [`spawn`](Self::spawn).
    ///
    /// # Errors
    ///
    /// If the sandbox has ended, or there are no more descriptors or threads.
    pub fn spawn_async(self) -> Result<AsyncChild, CommandError> {
        let mut child = self.spawn()?;
        let running = Running(child.controls().map_err(failed)?);
        let stdin = child.stdin.take().map(OwnedFd::from);
        let stdout = child.stdout.take().map(OwnedFd::from);
        let stderr = child.stderr.take().map(OwnedFd::from);
        let receiver = |end: Option<OwnedFd>| end.map(Receiver::from_owned_fd).transpose();
        Ok(AsyncChild {
            stdin: stdin
                .map(Sender::from_owned_fd)
                .transpose()
                .map_err(failed)?,
            stdout: receiver(stdout).map_err(failed)?,
            stderr: receiver(stderr).map_err(failed)?,
            child: Some(child),
            running,
        })
    }
}

impl AsyncChild {
    /// Sends a signal to the command's process group.
    ///
    /// # Errors
    ///
    /// `BrokenPipe` if the command has ended.
    pub fn signal(&self, number: u8) -> io::Result<()> {
        self.running.0.send(Control::Signal(number))
    }

    /// Closes the standard input, if it has not been taken, and waits for the command's end. Output
    /// that has not been taken is read and dropped.
    ///
    /// # Errors
    ///
    /// If there is no exit status to report. Why a sandbox ended under the command only
    /// [`Sandbox::explain`] and [`Detached::explain`](crate::detached::Detached::explain) tell, which may
    /// wait for it.
    pub async fn wait(mut self) -> Result<Finished, CommandError> {
        self.stdin = None;
        let outputs = (self.stdout.take(), self.stderr.take());
        let drained = async {
            let (stdout, stderr) = outputs;
            tokio::join!(collect(stdout, 0), collect(stderr, 0))
        };
        let child = self.child.take();
        let ended = spawn_blocking(move || match child {
            Some(child) => child.wait(),
            None => Err(ClientError::Cancelled),
        });
        let (_, ended) = tokio::join!(drained, ended);
        match ended {
            Ok(ended) => ended.map_err(|error| ExecError::from(error).into()),
            Err(error) => std::panic::resume_unwind(panic_of(error)),
        }
    }
}

/// Reads to the end and keeps the first bytes. Says whether there were more.
async fn collect(
    stream: Option<impl AsyncRead + Unpin>,
    limit: usize,
) -> Result<(Vec<u8>, bool), CommandError> {
    let mut kept = Vec::new();
    let mut cut = false;
    let Some(mut stream) = stream else {
        return Ok((kept, cut));
    };
    let mut space = vec![0; 64 << 10];
    loop {
        let count = stream.read(&mut space).await.map_err(failed)?;
        let read = space.get(..count).unwrap_or_default();
        if read.is_empty() {
            return Ok((kept, cut));
        }
        let room = limit.saturating_sub(kept.len()).min(count);
        kept.extend_from_slice(read.get(..room).unwrap_or_default());
        cut |= room < count;
    }
}

fn failed(source: io::Error) -> CommandError {
    let doing = "moving the command's data";
    ExecError::from(ClientError::Io { doing, source }).into()
}

/// What a blocking task ended with: it is never cancelled, so it panicked.
fn panic_of(error: JoinError) -> Box<dyn std::any::Any + Send> {
    error
        .try_into_panic()
        .unwrap_or_else(|error| Box::new(error.to_string()))
}
