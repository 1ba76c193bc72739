//! Who goes first when memory runs out.
//!
//! The kernel takes the process with the highest score, and a score is inherited. Nobody but root may
//! lower one below what root has given; but whoever has raised their own may take that back. So the
//! agent raises its score, makes a session, and goes back to what it had: sessions and their commands
//! are taken before the agent, with which all would end.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

/// OOM_SCORE_ADJ_MAX of linux/oom.h.
const HIGHEST: &[u8] = b"1000";

/// This process's score (proc_pid_oom_score_adj(5)).
#[derive(Debug)]
pub(crate) struct OomScore {
    file: File,
    own: Vec<u8>,
}

impl OomScore {
    pub(crate) fn of_this_process() -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/proc/self/oom_score_adj")?;
        let mut own = Vec::new();
        file.read_to_end(&mut own)?;
        Ok(Self { file, own })
    }

    /// Makes a process that has the highest score. The new one, too, takes the raise back, of the old
    /// one: the file stays that one's.
    pub(crate) fn while_expendable<T>(&self, make: impl FnOnce() -> T) -> T {
        let _ = (&self.file).write(HIGHEST);
        let made = make();
        let _ = (&self.file).write(self.own.trim_ascii());
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn score_is_raised_for_a_while() {
        let read = || std::fs::read("/proc/self/oom_score_adj").unwrap();
        let before = read();
        let score = OomScore::of_this_process().unwrap();
        let meanwhile = score.while_expendable(read);
        assert_eq!(meanwhile.trim_ascii(), HIGHEST);
        assert_eq!(read(), before);
    }
}
