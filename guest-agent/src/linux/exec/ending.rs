//! The end of a command that is not its own doing.
//!
//! ```text
//!  Running ──time is up──▶ Terminating ──still there──▶ Killing ──▶ Killed
//!     │                      SIGTERM                    SIGKILL, again and again
//!     └──────── no kill_after, or the host is gone ────────▲
//! ```

use std::time::{Duration, Instant};

use agent_protocol::message::ExecRequest;
use rustix::process::Signal;

use crate::linux::exec::tree::signal_descendants;

/// How often killed processes are looked for that have not gone yet.
const KILL_INTERVAL: Duration = Duration::from_millis(10);
/// Processes that withstand SIGKILL for so long hang in the kernel, and are not waited for.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// A command's time limit, and how far its enforcement has come.
#[derive(Debug)]
pub(crate) struct Ending {
    time_is_up: Option<Instant>,
    kill_after: Option<Duration>,
    phase: Phase,
    timed_out: bool,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Running,
    Terminating {
        until: Option<Instant>,
    },
    Killing {
        again: Instant,
        until: Instant,
    },
    /// Nothing more is done, whatever is left.
    Killed,
}

impl Ending {
    pub(crate) fn new(request: &ExecRequest, began: Instant) -> Self {
        Self {
            time_is_up: request
                .timeout
                .and_then(|timeout| began.checked_add(timeout)),
            kill_after: request.kill_after,
            phase: Phase::Running,
            timed_out: false,
        }
    }

    /// Whether the command's time was up.
    pub(crate) fn timed_out(&self) -> bool {
        self.timed_out
    }

    /// Whether nothing has to be waited for, given whether there still are processes.
    pub(crate) fn is_over(&self, has_children: bool) -> bool {
        match self.phase {
            Phase::Running | Phase::Killed => true,
            Phase::Terminating { .. } | Phase::Killing { .. } => !has_children,
        }
    }

    /// Kills everything from now on.
    pub(crate) fn kill(&mut self) {
        if matches!(self.phase, Phase::Running | Phase::Terminating { .. }) {
            let now = Instant::now();
            self.phase = Phase::Killing {
                again: now,
                until: now + KILL_TIMEOUT,
            };
        }
    }

    /// Kills everything that is still there after this time.
    pub(crate) fn kill_after(&mut self, patience: Duration) {
        if matches!(self.phase, Phase::Running) {
            self.phase = Phase::Terminating {
                until: Instant::now().checked_add(patience),
            };
        }
    }

    /// When [`advance`](Self::advance) has something to do.
    pub(crate) fn deadline(&self, command_runs: bool) -> Option<Instant> {
        match self.phase {
            Phase::Running => self.time_is_up.filter(|_| command_runs),
            Phase::Terminating { until } => until,
            Phase::Killing { again, .. } => Some(again),
            Phase::Killed => None,
        }
    }

    /// Does what is due. `reaped` says that the tree has changed.
    pub(crate) fn advance(&mut self, command_runs: bool, reaped: bool) {
        let now = Instant::now();
        match self.phase {
            Phase::Running if command_runs && is_due(self.time_is_up, now) => {
                self.timed_out = true;
                match self.kill_after {
                    None => self.kill(),
                    Some(patience) => {
                        signal_descendants(Signal::TERM);
                        // A stopped process takes no signal but this.
                        signal_descendants(Signal::CONT);
                        self.phase = Phase::Terminating {
                            until: now.checked_add(patience),
                        };
                    }
                }
            }
            Phase::Terminating { until } if is_due(until, now) => self.kill(),
            Phase::Running | Phase::Terminating { .. } | Phase::Killing { .. } | Phase::Killed => {}
        }
        if let Phase::Killing { again, until } = self.phase
            && (reaped || now >= again)
        {
            signal_descendants(Signal::KILL);
            self.phase = match now >= until {
                true => Phase::Killed,
                false => Phase::Killing {
                    again: now + KILL_INTERVAL,
                    until,
                },
            };
        }
    }
}

fn is_due(moment: Option<Instant>, now: Instant) -> bool {
    moment.is_some_and(|moment| now >= moment)
}
