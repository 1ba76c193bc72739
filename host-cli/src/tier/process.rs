//! The process that holds a sandbox, as its owner sees it: started, killed, reaped, and its last
//! words read.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, kill_process, pidfd_open, setpriority_pgrp,
    waitpid,
};

use super::spawn::spawn;
use crate::deadline::is_readable;

/// How much of what it writes to its standard error is kept.
const STDERR_BYTES: usize = 4096;

/// How long a killed process may take until it can be reaped. The kernel takes a virtual machine
/// apart in tens of milliseconds; this is for a machine that is out of its depth.
const REAP_DEADLINE: Duration = Duration::from_secs(10);

/// The nicest there is (setpriority(2)).
const LOWEST_PRIORITY: i32 = 19;

/// A process that this process started.
///
/// Dropped, it kills the process and waits until nothing of it is left.
#[derive(Debug)]
pub(super) struct ChildProcess {
    pid: Pid,
    stderr: OwnedFd,
    ended: Option<Ending>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
    /// Somebody else has reaped it.
    Unknown,
}

impl ChildProcess {
    /// Starts a program with these arguments, its own name first.
    ///
    /// # Errors
    ///
    /// The system's, if it cannot be started.
    pub(super) fn start(program: &Path, arguments: &[&CStr], control: OwnedFd) -> io::Result<Self> {
        // Its end never blocks: what does not fit is lost, and nobody stalls for it.
        let (stderr, theirs) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let pid = spawn(program, arguments, control.as_fd(), theirs.as_fd())?;
        Ok(Self {
            pid,
            stderr,
            ended: None,
        })
    }

    /// The process's id.
    pub(super) fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Ends the process at once. It does not wait until it is gone.
    pub(super) fn kill(&self) {
        if self.ended.is_none() {
            // It is our child and not reaped, so the id is still its own; it can only be dead.
            let _ = kill_process(self.pid, Signal::KILL);
        }
    }

    /// Ends the process at once, and has its end wait for whoever else wants the CPU: the kernel takes
    /// a virtual machine apart in the machine's own threads.
    pub(super) fn kill_in_background(&self) {
        if self.ended.is_none() {
            // The process leads a group of its own. What cannot be slowed down is killed all the same.
            let _ = setpriority_pgrp(Some(self.pid), LOWEST_PRIORITY);
        }
        self.kill();
    }

    /// Waits until the process has ended, and reaps it; `None` if it has not by the deadline.
    pub(super) fn wait(&mut self, deadline: Instant) -> Option<Ending> {
        if self.ended.is_none() {
            self.reap();
        }
        if self.ended.is_none()
            && let Ok(pidfd) = pidfd_open(self.pid, PidfdFlags::empty())
        {
            // Whether it has ended is what reaping it tells.
            let _ = is_readable(&pidfd, None, Some(deadline));
            self.reap();
        }
        self.ended
    }

    /// What the process wrote to its standard error, as far as it was kept, in one line.
    pub(super) fn last_words(&self) -> Option<String> {
        let mut bytes = vec![0; STDERR_BYTES];
        let length = rustix::io::read(&self.stderr, &mut bytes[..]).unwrap_or(0);
        bytes.truncate(length);
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        (!lines.is_empty()).then(|| lines.join("; "))
    }

    fn reap(&mut self) {
        self.ended = match waitpid(Some(self.pid), WaitOptions::NOHANG) {
            Ok(None) | Err(rustix::io::Errno::INTR) => None,
            Ok(Some((_, status))) => Some(Ending::from(status)),
            Err(_) => Some(Ending::Unknown),
        };
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        self.kill();
        self.wait(Instant::now() + REAP_DEADLINE);
    }
}

impl From<WaitStatus> for Ending {
    fn from(status: WaitStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Exited(code),
            (None, Some(signal)) => Self::Signaled(signal),
            (None, None) => Self::Unknown,
        }
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Signaled(signal) => write!(f, "was killed by signal {signal}"),
            Self::Unknown => f.write_str("ended"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::tier::packets;

    /// Starts a stand-in for a program, with our end of its control socket and the end that it got.
    pub(in crate::tier) fn start(stand_in: &str) -> (OwnedFd, OwnedFd, ChildProcess) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/stand-ins")
            .join(stand_in);
        let (control, theirs) = packets::pair().unwrap();
        let kept = theirs.try_clone().unwrap();
        let process = ChildProcess::start(&path, &[c"stand-in"], theirs).unwrap();
        (control, kept, process)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn an_exit_code_is_told() {
        let (_control, _theirs, mut process) = start("exits");
        assert_eq!(process.wait(soon()), Some(Ending::Exited(7)));
    }

    #[test]
    fn a_kill_ends_it_and_is_told_as_a_signal() {
        let (_control, _theirs, mut process) = start("sleeps");
        assert_eq!(process.wait(Instant::now()), None);
        process.kill();
        assert_eq!(process.wait(soon()), Some(Ending::Signaled(9)));
        assert_eq!(
            process.wait(soon()).unwrap().to_string(),
            "was killed by signal 9"
        );
    }

    #[test]
    fn last_words_are_kept_in_one_line() {
        let (_control, _theirs, mut process) = start("speaks");
        process.wait(soon());
        assert_eq!(process.last_words().as_deref(), Some("one; two"));
    }

    #[test]
    fn a_talkative_process_does_not_stall() {
        let (_control, _theirs, mut process) = start("babbles");
        assert!(process.wait(soon()).is_some());
    }

    #[test]
    fn dropping_it_leaves_no_process() {
        let (_control, _theirs, process) = start("sleeps");
        let folder = PathBuf::from(format!("/proc/{}", process.id()));
        assert!(folder.exists());
        drop(process);
        assert!(!folder.exists());
    }
}
