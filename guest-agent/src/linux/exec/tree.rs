//! The processes below this one.
//!
//! This process is a child subreaper, so whatever a command leaves behind, by `setsid` and double
//! forks too, stays below it; and it has a descendant exactly as long as it has a child. Killing is a
//! loop: signal all that are there, reap, look again. A process with a signal pending cannot fork,
//! parents come before their children, and `/proc` lists a process that was made meanwhile, so the
//! loop overtakes a tree that grows.
//!
//! A number read from `/proc` may be another process by the time it is used. Children of this process
//! stay what they are until it reaps them; the others are signalled by pidfd, and only if what the
//! pidfd holds began at the moment that was read before.

use std::collections::HashMap;
use std::fs;

use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open, pidfd_send_signal,
};

use crate::linux::stat::Stat;

/// Signals every process below this one, parents first, and returns how many there were. Those that
/// are dead already do not count.
pub(crate) fn signal_descendants(signal: Signal) -> usize {
    let me = getpid();
    let mut children: HashMap<Pid, Vec<Entry>> = HashMap::new();
    for entry in processes() {
        children.entry(entry.parent).or_default().push(entry);
    }
    let mut generation = vec![me];
    let mut count = 0;
    while !generation.is_empty() {
        let below: Vec<Entry> = generation
            .iter()
            .filter_map(|parent| children.remove(parent))
            .flatten()
            .collect();
        for entry in below.iter().filter(|entry| !entry.is_dead) {
            entry.signal(signal, me);
            count += 1;
        }
        generation = below.iter().map(|entry| entry.pid).collect();
    }
    count
}

/// A process, as `/proc` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    pid: Pid,
    parent: Pid,
    is_dead: bool,
    /// In clock ticks since boot.
    began: u64,
}

impl Entry {
    fn read(pid: Pid) -> Option<Self> {
        Self::of(pid, &Stat::read(pid.as_raw_nonzero().get())?)
    }

    fn of(pid: Pid, stat: &Stat) -> Option<Self> {
        Some(Self {
            pid,
            parent: Pid::from_raw(stat.parent()?)?,
            is_dead: stat.is_dead(),
            began: stat.field(22)?,
        })
    }

    fn signal(&self, signal: Signal, me: Pid) {
        if self.parent == me {
            let _ = kill_process(self.pid, signal);
            return;
        }
        let Ok(pidfd) = pidfd_open(self.pid, PidfdFlags::empty()) else {
            return;
        };
        if Self::read(self.pid).is_some_and(|now| now.began == self.began) {
            let _ = pidfd_send_signal(&pidfd, signal);
        }
    }
}

/// All processes that can be seen and have a parent that can.
fn processes() -> Vec<Entry> {
    let Ok(listing) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    listing
        .filter_map(|item| {
            let number = item.ok()?.file_name().to_str()?.parse().ok()?;
            Entry::read(Pid::from_raw(number)?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_is_read_from_its_line() {
        let pid = Pid::from_raw(7).unwrap();
        let of = |text: &[u8]| Entry::of(pid, &Stat::parse(text).unwrap());
        let text = b"7 (x) Z 3 7 7 0 -1 4228352 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0\n";
        let entry = of(text).unwrap();
        assert_eq!(entry.parent, Pid::from_raw(3).unwrap());
        assert_eq!(entry.began, 4711);
        assert!(entry.is_dead);
        assert_eq!(of(b"7 (x) R 0 1 2"), None);
        assert_eq!(of(b"7 (x) R 3 1 2"), None);
    }

    #[test]
    fn own_entry_is_found() {
        let me = getpid();
        let entry = Entry::read(me).unwrap();
        assert_eq!(Some(entry.parent), rustix::process::getppid());
        assert!(!entry.is_dead && entry.began > 0);
        assert!(processes().contains(&entry));
    }
}
