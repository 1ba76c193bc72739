//! Whether the lab's own Linux still runs: its init says so on its console, again and again.
//!
//! After many nested guests the emulation has been seen to lose the interrupt of the lab's only timer.
//! Then nothing in the lab ever happens again, whatever runs there: QEMU sleeps, and so would whoever waits
//! for a test that seems to take its time.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// What init says, every ten seconds (`init.sh`).
pub(crate) const WORD: &str = "@lab alive";

/// For how long a lab that lives may say nothing: other work here may be in its way.
const PATIENCE: Duration = Duration::from_secs(150);

/// The lab stands still.
#[derive(Debug, thiserror::Error)]
#[error("the lab has stood still for {PATIENCE:?}")]
pub(crate) struct StandsStill;

/// A lab's pulse.
pub(crate) struct Pulse<'a> {
    console: &'a Path,
    /// How long the console was when it was longer than before, and when that was.
    length: u64,
    felt: Instant,
}

impl<'a> Pulse<'a> {
    /// That of a lab which begins now, and has this for its console.
    pub(crate) fn of(console: &'a Path, now: Instant) -> Self {
        Self {
            console,
            length: 0,
            felt: now,
        }
    }

    /// Feels it.
    ///
    /// # Errors
    ///
    /// It is not to be felt any more.
    pub(crate) fn feel(&mut self, now: Instant) -> Result<(), StandsStill> {
        let length = fs::metadata(self.console).map_or(0, |console| console.len());
        if length != self.length {
            (self.length, self.felt) = (length, now);
        }
        match now.duration_since(self.felt) < PATIENCE {
            true => Ok(()),
            false => Err(StandsStill),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lab_lives_for_as_long_as_its_console_grows() {
        let folder = tempfile::tempdir().unwrap();
        let console = folder.path().join("console");
        let start = Instant::now();
        let mut pulse = Pulse::of(&console, start);
        let at = |times: u32| start + times * PATIENCE / 2;
        assert!(pulse.feel(at(1)).is_ok());
        fs::write(&console, WORD).unwrap();
        assert!(pulse.feel(at(2)).is_ok());
        assert!(pulse.feel(at(3)).is_ok());
        assert!(pulse.feel(at(4)).is_err());
        fs::write(&console, [WORD, WORD].concat()).unwrap();
        assert!(pulse.feel(at(5)).is_ok());
    }
}
