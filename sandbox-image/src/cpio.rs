//! Writes cpio archives of the format newc, as Linux unpacks them into its first root.
//!
//! Format: Linux, Documentation/driver-api/early-userspace/buffer-format.rst. Every header field is
//! eight hexadecimal digits; names and contents begin at multiples of four. All times are zero and
//! inode numbers count up, so that the same files always make the same archive.

/// The format's magic number: newc, without checksums.
const MAGIC: &str = "070701";

/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// The longest name (`PATH_MAX` of Linux, with the final zero): longer ones are skipped unpacking.
const MAX_NAME: usize = 4096;

/// The bits of a mode that say what a file is (POSIX, `sys/stat.h`).
const S_IFDIR: u32 = 0o040_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFREG: u32 = 0o100_000;

/// A file that no archive can hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CpioError {
    /// Its name is empty, absolute, too long, or the one that ends archives.
    #[error("`{0}` cannot be a name in a cpio archive")]
    Name(String),
    /// It is too long.
    #[error("`{name}` has {size} bytes; a cpio archive holds files of less than 4 GiB")]
    Size {
        /// Its name.
        name: String,
        /// Its length.
        size: usize,
    },
}

/// An archive being written. All files belong to root.
#[derive(Debug, Clone, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

/// What the header of a file says.
#[derive(Debug, Clone, Copy, Default)]
struct Header {
    mode: u32,
    device: (u32, u32),
}

impl Archive {
    /// Adds a folder. The folders above it must have been added before.
    ///
    /// # Errors
    /// [`CpioError::Name`].
    pub fn folder(&mut self, name: &str, permissions: u32) -> Result<(), CpioError> {
        let header = Header {
            mode: S_IFDIR | permissions,
            ..Header::default()
        };
        self.entry(name, header, &[])
    }

    /// Adds a regular file.
    ///
    /// # Errors
    /// [`CpioError`], if it fits no archive.
    pub fn file(&mut self, name: &str, permissions: u32, bytes: &[u8]) -> Result<(), CpioError> {
        let header = Header {
            mode: S_IFREG | permissions,
            ..Header::default()
        };
        self.entry(name, header, bytes)
    }

    /// Adds a character device.
    ///
    /// # Errors
    /// [`CpioError::Name`].
    pub fn character_device(
        &mut self,
        name: &str,
        permissions: u32,
        device: (u32, u32),
    ) -> Result<(), CpioError> {
        let header = Header {
            mode: S_IFCHR | permissions,
            device,
        };
        self.entry(name, header, &[])
    }

    /// The finished archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.push(TRAILER, Header::default(), 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, header: Header, bytes: &[u8]) -> Result<(), CpioError> {
        let sound = !name.is_empty()
            && name.len() < MAX_NAME
            && !name.starts_with('/')
            && !name.contains('\0')
            && name != TRAILER;
        if !sound {
            return Err(CpioError::Name(name.to_owned()));
        }
        let size = u32::try_from(bytes.len()).map_err(|_| CpioError::Size {
            name: name.to_owned(),
            size: bytes.len(),
        })?;
        self.entries += 1;
        self.push(name, header, size, bytes);
        Ok(())
    }

    fn push(&mut self, name: &str, header: Header, size: u32, bytes: &[u8]) {
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let links = 1;
        let (owner, group, time, checksum) = (0, 0, 0, 0);
        let (device_of_file, (major, minor)) = ((0, 0), header.device);
        let fields = [
            self.entries,
            header.mode,
            owner,
            group,
            links,
            time,
            size,
            device_of_file.0,
            device_of_file.1,
            major,
            minor,
            name_size,
            checksum,
        ];
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Entry {
        name: String,
        mode: u32,
        device: (u32, u32),
        content: Vec<u8>,
    }

    /// Reads an archive as the kernel does: up to the trailer.
    fn read(mut bytes: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        loop {
            let (header, rest) = bytes.split_at(110);
            assert_eq!(&header[..6], MAGIC.as_bytes());
            let field = |n: usize| {
                let digits = std::str::from_utf8(&header[6 + n * 8..14 + n * 8]).unwrap();
                u32::from_str_radix(digits, 16).unwrap()
            };
            let name_size = field(11) as usize;
            let name = String::from_utf8(rest[..name_size - 1].to_vec()).unwrap();
            assert_eq!(rest[name_size - 1], 0);
            let content = (110 + name_size).next_multiple_of(4) - 110;
            let size = field(6) as usize;
            if name == TRAILER {
                return entries;
            }
            entries.push(Entry {
                name,
                mode: field(1),
                device: (field(9), field(10)),
                content: rest[content..content + size].to_vec(),
            });
            bytes = &rest[content + size.next_multiple_of(4)..];
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            files in prop::collection::vec(("[a-z]{1,20}", 0_u32..0o7777, any::<Vec<u8>>()), 0..5),
        ) {
            let mut archive = Archive::default();
            for (name, permissions, bytes) in &files {
                archive.file(name, *permissions, bytes).unwrap();
            }
            let expected: Vec<_> = files
                .into_iter()
                .map(|(name, permissions, content)| Entry {
                    name,
                    mode: S_IFREG | permissions,
                    device: (0, 0),
                    content,
                })
                .collect();
            prop_assert_eq!(read(&archive.finish()), expected);
        }

        #[test]
        fn any_name_is_taken_or_refused(name: String) {
            let mut archive = Archive::default();
            if archive.folder(&name, 0o755).is_ok() {
                prop_assert_eq!(&read(&archive.finish())[0].name, &name);
            }
        }
    }

    #[test]
    fn devices_keep_their_numbers() {
        let mut archive = Archive::default();
        archive.character_device("console", 0o600, (5, 1)).unwrap();
        let expected = Entry {
            name: "console".to_owned(),
            mode: S_IFCHR | 0o600,
            device: (5, 1),
            content: Vec::new(),
        };
        assert_eq!(read(&archive.finish()), [expected]);
    }

    #[test]
    fn cpio_lists_the_archive() {
        let mut archive = Archive::default();
        archive.folder("dev", 0o755).unwrap();
        archive
            .character_device("dev/console", 0o600, (5, 1))
            .unwrap();
        archive.file("init", 0o755, b"#!/bin/sh").unwrap();
        let spawned = Command::new("cpio")
            .args(["--list", "--verbose", "--numeric-uid-gid", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut cpio) = spawned else {
            eprintln!("skipped: cpio is not installed");
            return;
        };
        cpio.stdin
            .take()
            .unwrap()
            .write_all(&archive.finish())
            .unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());
        let list = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<_> = list.lines().collect();
        assert!(
            lines[0].starts_with("drwxr-xr-x") && lines[0].ends_with(" dev"),
            "{list}"
        );
        assert!(
            lines[1].starts_with("crw-------") && lines[1].contains("5,"),
            "{list}"
        );
        assert!(
            lines[2].starts_with("-rwxr-xr-x") && lines[2].ends_with(" init"),
            "{list}"
        );
    }
}
