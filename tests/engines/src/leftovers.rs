//! What engines leave behind when they end.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

/// Podman's monitor of a container or of a command in one. That of a command stays for five minutes
/// after it, for somebody to ask how it ended.
const MONITOR: &str = "conmon";

/// Ends the monitors whose command line names the folder.
pub(crate) fn end_monitors(folder: &Path) {
    let needle = folder.as_os_str().as_encoded_bytes();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in entries.map(|entry| entry.path()) {
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        if name.trim_end() == MONITOR && line.windows(needle.len()).any(|part| part == needle) {
            let id = process
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok());
            // It may have ended by itself.
            let _ = id
                .and_then(Pid::from_raw)
                .map(|id| kill_process(id, Signal::KILL));
        }
    }
}

/// Takes away what an engine that has ended has left mounted below its folder: Podman does.
pub(crate) fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The newest are the last, and the innermost.
    for place in places(&mounts)
        .rev()
        .filter(|place| place.starts_with(folder))
    {
        // What cannot be unmounted stays, and is seen.
        let _ = Command::new("umount").arg("--lazy").arg(place).status();
    }
}

/// Where something is mounted: the fifth field of each line (proc_pid_mountinfo(5)).
fn places(mountinfo: &str) -> impl DoubleEndedIterator<Item = &Path> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(Path::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let text =
            "21 1 8:1 / / rw - ext4 /dev/sda rw\n30 21 0:5 / /tmp/x rw shared:1 - tmpfs t rw\n";
        let found: Vec<_> = places(text).collect();
        assert_eq!(found, [Path::new("/"), Path::new("/tmp/x")]);
    }
}
