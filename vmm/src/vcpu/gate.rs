//! What all vCPUs are to do, and how many are at it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What vCPUs are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Stand still.
    Paused,
    /// Run the guest.
    Running,
    /// Come to an end. Nothing comes after it.
    Stopped,
}

/// Every vCPU thread goes through it on its way into the guest.
#[derive(Debug)]
pub(super) struct Gate {
    /// Guards only what is in it, and is never held while a vCPU runs.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    wanted: Wanted,
    running: usize,
}

impl Default for Gate {
    fn default() -> Self {
        let state = State {
            wanted: Wanted::Paused,
            running: 0,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }
}

impl Gate {
    pub(super) fn set(&self, wanted: Wanted) {
        let mut state = self.lock();
        if state.wanted != Wanted::Stopped {
            state.wanted = wanted;
        }
        self.changed.notify_all();
    }

    /// Waits until the vCPU may run; `false` when it is to end.
    pub(super) fn enter(&self) -> bool {
        let mut state = self
            .changed
            .wait_while(self.lock(), |state| state.wanted == Wanted::Paused)
            .unwrap_or_else(PoisonError::into_inner);
        let enters = state.wanted == Wanted::Running;
        state.running += usize::from(enters);
        enters
    }

    /// The vCPU has left the guest.
    pub(super) fn leave(&self) {
        let mut state = self.lock();
        state.running -= 1;
        if state.running == 0 {
            self.changed.notify_all();
        }
    }

    /// Whether, within the deadline, no vCPU runs.
    pub(super) fn wait_until_still(&self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        let left = end.saturating_duration_since(Instant::now());
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), left, |state| state.running > 0)
            .unwrap_or_else(PoisonError::into_inner);
        state.running == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn still_means_that_everyone_has_left() {
        let gate = Arc::new(Gate::default());
        gate.set(Wanted::Running);
        assert!(gate.enter());
        assert!(!gate.wait_until_still(Duration::from_millis(1)));
        gate.set(Wanted::Paused);
        gate.leave();
        assert!(gate.wait_until_still(Duration::from_secs(5)));
    }

    #[test]
    fn paused_thread_goes_on_when_resumed() {
        let gate = Arc::new(Gate::default());
        let waiting = thread::spawn({
            let gate = Arc::clone(&gate);
            move || gate.enter()
        });
        gate.set(Wanted::Running);
        assert!(waiting.join().unwrap());
    }

    #[test]
    fn stop_is_final() {
        let gate = Gate::default();
        gate.set(Wanted::Stopped);
        gate.set(Wanted::Running);
        assert!(!gate.enter());
    }
}
