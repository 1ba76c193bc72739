//! The initramfs of a guest with a stock distribution kernel: the agent, behind an init that loads
//! the modules with which that kernel finds its devices and its root.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::parts::Parts;

/// Loads the modules in the order of their numbers, leaves no trace, becomes the agent.
const INIT: &str = "#!/bin/busybox sh
for module in /modules/*.ko; do
    /bin/busybox insmod \"$module\"
done
/bin/busybox rm -r /modules
exec /sovereign-agent \"$@\"
";

/// `S_IFDIR`, `S_IFREG` and `S_IFCHR` of `stat(2)`, as cpio's `newc` format carries them.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// Returns a cpio archive that boots `agent` under the stock kernel of `parts`.
///
/// # Errors
///
/// If a file cannot be read.
pub fn stock(parts: &Parts, agent: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "proc", "sys", "modules"] {
        archive.add(folder, DIRECTORY | 0o755, (0, 0), b"");
    }
    archive.add("dev/console", CHARACTER_DEVICE | 0o600, (5, 1), b"");
    archive.add("init", REGULAR | 0o755, (0, 0), INIT.as_bytes());
    archive.add("sovereign-agent", REGULAR | 0o755, (0, 0), &read(agent)?);
    archive.add(
        "bin/busybox",
        REGULAR | 0o755,
        (0, 0),
        &read(&parts.busybox())?,
    );
    for (index, module) in parts.guest_modules().iter().enumerate() {
        archive.add(
            &format!("modules/{index:02}.ko"),
            REGULAR | 0o644,
            (0, 0),
            &read(module)?,
        );
    }
    Ok(archive.finish())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A cpio archive in the `newc` format (Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: usize,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        self.entries += 1;
        let (inode, size, name_size) = (self.entries, content.len(), name.len() + 1);
        let links = 1;
        let header = format!(
            "070701{inode:08X}{mode:08X}{:08X}{:08X}{links:08X}{:08X}{size:08X}{:08X}{:08X}\
             {major:08X}{minor:08X}{name_size:08X}{:08X}",
            0, 0, 0, 0, 0, 0
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, (0, 0), b"");
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_has_the_newc_layout() {
        let mut archive = Archive::default();
        archive.add("init", REGULAR | 0o755, (0, 0), b"abc");
        let bytes = archive.finish();
        assert!(bytes.starts_with(b"07070100000001000081ED"));
        assert_eq!(&bytes[110..115], b"init\0");
        // Header and name are padded to four bytes together: 110 + 5 becomes 116.
        assert_eq!(&bytes[116..120], b"abc\0");
        assert!(bytes[120..].starts_with(b"070701"));
        assert_eq!(bytes.len() % 4, 0);
    }
}
