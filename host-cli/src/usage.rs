//! What a sandbox uses, as it sees it itself and as this machine does.
//!
//! | tier | inside | on this machine |
//! |---|---|---|
//! | `microvm` | its own kernel | CPU: the VMM's vCPU threads; memory and disks: the VMM's process |
//! | `docker`, `podman` | its cgroup | the same cgroup; nothing, if the engine is not on this machine |
//! | `local` | the sum over its processes | the same |

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_protocol::usage::Usage;
use serde::Serialize;

use crate::host::ProcessStat;
use crate::tier::Tier;

/// What cgroups are below (cgroup v2).
const CGROUPS: &str = "/sys/fs/cgroup";
/// What the VMM calls the threads that run the guest's CPUs.
const VCPU_THREADS: &str = "vcpu-";

/// What a sandbox uses. What nobody tells is `None`, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// As it sees it itself; `None` if it does not answer.
    pub inside: Option<Usage>,
    /// As this machine sees it; `None` if it is not on this machine.
    pub host: Option<HostUsage>,
}

/// What a sandbox takes from this machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct HostUsage {
    /// CPU time so far of what runs in it. A virtual machine's devices are not counted.
    pub cpu: Duration,
    /// CPU time so far of a virtual machine's devices.
    pub overhead_cpu: Option<Duration>,
    /// Memory that it takes.
    pub memory_bytes: u64,
    /// Read from this machine's disks so far.
    pub read_bytes: Option<u64>,
    /// Written to this machine's disks so far.
    pub written_bytes: Option<u64>,
    /// Processes of this machine.
    pub processes: u64,
}

impl Stats {
    /// CPU time so far of what runs in it.
    #[must_use]
    pub fn cpu(&self) -> Option<Duration> {
        let inside = self.inside.and_then(|usage| usage.cpu);
        self.host.map(|host| host.cpu).or(inside)
    }

    /// Memory in use, as it sees it itself if it does.
    #[must_use]
    pub fn memory_bytes(&self) -> Option<u64> {
        let inside = self.inside.and_then(|usage| usage.memory_bytes);
        inside.or(self.host.map(|host| host.memory_bytes))
    }

    /// Read from disks so far, its own if it has some.
    #[must_use]
    pub fn read_bytes(&self) -> Option<u64> {
        let inside = self.inside.and_then(|usage| usage.read_bytes);
        inside.or(self.host.and_then(|host| host.read_bytes))
    }

    /// Written to disks so far, its own if it has some.
    #[must_use]
    pub fn written_bytes(&self) -> Option<u64> {
        let inside = self.inside.and_then(|usage| usage.written_bytes);
        inside.or(self.host.and_then(|host| host.written_bytes))
    }

    /// Processes in it.
    #[must_use]
    pub fn processes(&self) -> Option<u64> {
        let inside = self.inside.map(|usage| usage.processes);
        inside.or(self.host.map(|host| host.processes))
    }
}

/// What a sandbox of this tier that this process holds takes from this machine; `None` if the process
/// is not here.
pub(crate) fn on_this_machine(tier: Tier, process: i32) -> Option<HostUsage> {
    let number = u32::try_from(process).ok().filter(|number| *number != 0)?;
    match tier {
        Tier::Microvm => of_machine(number),
        Tier::Docker | Tier::Podman => {
            let of_cgroup = cgroup_of(number).and_then(|folder| of_cgroup(&folder));
            of_cgroup.or_else(|| of_tree(number))
        }
        Tier::Local | Tier::AppContainer => of_tree(number),
    }
}

/// A VMM: its vCPU threads are the guest's, the others its own.
fn of_machine(process: u32) -> Option<HostUsage> {
    let whole = Spent::by(process)?;
    let threads = fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let vcpus = threads.flatten().filter_map(|thread| {
        let name = fs::read_to_string(thread.path().join("comm")).ok()?;
        let stat = ProcessStat::read_at(&thread.path().join("stat"))?;
        let ticks = stat.number(14)?.saturating_add(stat.number(15)?);
        name.starts_with(VCPU_THREADS).then_some(ticks)
    });
    let vcpus = vcpus.fold(0, u64::saturating_add);
    Some(HostUsage {
        cpu: from_ticks(vcpus),
        overhead_cpu: Some(from_ticks(whole.own_ticks.saturating_sub(vcpus))),
        ..HostUsage::from(whole)
    })
}

/// A process and all that came of it.
fn of_tree(process: u32) -> Option<HostUsage> {
    Spent::by(process)?;
    let parents = parents();
    let all = tree(process, &parents).into_iter().filter_map(Spent::by);
    all.reduce(Spent::and).map(HostUsage::from)
}

/// Where the cgroup of a process is (proc_pid_cgroup(5)), if it is in one of version 2.
fn cgroup_of(process: u32) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // The root is everybody's.
    (!path.is_empty()).then(|| Path::new(CGROUPS).join(path))
}

