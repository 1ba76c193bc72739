//! What can be seen of sandboxes on their host: processes, files, mounts, memory.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

/// The name of a VMM's process.
const VMM_NAME: &str = "sovereign-vmm";

/// The start of the names of all our processes.
const OUR_NAMES: &str = "sovereign";

/// Whether we were started with this signal ignored, as a shell's background jobs are with SIGINT, and
/// what is behind `nohup` with SIGHUP (proc(5), `SigIgn`): then what we start ignores it as well.
///
/// # Errors
///
/// If `/proc` cannot be read.
pub fn is_ignored(signal: Signal) -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read our own status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = u64::from_str_radix(mask.unwrap_or_default().trim(), 16)?;
    Ok(mask >> (signal.as_raw() - 1) & 1 == 1)
}

/// A process on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its parent's id.
    pub parent: u32,
    /// Its name: at most 15 bytes.
    pub name: String,
}

/// Returns every process. Those that end meanwhile are left out.
///
/// # Errors
///
/// If `/proc` cannot be read.
pub fn processes() -> Result<Vec<Process>> {
    let entries = fs::read_dir("/proc").context("cannot list /proc")?;
    Ok(entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            process(pid)
        })
        .collect())
}

/// Reads `proc_pid_stat(5)`: the name stands in parentheses and may hold anything.
fn process(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let parent = after.split_whitespace().nth(1)?.parse().ok()?;
    Some(Process {
        pid,
        parent,
        name: name.to_owned(),
    })
}

/// Returns the VMM process that `owner` started, waiting until there is one.
///
/// # Errors
///
/// If there is none within `patience`.
pub fn vmm_of(owner: u32, patience: Duration) -> Result<u32> {
    let end = Instant::now() + patience;
    while Instant::now() < end {
        let found = processes()?
            .into_iter()
            .find(|process| process.parent == owner && process.name.starts_with(VMM_NAME));
        if let Some(vmm) = found {
            return Ok(vmm.pid);
        }
        thread::sleep(Duration::from_millis(5));
    }
    bail!("process {owner} started no VMM within {patience:?}")
}

/// Returns whether a process is there, and not just its exit status.
#[must_use]
pub fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// What sandboxes could leave behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftovers {
    processes: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
    mounts: BTreeSet<String>,
    unix_sockets: usize,
}

impl Leftovers {
    /// Looks at the host: our processes, the mounts, the Unix sockets, and the files in the folders
    /// for temporary files and in `folders`.
    ///
    /// # Errors
    ///
    /// If the host cannot be looked at.
    pub fn look(folders: &[PathBuf]) -> Result<Self> {
        let ours = processes()?.into_iter().filter(|process| {
            process.name.starts_with(OUR_NAMES) && process.pid != std::process::id()
        });
        let mut files = BTreeSet::new();
        let temporary = ["/tmp", "/run", "/var/tmp", "/dev/shm"].map(PathBuf::from);
        // At the top only there: what others keep deeper is not ours, and may be a lot.
        for folder in &temporary {
            list(folder, 1, &mut files);
        }
        for folder in folders {
            list(folder, usize::MAX, &mut files);
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read mounts")?;
        let sockets = fs::read_to_string("/proc/net/unix").context("cannot read sockets")?;
        Ok(Self {
            processes: ours
                .map(|process| format!("{} {}", process.pid, process.name))
                .collect(),
            files,
            mounts: mounts.lines().map(str::to_owned).collect(),
            unix_sockets: sockets.lines().count(),
        })
    }

    /// Returns what is there now and was not there then, after giving processes that have been killed
    /// a second to end.
    ///
    /// # Errors
    ///
    /// If the host cannot be looked at.
    pub fn left_since(before: &Self, folders: &[PathBuf]) -> Result<Vec<String>> {
        let end = Instant::now() + Duration::from_secs(1);
        loop {
            let left = Self::look(folders)?.since(before);
            if left.is_empty() || Instant::now() > end {
                return Ok(left);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Returns what is there in `self` and was not there in `before`, one a line.
    #[must_use]
    pub fn since(&self, before: &Self) -> Vec<String> {
        let processes = self.processes.difference(&before.processes);
        let files = self.files.difference(&before.files);
        let mounts = self.mounts.difference(&before.mounts);
        let mut found: Vec<_> = processes.map(|name| format!("process {name}")).collect();
        found.extend(files.map(|path| format!("file {}", path.display())));
        found.extend(mounts.map(|mount| format!("mount {mount}")));
        if self.unix_sockets > before.unix_sockets {
            let more = self.unix_sockets - before.unix_sockets;
            found.push(format!("{more} Unix sockets"));
        }
        found
    }
}

/// Adds what is in a folder, `depth` levels deep. What cannot be read, or is gone meanwhile, is not
/// ours.
fn list(folder: &Path, depth: usize, files: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if depth > 1 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&entry.path(), depth - 1, files);
        }
        files.insert(entry.path());
    }
}

/// Returns a field of `/proc/PID/status` or `/proc/meminfo` that is given in KiB.
///
/// # Errors
///
/// If it cannot be read or has no such field.
pub fn kib_field(file: &str, field: &str) -> Result<u64> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .with_context(|| format!("{file} has no {field}"))?;
    let number = line.split_whitespace().next().unwrap_or_default();
    number
        .parse()
        .with_context(|| format!("{file}: {field} is {line:?}"))
}

