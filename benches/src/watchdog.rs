//! The end of a process that takes longer than anything that moves does.

use std::process::Child;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};

/// Kills a process once its time is up, unless it is called off or dropped before.
pub(crate) struct Watchdog {
    ended: Sender<()>,
    thread: JoinHandle<bool>,
}

impl Watchdog {
    /// Gives a process so much time.
    ///
    /// # Errors
    ///
    /// If there can be no thread for it.
    pub(crate) fn over(process: &Child, patience: Duration) -> Result<Self> {
        let pid = i32::try_from(process.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("a strange pid")?;
        let (ended, watch) = channel::<()>();
        let thread = thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || {
                let overdue = watch.recv_timeout(patience) == Err(RecvTimeoutError::Timeout);
                if overdue {
                    // It may have ended this very moment.
                    let _ = kill_process(pid, Signal::KILL);
                }
                overdue
            })
            .context("cannot start a thread")?;
        Ok(Self { ended, thread })
    }

    /// Calls it off, and returns whether it has killed the process.
    ///
    /// # Errors
    ///
    /// If its thread panicked.
    pub(crate) fn call_off(self) -> Result<bool> {
        drop(self.ended);
        let overdue = self.thread.join();
        overdue.map_err(|_| anyhow!("the watchdog panicked"))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn process_is_killed_when_its_time_is_up_and_not_before() {
        let mut short = Command::new("sleep").arg("100").spawn().unwrap();
        let watchdog = Watchdog::over(&short, Duration::from_millis(20)).unwrap();
        assert!(!short.wait().unwrap().success());
        assert!(watchdog.call_off().unwrap());
        let mut done = Command::new("true").spawn().unwrap();
        let watchdog = Watchdog::over(&done, Duration::from_secs(100)).unwrap();
        assert!(done.wait().unwrap().success());
        assert!(!watchdog.call_off().unwrap());
    }
}