fn of_cgroup(folder: &Path) -> Option<HostUsage> {
    let read = |file| fs::read_to_string(folder.join(file)).ok();
    let number = |file| read(file)?.trim().parse::<u64>().ok();
    let cpu = read("cpu.stat")?
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))?
        .parse()
        .ok()?;
    let io = read("io.stat");
    let moved = |name: &str| {
        let words = io.as_deref()?.split_whitespace();
        let counts = words.filter_map(|word| word.strip_prefix(name)?.parse::<u64>().ok());
        Some(counts.fold(0, u64::saturating_add))
    };
    let members = read("cgroup.procs").map_or(0, |text| text.lines().count());
    Some(HostUsage {
        cpu: Duration::from_micros(cpu),
        overhead_cpu: None,
        memory_bytes: number("memory.current")?,
        read_bytes: moved("rbytes="),
        written_bytes: moved("wbytes="),
        processes: u64::try_from(members).unwrap_or(u64::MAX),
    })
}

/// What processes have used so far (proc_pid_stat(5), proc_pid_io(5)).
#[derive(Debug, Clone, Copy)]
struct Spent {
    /// Of the process itself.
    own_ticks: u64,
    /// With that of its children that it has reaped.
    ticks: u64,
    resident: u64,
    /// Not everybody may know.
    read: Option<u64>,
    written: Option<u64>,
    processes: u64,
}

impl Spent {
    fn by(process: u32) -> Option<Self> {
        let stat = ProcessStat::read(process)?;
        let sum = |fields: [usize; 2]| {
            let counts = fields.map(|field| stat.number(field).unwrap_or_default());
            counts.into_iter().fold(0, u64::saturating_add)
        };
        let io = fs::read_to_string(format!("/proc/{process}/io")).ok();
        let moved = |name: &str| -> Option<u64> {
            let mut lines = io.as_deref()?.lines();
            lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        };
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        let own_ticks = sum([14, 15]);
        Some(Self {
            own_ticks,
            ticks: own_ticks.saturating_add(sum([16, 17])),
            resident: stat.number(24).unwrap_or_default().saturating_mul(page),
            read: moved("read_bytes:"),
            written: moved("write_bytes:"),
            processes: 1,
        })
    }

    fn and(self, other: Self) -> Self {
        let sum = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one.saturating_add(other)),
            (known, None) | (None, known) => known,
        };
        Self {
            own_ticks: self.own_ticks.saturating_add(other.own_ticks),
            ticks: self.ticks.saturating_add(other.ticks),
            resident: self.resident.saturating_add(other.resident),
            read: sum(self.read, other.read),
            written: sum(self.written, other.written),
            processes: self.processes + other.processes,
        }
    }
}

impl From<Spent> for HostUsage {
    fn from(spent: Spent) -> Self {
        Self {
            cpu: from_ticks(spent.ticks),
            overhead_cpu: None,
            memory_bytes: spent.resident,
            read_bytes: spent.read,
            written_bytes: spent.written,
            processes: spent.processes,
        }
    }
}

fn from_ticks(ticks: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_millis(ticks.saturating_mul(1000) / per_second)
}

/// Every process of this machine and its parent.
fn parents() -> Vec<(u32, u32)> {
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = folders.filter_map(|folder| folder.file_name().to_str()?.parse().ok());
    let parent = |pid: u32| ProcessStat::read(pid)?.number(4)?.try_into().ok();
    pids.filter_map(|pid| Some((pid, parent(pid)?))).collect()
}

fn tree(root: u32, parents: &[(u32, u32)]) -> BTreeSet<u32> {
    let mut tree = BTreeSet::from([root]);
    loop {
        let before = tree.len();
        let children = parents.iter().filter(|(_, parent)| tree.contains(parent));
        let children: Vec<_> = children.map(|(pid, _)| *pid).collect();
        tree.extend(children);
        if tree.len() == before {
            return tree;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_and_its_children_are_counted_once() {
        let parents = [(2, 1), (3, 2), (4, 3), (5, 1), (1, 0)];
        assert_eq!(tree(2, &parents), BTreeSet::from([2, 3, 4]));
    }

    #[test]
    fn this_process_has_memory_and_reaped_children_count() {
        let before = of_tree(std::process::id()).unwrap();
        assert!(before.memory_bytes > 100_000, "{before:?}");
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let status = std::process::Command::new("sh").args(["-c", busy]).status();
        assert!(status.unwrap().success());
        let after = of_tree(std::process::id()).unwrap();
        assert!(after.cpu > before.cpu, "{before:?} {after:?}");
    }

    #[test]
    fn who_is_not_here_uses_nothing_that_is_known() {
        for tier in Tier::ALL {
            for process in [0, -1, i32::MAX] {
                assert_eq!(on_this_machine(tier, process), None, "{tier} {process}");
            }
        }
    }

    #[test]
    fn a_cgroup_is_read_by_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
        assert_eq!(of_cgroup(folder.path()), None);
        write("cpu.stat", "usage_usec 2500\nuser_usec 1\n");
        write("memory.current", "4096\n");
        write(
            "io.stat",
            "8:0 rbytes=10 wbytes=2 rios=1 wios=1\n8:1 rbytes=1 wbytes=1\n",
        );
        write("cgroup.procs", "7\n8\n");
        let expected = HostUsage {
            cpu: Duration::from_micros(2500),
            overhead_cpu: None,
            memory_bytes: 4096,
            read_bytes: Some(11),
            written_bytes: Some(3),
            processes: 2,
        };
        assert_eq!(of_cgroup(folder.path()), Some(expected));
    }
}
