//! What a cgroup's files tell of its processes, in both versions. Whoever asks reads the files.

use std::time::Duration;

/// A version 1 limit above this is none: it is the largest number of pages (mm/memcontrol.c).
const NO_LIMIT: u64 = 1 << 60;

/// What a cgroup's processes use. What it does not tell is `None`, never zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CgroupUsage {
    /// CPU time so far.
    pub cpu: Option<Duration>,
    /// Memory that is charged to it.
    pub memory_bytes: Option<u64>,
    /// How much of that is file cache that was not used lately.
    pub inactive_file_bytes: Option<u64>,
    /// The most memory that it may have.
    pub memory_limit_bytes: Option<u64>,
    /// Read from disks so far.
    pub read_bytes: Option<u64>,
    /// Written to disks so far.
    pub written_bytes: Option<u64>,
}

impl CgroupUsage {
    /// By a folder of version 2 (Documentation/admin-guide/cgroup-v2.rst), whose files `read` knows by
    /// name. `None` if it is none, or the root, which does not count memory.
    #[must_use]
    pub fn version_2(read: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let memory = number(&read("memory.current")?)?;
        let io = read("io.stat");
        let moved = |name: &str| {
            let words = io.as_deref()?.split_ascii_whitespace();
            Some(sum(
                words.filter_map(|word| word.strip_prefix(name)?.parse().ok())
            ))
        };
        Some(Self {
            cpu: read("cpu.stat")
                .and_then(|text| field(&text, "usage_usec"))
                .map(Duration::from_micros),
            memory_bytes: Some(memory),
            inactive_file_bytes: read("memory.stat").and_then(|text| field(&text, "inactive_file")),
            memory_limit_bytes: read("memory.max").and_then(|text| number(&text)),
            read_bytes: moved("rbytes="),
            written_bytes: moved("wbytes="),
        })
    }

    /// By the folders of version 1 (Documentation/admin-guide/cgroup-v1), whose files `read` knows by
    /// controller and name. `None` if memory is not counted.
    #[must_use]
    pub fn version_1(read: impl Fn(&str, &str) -> Option<String>) -> Option<Self> {
        let memory = number(&read("memory", "memory.usage_in_bytes")?)?;
        let io = read("blkio", "blkio.throttle.io_service_bytes_recursive");
        let moved = |what: &str| {
            let lines = io.as_deref()?.lines().map(str::split_ascii_whitespace);
            Some(sum(lines.filter_map(|mut line| {
                (line.nth(1)? == what).then_some(line)?.next()?.parse().ok()
            })))
        };
        Some(Self {
            cpu: read("cpuacct", "cpuacct.usage")
                .and_then(|text| number(&text))
                .map(Duration::from_nanos),
            memory_bytes: Some(memory),
            inactive_file_bytes: read("memory", "memory.stat")
                .and_then(|text| field(&text, "total_inactive_file")),
            memory_limit_bytes: read("memory", "memory.limit_in_bytes")
                .and_then(|text| number(&text))
                .filter(|limit| *limit < NO_LIMIT),
            read_bytes: moved("Read"),
            written_bytes: moved("Write"),
        })
    }

    /// Memory in use, without what the kernel could take back at once.
    #[must_use]
    pub fn memory_in_use(&self) -> Option<u64> {
        let inactive = self.inactive_file_bytes.unwrap_or_default();
        Some(self.memory_bytes?.saturating_sub(inactive))
    }
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn sum(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find_map(|(known, value)| (known == name).then(|| number(value))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> CgroupUsage {
        CgroupUsage {
            cpu: Some(Duration::from_micros(1500)),
            memory_bytes: Some(5000),
            inactive_file_bytes: Some(1200),
            memory_limit_bytes: Some(9000),
            read_bytes: Some(105),
            written_bytes: Some(8),
        }
    }

    #[test]
    fn version_2_is_read_by_its_files() {
        let files = |file: &str| {
            let text = match file {
                "cpu.stat" => "usage_usec 1500\nuser_usec 1000\n",
                "memory.current" => "5000\n",
                "memory.max" => "9000\n",
                "memory.stat" => "anon 3000\ninactive_file 1200\n",
                "io.stat" => "8:0 rbytes=100 wbytes=7 rios=1\n8:16 rbytes=5 wbytes=1\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        assert_eq!(CgroupUsage::version_2(files), Some(expected()));
        assert_eq!(expected().memory_in_use(), Some(3800));
        let unlimited = |file: &str| {
            (file == "memory.max")
                .then(|| "max".to_owned())
                .or(files(file))
        };
        let usage = CgroupUsage::version_2(unlimited).unwrap();
        assert_eq!(usage.memory_limit_bytes, None);
    }

    #[test]
    fn version_1_is_read_by_its_controllers() {
        let files = |controller: &str, file: &str| {
            let text = match (controller, file) {
                ("cpuacct", "cpuacct.usage") => "1500000\n",
                ("memory", "memory.usage_in_bytes") => "5000\n",
                ("memory", "memory.limit_in_bytes") => "9000\n",
                ("memory", "memory.stat") => "inactive_file 1\ntotal_inactive_file 1200\n",
                ("blkio", "blkio.throttle.io_service_bytes_recursive") => {
                    "8:0 Read 100\n8:0 Write 7\n8:0 Total 107\n8:16 Read 5\n8:16 Write 1\nTotal 113\n"
                }
                _ => return None,
            };
            Some(text.to_owned())
        };
        assert_eq!(CgroupUsage::version_1(files), Some(expected()));
    }

    #[test]
    fn what_is_not_told_is_not_zero() {
        assert_eq!(CgroupUsage::version_2(|_| None), None);
        assert_eq!(CgroupUsage::version_1(|_, _| None), None);
        let only_memory = |file: &str| (file == "memory.current").then(|| "7".to_owned());
        let usage = CgroupUsage::version_2(only_memory).unwrap();
        assert_eq!((usage.cpu, usage.read_bytes), (None, None));
    }
}
