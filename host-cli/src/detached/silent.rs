//! A supervisor that does not answer: it was stopped (SIGSTOP, a debugger), or hangs.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::conversation::in_time;
use super::{Detached, DetachedError};
use crate::deadline::is_readable;
use crate::host::ProcessStat;
use crate::registry::State;
use crate::registry::record::{Ending, Record, Status};

/// How long a supervisor may take to answer on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often to look whether it can answer at all.
const LOOK: Duration = Duration::from_secs(1);
/// How long it takes the kernel to end a process.
const DEATH: Duration = Duration::from_secs(10);

impl Detached {
    /// Waits until the supervisor says something.
    pub(super) fn wait_for_word(
        &self,
        socket: &OwnedFd,
        until: Option<Instant>,
    ) -> Result<(), DetachedError> {
        let end = Instant::now() + PATIENCE;
        loop {
            let look = Instant::now() + LOOK;
            match is_readable(
                socket,
                None,
                Some(until.map_or(look, |until| until.min(look))),
            ) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::TimedOut => in_time(until)?,
                Err(error) => return Err(self.lost(error)),
            }
            self.see_that_it_can_answer()?;
            if Instant::now() >= end {
                return Err(self.lost(ErrorKind::TimedOut.into()));
            }
        }
    }

    /// Sees whether the supervisor was stopped.
    pub(super) fn see_that_it_can_answer(&self) -> Result<(), DetachedError> {
        let record = self.entry.read()?;
        match self.supervisor(&record).filter(|it| is_stopped(*it)) {
            Some(supervisor) => Err(DetachedError::Silent {
                name: record.name,
                supervisor,
            }),
            None => Ok(()),
        }
    }

    /// Ends a sandbox whose supervisor does not do it: without that process it ends.
    pub(super) fn kill_supervisor(&self) -> Result<Ending, DetachedError> {
        let record = self.entry.read()?;
        let Some(supervisor) = self.supervisor(&record) else {
            return self.ending();
        };
        let kill = || -> io::Result<()> {
            let pid = i32::try_from(supervisor).ok().and_then(Pid::from_raw);
            let pid = pid.ok_or(ErrorKind::InvalidData)?;
            let process = pidfd_open(pid, PidfdFlags::empty())?;
            // It has its lock still, so that it lives, and that number was not another's.
            if self.supervisor(&record).is_some() {
                pidfd_send_signal(&process, Signal::KILL)?;
            }
            is_readable(&process, None, Some(Instant::now() + DEATH)).map(drop)
        };
        match kill() {
            // It was quicker.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            outcome => outcome.map_err(|error| self.lost(error))?,
        }
        self.ending()
    }

    /// The process of the supervisor, if it lives.
    fn supervisor(&self, record: &Record) -> Option<u32> {
        match record.status {
            Status::Running { supervisor, .. } if self.entry.state(record) == State::Running => {
                Some(supervisor)
            }
            _ => None,
        }
    }
}

/// Whether a process was stopped, by a signal or a debugger (proc_pid_stat(5)).
fn is_stopped(process: u32) -> bool {
    ProcessStat::read(process).is_some_and(|stat| matches!(stat.state(), "T" | "t"))
}
