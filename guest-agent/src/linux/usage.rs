//! What the sandbox uses: by its own kernel if it has one, else by its cgroup, else by its processes.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use agent_protocol::cgroup::CgroupUsage;
use agent_protocol::usage::{CountedBy, Usage};
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Pid, getpid, getppid};

use crate::linux::files::lane;
use crate::linux::stat::Stat;

/// Where a container sees its own cgroup.
const CGROUP: &str = "/sys/fs/cgroup";
/// PF_KTHREAD of linux/sched.h.
const KERNEL_THREAD: u64 = 0x0020_0000;
/// What diskstats count in, whatever the disk (Documentation/admin-guide/iostats.rst).
const SECTOR: u64 = 512;

/// Measures. `is_init` says that the whole system is the sandbox; `lanes` is the window of its lane disk. It
/// asks in a session of the agent.
pub(crate) fn measure(is_init: bool, lanes: Option<&str>) -> Usage {
    let agent = getppid().unwrap_or_else(getpid);
    let processes = processes(agent);
    let count = u64::try_from(processes.len()).unwrap_or(u64::MAX);
    if is_init {
        // What is copied to and from the host passes it, and is nothing that the sandbox keeps.
        let not_counted = lanes.and_then(lane::disk_name);
        let not_counted = not_counted.as_ref().and_then(|name| name.to_str());
        return by_kernel(read, count, not_counted);
    }
    // What an agent that is not first sees may be another's.
    let cgroup = (agent == Pid::INIT).then(cgroup).flatten();
    match cgroup {
        Some(usage) => by_cgroup(&usage, count),
        None => by_processes(&processes, count),
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// By what the sandbox's own kernel tells (proc_stat(5), proc_meminfo(5)).
fn by_kernel(
    read: impl Fn(&str) -> Option<String>,
    processes: u64,
    lane_disk: Option<&str>,
) -> Usage {
    let stat = read("/proc/stat").unwrap_or_default();
    let memory = read("/proc/meminfo").unwrap_or_default();
    let kib = |name| field(&memory, name).map(|kib| kib.saturating_mul(1024));
    let total = kib("MemTotal:");
    let disks = read("/proc/diskstats");
    Usage {
        counted_by: CountedBy::Kernel,
        cpu: busy_ticks(&stat).map(from_ticks),
        memory_bytes: total
            .zip(kib("MemAvailable:"))
            .map(|(total, available)| total.saturating_sub(available)),
        memory_limit_bytes: total,
        read_bytes: disks.as_deref().map(|disks| moved(disks, lane_disk, 5)),
        written_bytes: disks.as_deref().map(|disks| moved(disks, lane_disk, 9)),
        processes,
    }
}

/// What the container's cgroup tells, if it sees its own.
fn cgroup() -> Option<CgroupUsage> {
    let version_2 = CgroupUsage::version_2(|file| read(&format!("{CGROUP}/{file}")));
    version_2.or_else(|| {
        CgroupUsage::version_1(|controller, file| read(&format!("{CGROUP}/{controller}/{file}")))
    })
}

fn by_cgroup(usage: &CgroupUsage, processes: u64) -> Usage {
    Usage {
        counted_by: CountedBy::Cgroup,
        cpu: usage.cpu,
        memory_bytes: usage.memory_in_use(),
        memory_limit_bytes: usage.memory_limit_bytes,
        read_bytes: usage.read_bytes,
        written_bytes: usage.written_bytes,
        processes,
    }
}

/// By what each process has used, with those below it that it has seen ending.
fn by_processes(processes: &[Process], count: u64) -> Usage {
    let sum = |of: fn(&Process) -> u64| processes.iter().map(of).fold(0, u64::saturating_add);
    let io = |name| {
        let of_each = processes.iter().map(|process| process.moved(name));
        of_each.flatten().reduce(u64::saturating_add)
    };
    let page = u64::try_from(page_size()).unwrap_or(4096);
    Usage {
        counted_by: CountedBy::Processes,
        cpu: Some(from_ticks(sum(|process| process.ticks))),
        memory_bytes: Some(sum(|process| process.resident_pages).saturating_mul(page)),
        memory_limit_bytes: None,
        read_bytes: io("read_bytes:"),
        written_bytes: io("write_bytes:"),
        processes: count,
    }
}

/// A process that is not the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    number: i32,
    parent: i32,
    /// Its own, and those of all below it that it has reaped.
    ticks: u64,
    resident_pages: u64,
}

impl Process {
    fn of(number: i32, stat: &Stat) -> Option<Self> {
        let is_kernels = stat.field::<u64>(9)? & KERNEL_THREAD != 0;
        let ticks = [14, 15, 16, 17].into_iter();
        let ticks = ticks.filter_map(|field| stat.field::<u64>(field));
        (!is_kernels).then_some(Self {
            number,
            parent: stat.parent()?,
            ticks: ticks.fold(0, u64::saturating_add),
            resident_pages: stat.field(24)?,
        })
    }

    /// A count of proc_pid_io(5), which is not everybody's to read.
    fn moved(&self, name: &str) -> Option<u64> {
        field(&read(&format!("/proc/{}/io", self.number))?, name)
    }
}

/// The agent and all below it; as the first process it has all below it.
fn processes(agent: Pid) -> Vec<Process> {
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = folders.filter_map(|folder| folder.file_name().to_str()?.parse().ok());
    let all: Vec<_> = numbers
        .filter_map(|number| Process::of(number, &Stat::read(number)?))
        .collect();
    match agent {
        Pid::INIT => all,
        agent => below(agent.as_raw_nonzero().get(), &all),
    }
}

fn below(root: i32, all: &[Process]) -> Vec<Process> {
    let mut tree = BTreeSet::from([root]);
    loop {
        let before = tree.len();
        let children = all.iter().filter(|process| tree.contains(&process.parent));
        let children: Vec<_> = children.map(|process| process.number).collect();
        tree.extend(children);
        if tree.len() == before {
            break;
        }
    }
    let inside = all.iter().filter(|process| tree.contains(&process.number));
    inside.copied().collect()
}

fn from_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks.saturating_mul(1000) / clock_ticks_per_second().max(1))
}

