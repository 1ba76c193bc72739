//! Whose a sandbox is: the process that started it, told so that no other is taken for it.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::rand::{GetRandomFlags, getrandom};

use crate::host::ProcessStat;

/// A process, by its number, the moment of its start, and where that number means it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    process: u32,
    /// In clock ticks since the system's start (proc(5), `/proc/pid/stat`).
    started: u64,
    /// The namespace of processes (pid_namespaces(7)), by its inode.
    space: u64,
}

impl Owner {
    /// This process; `None` without `/proc`.
    pub(crate) fn this() -> Option<Self> {
        let process = std::process::id();
        Some(Self {
            process,
            started: start_of(process)?,
            space: own_space()?,
        })
    }

    /// The owner in a sandbox's id, which begins with one.
    pub(crate) fn of_id(id: &str) -> Option<Self> {
        let mut parts = id.split('-');
        Some(Self {
            process: parts.next()?.parse().ok()?,
            started: parts.next()?.parse().ok()?,
            space: parts.next()?.parse().ok()?,
        })
    }

    /// The id of a new sandbox of its: no other has it.
    pub(crate) fn new_id(&self) -> io::Result<String> {
        let mut number = [0; 8];
        getrandom(&mut number, GetRandomFlags::empty())?;
        Ok(format!("{self}-{:016x}", u64::from_ne_bytes(number)))
    }

    /// Whether it has ended, as far as can be seen from here.
    pub(crate) fn is_gone(self) -> bool {
        own_space() == Some(self.space) && start_of(self.process) != Some(self.started)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.process, self.started, self.space)
    }
}

/// This boot of this machine: a daemon may serve others too.
pub(crate) fn boot() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// Where the paths of this machine mean what they mean here, as far as can be told: this machine, and
/// the container of which this process is.
pub(crate) fn here() -> Option<String> {
    let machine = fs::read_to_string("/etc/machine-id").ok()?;
    let machine = machine.trim();
    (!machine.is_empty()).then_some(format!("{machine}-{}", own_space()?))
}

fn own_space() -> Option<u64> {
    Some(fs::metadata("/proc/self/ns/pid").ok()?.ino())
}

fn start_of(process: u32) -> Option<u64> {
    let stat = ProcessStat::read(process)?;
    // A zombie has ended, and its files are closed.
    (stat.state() != "Z" && stat.state() != "X").then_some(stat.number(22)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_there_and_one_that_started_earlier_is_gone() {
        let this = Owner::this().unwrap();
        assert!(!this.is_gone());
        let earlier = Owner {
            started: this.started - 1,
            ..this
        };
        assert!(earlier.is_gone());
        let elsewhere = Owner {
            space: 1,
            ..earlier
        };
        assert!(!elsewhere.is_gone());
    }

    #[test]
    fn an_id_tells_its_owner() {
        let this = Owner::this().unwrap();
        assert_eq!(Owner::of_id(&format!("{this}-00ff")), Some(this));
        assert_eq!(Owner::of_id("x-1"), None);
        assert_eq!(Owner::of_id("1-1"), None);
    }

    #[test]
    fn the_boot_has_a_name() {
        assert_eq!(boot().unwrap().len(), 36);
    }
}
