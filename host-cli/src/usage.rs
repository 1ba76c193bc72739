//! What a sandbox uses, as it sees it itself and as this machine does.
//!
//! | tier | inside | on this machine |
//! |---|---|---|
//! | `microvm` | its own kernel | CPU: the VMM's vCPU threads; memory and disks: the VMM's process |
//! | `docker`, `podman` | its cgroup | the same cgroup; nothing, if the engine is not on this machine |
//! | `local` | the sum over its processes | the same |

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use agent_protocol::cgroup::CgroupUsage;
use agent_protocol::usage::Usage;
use serde::Serialize;

use crate::host::ProcessStat;
use crate::tier::Tier;

/// What cgroups are below.
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
            let by_processes = of_tree(number)?;
            Some(of_cgroup(number, by_processes).unwrap_or(by_processes))
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

/// The cgroup that a process is in.
fn of_cgroup(process: u32, by_processes: HostUsage) -> Option<HostUsage> {
    let text = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    let read = |controller: &str, file: &str| {
        let folder = Path::new(CGROUPS).join(controller);
        fs::read_to_string(folder.join(path_in(&text, controller)?).join(file)).ok()
    };
    let usage = CgroupUsage::version_2(|file| read("", file));
    let usage = usage.or_else(|| CgroupUsage::version_1(read))?;
    Some(HostUsage {
        cpu: usage.cpu?,
        overhead_cpu: None,
        memory_bytes: usage.memory_bytes?,
        read_bytes: usage.read_bytes,
        written_bytes: usage.written_bytes,
        processes: by_processes.processes,
    })
}

/// Where a process is in the hierarchy of a controller, or in that of version 2, which has no name
/// (cgroups(7), `/proc/PID/cgroup`). The root is everybody's.
fn path_in<'a>(text: &'a str, controller: &str) -> Option<&'a str> {
    let mut lines = text.lines().map(|line| line.splitn(3, ':').skip(1));
    let mut found = lines.find_map(|mut line| {
        let controllers = line.next()?;
        controllers
            .split(',')
            .any(|name| name == controller)
            .then_some(line)
    })?;
    let path = found.next()?.trim_start_matches('/');
    (!path.is_empty()).then_some(path)
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
    fn a_cgroup_is_found_by_its_controller() {
        let text = "9:name=systemd:/s\n5:cpu,cpuacct:/a/b\n4:memory:/a:b\n0::/v2\n3:pids:/\n";
        assert_eq!(path_in(text, "cpuacct"), Some("a/b"));
        assert_eq!(path_in(text, "memory"), Some("a:b"));
        assert_eq!(path_in(text, ""), Some("v2"));
        assert_eq!(path_in(text, "pids"), None);
        assert_eq!(path_in(text, "blkio"), None);
    }
}