/// The number behind a name, at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_ascii_whitespace);
    let mut line = lines.find_map(|mut line| (line.next()? == name).then_some(line))?;
    line.next()?.parse().ok()
}

/// What all CPUs have spent on something: user, nice, system, interrupts; not idle, not stolen.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let counts: Vec<u64> = line
        .split_ascii_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    let busy = [0, 1, 2, 5, 6].map(|index| counts.get(index).copied());
    busy.into_iter().flatten().reduce(u64::saturating_add)
}

/// Bytes that the virtual disks have moved, all but one, by the field (from 0) that counts their sectors.
fn moved(disks: &str, except: Option<&str>, sectors: usize) -> u64 {
    let lines = disks.lines().map(str::split_ascii_whitespace);
    let counts = lines.filter_map(|mut line| {
        let name = line.clone().nth(2)?;
        // Partitions are parts of what is counted already.
        let is_disk = name
            .strip_prefix("vd")?
            .bytes()
            .all(|byte| byte.is_ascii_lowercase());
        let is_counted = is_disk && Some(name) != except;
        line.nth(sectors)
            .filter(|_| is_counted)?
            .parse::<u64>()
            .ok()
    });
    counts.fold(0, u64::saturating_add).saturating_mul(SECTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_counts_for_itself() {
        let files = |path: &str| {
            let text = match path {
                "/proc/stat" => "cpu  100 20 30 9999 50 6 4 70 0 0\ncpu0 1 2 3 4\n",
                "/proc/meminfo" => "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  400 kB\n",
                "/proc/diskstats" => {
                    " 254 0 vda 10 0 7 1 2 0 3 4 0 1 1\n 254 1 vda1 9 0 7 1 2 0 3\n \
                     254 16 vdb 10 0 90 1 2 0 80 4 0 1 1\n"
                }
                _ => return None,
            };
            Some(text.to_owned())
        };
        let usage = by_kernel(files, 9, Some("vdb"));
        assert_eq!(usage.cpu, Some(from_ticks(160)));
        assert_eq!(usage.memory_bytes, Some(600 << 10));
        assert_eq!(usage.memory_limit_bytes, Some(1000 << 10));
        assert_eq!(
            (usage.read_bytes, usage.written_bytes),
            (Some(7 * 512), Some(3 * 512))
        );
        assert_eq!(usage.processes, 9);
    }

    #[test]
    fn what_is_not_told_is_not_zero() {
        let usage = by_kernel(|_| None, 1, None);
        assert_eq!(
            (usage.cpu, usage.memory_bytes, usage.read_bytes),
            (None, None, None)
        );
    }

    #[test]
    fn kernel_threads_are_no_processes() {
        let of = |flags: u32| {
            let line = format!("7 (a) S 3 7 7 0 -1 {flags} 0 0 0 0 1 2 3 4 20 0 1 0 99 4096 12 0");
            Process::of(7, &Stat::parse(line.as_bytes()).unwrap())
        };
        let process = of(0x40_0000).unwrap();
        let expected = Process {
            number: 7,
            parent: 3,
            ticks: 10,
            resident_pages: 12,
        };
        assert_eq!(process, expected);
        assert_eq!(of(0x20_8040), None);
    }

    #[test]
    fn a_tree_is_counted_once() {
        let process = |number, parent| Process {
            number,
            parent,
            ticks: 1,
            resident_pages: 1,
        };
        let all = [
            process(5, 4),
            process(1, 0),
            process(4, 3),
            process(3, 1),
            process(9, 1),
        ];
        let numbers: Vec<_> = below(3, &all)
            .iter()
            .map(|process| process.number)
            .collect();
        assert_eq!(numbers, [5, 4, 3]);
    }

    #[test]
    fn this_process_uses_something() {
        let usage = measure(false, None);
        assert!(
            usage.memory_bytes.is_some_and(|bytes| bytes > 100_000),
            "{usage:?}"
        );
        assert!(usage.processes > 0, "{usage:?}");
    }
}