/// Returns the resident memory of a process in KiB.
///
/// # Errors
///
/// If the process is gone.
pub fn resident_kib(pid: u32) -> Result<u64> {
    kib_field(&format!("/proc/{pid}/status"), "VmRSS")
}

/// Returns how many descriptors a process has open.
///
/// # Errors
///
/// If the process is gone or not ours.
pub fn open_descriptors(pid: u32) -> Result<usize> {
    Ok(descriptors(pid)?.len())
}

/// Returns what a process has open, each by what `/proc` calls it. Of one that was closed meanwhile the
/// name is empty.
///
/// # Errors
///
/// If the process is gone or not ours.
pub fn descriptors(pid: u32) -> Result<Vec<PathBuf>> {
    let folder = format!("/proc/{pid}/fd");
    let open = fs::read_dir(&folder).with_context(|| format!("cannot list {folder}"))?;
    let named = open.map(|entry| Ok(fs::read_link(entry?.path()).unwrap_or_default()));
    named.collect::<io::Result<_>>().with_context(|| folder)
}

/// Returns the private memory of a VMM in KiB, guest memory left out.
///
/// Guest memory is the one unbroken run of writable mappings that is as long as the guest's memory:
/// some of its pieces are the kernel's and the initramfs' own files.
///
/// # Errors
///
/// If the process is gone or not ours, or has no such run.
pub fn private_kib(pid: u32, guest_kib: u64) -> Result<u64> {
    let file = format!("/proc/{pid}/smaps");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    let mut mappings = parse_smaps(&text);
    let guest = guest_memory(&mappings, guest_kib * 1024)
        .with_context(|| format!("{file} has no guest memory of {guest_kib} KiB"))?;
    mappings.drain(guest);
    Ok(mappings.iter().map(|mapping| mapping.private_kib).sum())
}

/// A mapping of a process, as `/proc/PID/smaps` tells it.
#[derive(Debug)]
struct Mapping {
    start: u64,
    end: u64,
    writable: bool,
    private_kib: u64,
}

fn parse_smaps(text: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(first), second) = (words.next(), words.next().unwrap_or_default()) else {
            continue;
        };
        if let Some((start, end)) = address_range(first) {
            let writable = second.starts_with("rw");
            mappings.push(Mapping {
                start,
                end,
                writable,
                private_kib: 0,
            });
        } else if ["Private_Clean:", "Private_Dirty:"].contains(&first)
            && let (Some(mapping), Ok(kib)) = (mappings.last_mut(), second.parse::<u64>())
        {
            mapping.private_kib += kib;
        }
    }
    mappings
}

fn address_range(word: &str) -> Option<(u64, u64)> {
    let (start, end) = word.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?))
}

/// Finds the unbroken run of writable mappings of exactly this length.
fn guest_memory(mappings: &[Mapping], length: u64) -> Option<Range<usize>> {
    (0..mappings.len()).find_map(|first| {
        let start = mappings.get(first)?.start;
        let mut next = start;
        for (index, mapping) in mappings.iter().enumerate().skip(first) {
            if mapping.start != next || !mapping.writable || mapping.end - start > length {
                return None;
            }
            if mapping.end - start == length {
                return Some(first..index + 1);
            }
            next = mapping.end;
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
00400000-00500000 r-xp 00000000 103:01 42   /usr/bin/sovereign-vmm
Size:               1024 kB
Private_Clean:       100 kB
Private_Dirty:         8 kB
7f0000000000-7f0000100000 rw-p 00000000 00:00 0
Private_Clean:         0 kB
Private_Dirty:       500 kB
7f0000100000-7f0000200000 rw-p 00000000 103:01 7 /home/u/.local/share/sovereign/blobs/sha256/ab
Private_Clean:         4 kB
Private_Dirty:       600 kB
7f0009000000-7f0009010000 rw-p 00000000 00:00 0   [stack]
Private_Clean:         0 kB
Private_Dirty:        12 kB
";

    #[test]
    fn private_memory_leaves_out_guest_memory_and_its_files() {
        let mut mappings = parse_smaps(SMAPS);
        assert_eq!(guest_memory(&mappings, 1 << 20), Some(1..2));
        assert_eq!(guest_memory(&mappings, 3 << 20), None);
        let guest = guest_memory(&mappings, 2 << 20).unwrap();
        assert_eq!(guest, 1..3);
        mappings.drain(guest);
        assert_eq!(
            mappings
                .iter()
                .map(|mapping| mapping.private_kib)
                .sum::<u64>(),
            120
        );
    }

    #[test]
    fn we_see_ourselves() {
        let us = processes()
            .unwrap()
            .into_iter()
            .find(|p| p.pid == std::process::id())
            .unwrap();
        assert_eq!(us.parent, std::os::unix::process::parent_id());
        assert!(is_running(us.pid));
        assert!(resident_kib(us.pid).unwrap() > 100);
        assert!(open_descriptors(us.pid).unwrap() >= 3);
    }

    #[test]
    fn a_new_file_is_a_leftover() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().to_owned()];
        let before = Leftovers::look(&folders).unwrap();
        fs::write(folder.path().join("left"), "").unwrap();
        let found = Leftovers::look(&folders).unwrap().since(&before);
        assert!(
            found.iter().any(|line| line.ends_with("/left")),
            "{found:?}"
        );
    }
}
