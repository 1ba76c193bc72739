//! The command's ends of its input and output, and ours.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent_protocol::message::{AgentError, ExecRequest, TerminalSize};
use rustix::fs::{Mode, OFlags};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Gid, Uid};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::linux::reason::reason;

/// Both sides of a command's standard streams.
#[derive(Debug)]
pub(crate) struct Stdio {
    pub(crate) ours: Ours,
    pub(crate) theirs: Theirs,
}

/// What the session keeps.
#[derive(Debug)]
pub(crate) struct Ours {
    /// Where input goes; writing never blocks.
    pub(crate) stdin: Option<OwnedFd>,
    /// Where output comes from; reading never blocks.
    pub(crate) stdout: OwnedFd,
    /// `None` with a terminal, which shows both outputs as one.
    pub(crate) stderr: Option<OwnedFd>,
    /// The terminal, to resize it and to find its foreground.
    pub(crate) terminal: Option<OwnedFd>,
}

/// What the command gets.
#[derive(Debug)]
pub(crate) struct Theirs {
    stdin: OwnedFd,
    stdin_is_pipe: bool,
    stdout: OwnedFd,
    /// `None` with a terminal.
    stderr: Option<OwnedFd>,
}

impl Stdio {
    /// Makes what the request asks for. The command's ends belong to its user, so that it can open
    /// `/dev/stdout` and its terminal by name.
    pub(crate) fn new(
        request: &ExecRequest,
        owner: Option<(u32, u32)>,
    ) -> Result<Self, AgentError> {
        let (made, what) = match request.tty {
            Some(size) => (Self::terminal(request.stdin, size), "opening a terminal"),
            None => (Self::pipes(request.stdin), "making pipes for the command"),
        };
        let stdio = made.map_err(|error| AgentError::System {
            doing: what.to_owned(),
            reason: reason(error),
        })?;
        if let Some((uid @ 1.., gid)) = owner {
            stdio.theirs.give_to(uid, gid, request.tty.is_some());
        }
        Ok(stdio)
    }

    fn pipes(with_stdin: bool) -> io::Result<Self> {
        let (stdin, our_stdin) = if with_stdin {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&write, true)?;
            (read, Some(write))
        } else {
            (
                rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?,
                None,
            )
        };
        let (our_stdout, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (our_stderr, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        // The command can open its pipes by name and read from them, too: what the poll saw may be gone.
        rustix::io::ioctl_fionbio(&our_stdout, true)?;
        rustix::io::ioctl_fionbio(&our_stderr, true)?;
        Ok(Self {
            ours: Ours {
                stdin: our_stdin,
                stdout: our_stdout,
                stderr: Some(our_stderr),
                terminal: None,
            },
            theirs: Theirs {
                stdin,
                stdin_is_pipe: with_stdin,
                stdout,
                stderr: Some(stderr),
            },
        })
    }

    fn terminal(with_stdin: bool, size: TerminalSize) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags)?;
        unlockpt(&ours)?;
        let theirs = ioctl_tiocgptpeer(&ours, flags)?;
        resize(&ours, size)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let stdin = with_stdin.then(|| copy(&ours)).transpose()?;
        Ok(Self {
            theirs: Theirs {
                stdin: copy(&theirs)?,
                stdin_is_pipe: false,
                stdout: theirs,
                stderr: None,
            },
            ours: Ours {
                stdin,
                terminal: Some(copy(&ours)?),
                stdout: ours,
                stderr: None,
            },
        })
    }
}

impl Theirs {
    /// Standard input, output and error.
    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 3] {
        let stderr = self.stderr.as_ref().unwrap_or(&self.stdout);
        [self.stdin.as_fd(), self.stdout.as_fd(), stderr.as_fd()]
    }

    fn give_to(&self, uid: u32, gid: u32, is_terminal: bool) {
        let owner = Some(Uid::from_raw(uid));
        // A terminal keeps its group (tty), whose members may write to it.
        let group = (!is_terminal).then(|| Gid::from_raw(gid));
        // /dev/null, as standard input, is everybody's. A terminal is one file, three times.
        let stdin = Some(&self.stdin).filter(|_| self.stdin_is_pipe);
        for fd in [stdin, Some(&self.stdout), self.stderr.as_ref()]
            .into_iter()
            .flatten()
        {
            // Only a command that opens these by name could miss it.
            let _ = rustix::fs::fchown(fd, owner, group);
        }
    }
}

/// Gives a terminal this size. Its foreground processes get SIGWINCH.
pub(crate) fn resize(terminal: &OwnedFd, size: TerminalSize) -> io::Result<()> {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(terminal, size)?)
}

fn copy(fd: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(fcntl_dupfd_cloexec(fd, 3)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn reading_outputs_never_blocks() {
        let Stdio { ours, theirs } = Stdio::pipes(false).unwrap();
        for output in [Some(ours.stdout), ours.stderr].into_iter().flatten() {
            let read = rustix::io::read(&output, &mut [0; 1]);
            assert_eq!(read, Err(Errno::AGAIN));
        }
        drop(theirs);
    }
}
