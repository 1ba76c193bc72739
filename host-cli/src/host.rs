//! What this machine has.

use std::path::Path;

/// This machine's memory in MiB.
#[must_use]
pub fn memory_mib() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram * u64::from(info.mem_unit)) >> 20
}

/// What the kernel tells of a process (proc_pid_stat(5)).
#[derive(Debug)]
pub(crate) struct ProcessStat {
    /// The third field and those after it: the name, field 2, may hold anything, so it is left out.
    fields: Vec<String>,
}

impl ProcessStat {
    /// Reads it; `None` if there is no such process.
    pub(crate) fn read(process: u32) -> Option<Self> {
        Self::read_at(Path::new(&format!("/proc/{process}/stat")))
    }

    /// Reads that of a process or a thread from its file.
    pub(crate) fn read_at(path: &Path) -> Option<Self> {
        let stat = std::fs::read_to_string(path).ok()?;
        let (_, after_name) = stat.rsplit_once(") ")?;
        let fields = after_name.split(' ').map(str::to_owned).collect();
        Some(Self { fields })
    }

    /// Its state, a letter.
    pub(crate) fn state(&self) -> &str {
        self.fields.first().map_or("", String::as_str)
    }

    /// The number in a field, by the manual's count, from 4 on.
    pub(crate) fn number(&self, field: usize) -> Option<u64> {
        self.fields.get(field.checked_sub(3)?)?.trim().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory() {
        assert!(memory_mib() > 64);
    }

    #[test]
    fn this_process_runs_and_has_a_parent() {
        let stat = ProcessStat::read(std::process::id()).unwrap();
        assert!(["R", "S"].contains(&stat.state()), "{stat:?}");
        assert_eq!(
            stat.number(4),
            Some(u64::from(std::os::unix::process::parent_id()))
        );
        assert_eq!(stat.number(2), None);
        assert!(ProcessStat::read(0).is_none());
    }
}
