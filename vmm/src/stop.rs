//! Why a machine ends: said once, by whoever knows first.

use std::io;
use std::sync::{Arc, OnceLock};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::control::StopReason;

/// Shared by everything that can end the machine; the first reason given counts.
#[derive(Debug, Clone)]
pub struct StopSignal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    reason: OnceLock<StopReason>,
    wake: EventFd,
}

impl StopSignal {
    /// Makes a signal that nobody has raised yet.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Self {
            shared: Arc::new(Shared {
                reason: OnceLock::new(),
                wake,
            }),
        })
    }

    /// Ends the machine for this reason, unless it ends already.
    pub fn raise(&self, reason: StopReason) {
        if self.shared.reason.set(reason).is_ok() {
            // Fails only when the counter is full, and then the reader is awake already.
            let _ = self.shared.wake.write(1);
        }
    }

    /// Why the machine ends, if it does.
    #[must_use]
    pub fn reason(&self) -> Option<&StopReason> {
        self.shared.reason.get()
    }

    /// Becomes readable, and stays so, when the signal is raised.
    #[must_use]
    pub fn wake(&self) -> &EventFd {
        &self.shared.wake
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_reason_wins_and_wakes() {
        let stop = StopSignal::new().unwrap();
        assert_eq!(stop.reason(), None);
        stop.clone().raise(StopReason::Reset);
        stop.raise(StopReason::PowerOff);
        assert_eq!(stop.reason(), Some(&StopReason::Reset));
        assert_eq!(stop.wake().read().unwrap(), 1);
    }
}
