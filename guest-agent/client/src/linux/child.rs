//! A running command with ends to read from and write to.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, JoinHandle};

use agent_protocol::message::TerminalSize;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::ClientError;
use crate::linux::control::{Control, ControlReceiver, ControlSender, control_channel};
use crate::linux::pump::{Finished, PumpIo};
use crate::linux::session::Exec;
use crate::linux::sink::OutputTarget;
use crate::linux::source::InputSource;

/// A command in a sandbox. Dropped before it has ended, it is killed with all its processes.
#[derive(Debug)]
pub struct Child {
    /// Its standard input: dropped, the command reads the end.
    pub stdin: Option<ChildStdin>,
    /// Its standard output.
    pub stdout: Option<File>,
    /// Its standard error.
    pub stderr: Option<File>,
    controls: ControlSender,
    pump: Option<JoinHandle<Result<Finished, ClientError>>>,
}

/// The writing end of a command's standard input.
#[derive(Debug)]
pub struct ChildStdin(File);

/// The pump's ends of the three pipes.
struct Ends {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    controls: ControlReceiver,
}

impl Child {
    pub(crate) fn spawn(exec: Exec) -> Result<Self, ClientError> {
        let (stdin_read, stdin_write) = new_pipe()?;
        let (stdout_read, stdout_write) = new_pipe()?;
        let (stderr_read, stderr_write) = new_pipe()?;
        let (controls, receiver) = control_channel().map_err(failed("making a control channel"))?;
        let ends = Ends {
            stdin: stdin_read,
            stdout: stdout_write,
            stderr: stderr_write,
            controls: receiver,
        };
        let pump = thread::Builder::new()
            .name("exec-pump".to_owned())
            .spawn(move || ends.pump(exec))
            .map_err(failed("starting a thread"))?;
        Ok(Self {
            stdin: Some(ChildStdin(stdin_write.into())),
            stdout: Some(stdout_read.into()),
            stderr: Some(stderr_read.into()),
            controls,
            pump: Some(pump),
        })
    }

    /// Sends a signal to the command's process group.
    ///
    /// # Errors
    ///
    /// `BrokenPipe` if the command has ended.
    pub fn signal(&self, number: u8) -> io::Result<()> {
        self.controls.send(Control::Signal(number))
    }

    /// Tells the command that its terminal has another size.
    ///
    /// # Errors
    ///
    /// `BrokenPipe` if the command has ended.
    pub fn resize(&self, size: TerminalSize) -> io::Result<()> {
        self.controls.send(Control::Resize(size))
    }

    /// Another way to order it about, which may outlive this value.
    ///
    /// # Errors
    ///
    /// The system's, if there are no more descriptors.
    pub fn controls(&self) -> io::Result<ControlSender> {
        self.controls.try_clone()
    }

    /// Kills the command with all its processes. [`wait`](Self::wait) then returns
    /// [`ClientError::Cancelled`], unless it had ended before.
    pub fn kill(&self) {
        // A command that has ended has no receiver any more, and needs none.
        let _ = self.controls.send(Control::Cancel);
    }

    /// Whether [`wait`](Self::wait) would return at once.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.pump.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Closes the standard input, if it has not been taken, and waits for the command's end. Output
    /// that has not been taken is read and dropped.
    ///
    /// # Errors
    ///
    /// [`ClientError`] if there is no exit status to report.
    pub fn wait(mut self) -> Result<Finished, ClientError> {
        self.stdin = None;
        drop_all([self.stdout.take(), self.stderr.take()]);
        self.join()
    }

    fn join(&mut self) -> Result<Finished, ClientError> {
        match self.pump.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) | None => Err(ClientError::Cancelled),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.pump.is_some() {
            self.kill();
            // Nobody is left to hear how it ended.
            let _ = self.join();
        }
    }
}

impl Ends {
    fn pump(self, exec: Exec) -> Result<Finished, ClientError> {
        exec.pump(PumpIo {
            stdin: InputSource::Fd(self.stdin.as_fd()),
            stdout: OutputTarget::Fd(self.stdout.as_fd()),
            stderr: OutputTarget::Fd(self.stderr.as_fd()),
            controls: Some(&self.controls),
            ..PumpIo::default()
        })
    }
}

impl From<ChildStdin> for OwnedFd {
    fn from(stdin: ChildStdin) -> Self {
        stdin.0.into()
    }
}

impl Write for ChildStdin {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads these to their ends.
fn drop_all(outputs: [Option<File>; 2]) {
    let mut open: Vec<File> = outputs.into_iter().flatten().collect();
    let mut space = vec![0; 64 * 1024];
    while !open.is_empty() {
        let mut fds: Vec<PollFd<'_>> = open
            .iter()
            .map(|file| PollFd::new(file, PollFlags::IN))
            .collect();
        let polled = poll(&mut fds, None);
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if polled.is_err_and(|error| error != Errno::INTR) {
            return;
        }
        let mut ready = ready.into_iter();
        open.retain_mut(|file| {
            !ready.next().unwrap_or(false) || file.read(&mut space).is_ok_and(|count| count > 0)
        });
    }
}

fn new_pipe() -> Result<(OwnedFd, OwnedFd), ClientError> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed("making a pipe")(error.into()))
}

fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> ClientError {
    move |source| ClientError::Io { doing, source }
}
