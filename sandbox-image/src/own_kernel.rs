//! A kernel that the user brings, looked at to learn how to boot it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use memchr::memmem;

use crate::manifest::Discovery;

/// The largest kernel that is looked at. Distributions' with all symbols have some 60 MB.
const MAX_SIZE: u64 = 512 << 20;

/// What any kernel wants on its command line to fit our machine: no boot messages on the slow
/// console, and a panic ends the machine.
pub(crate) const CMDLINE: &str = "quiet console=ttyS0 panic=-1 reboot=t";

/// Linux, Documentation/arch/x86/boot.rst: `header` and its place, and where `kernel_version` is.
const SETUP_MAGIC: &[u8] = b"HdrS";
const SETUP_MAGIC_AT: usize = 0x202;
const VERSION_AT: usize = 0x20E;
const VERSION_BASE: usize = 0x200;

/// How an ELF file begins.
const ELF_MAGIC: &[u8] = b"\x7FELF";

/// The ACPI id that Linux' virtio-mmio driver looks for, if it was built with ACPI.
const ACPI_ID: &[u8] = b"LNRO0005";

/// How Linux begins its banner, which has the release in it.
const BANNER: &[u8] = b"Linux version ";

/// The longest release (`__NEW_UTS_LEN`).
const MAX_RELEASE: usize = 64;

/// What was learnt of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnKernel {
    /// How it finds its devices.
    pub discovery: Discovery,
    /// Its release.
    pub release: Option<String>,
}

/// A file cannot be a kernel.
#[derive(Debug, thiserror::Error)]
pub enum OwnKernelError {
    /// It could not be read.
    #[error("cannot read the kernel {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error(
        "{path} is no kernel that can be booted: neither an ELF `vmlinux` nor a `bzImage`",
        path = path.display()
    )]
    OtherFormat {
        /// The file.
        path: PathBuf,
    },
}

impl OwnKernel {
    /// Looks at a kernel.
    ///
    /// # Errors
    /// If it is none.
    pub fn examine(path: &Path) -> Result<Self, OwnKernelError> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_SIZE).read_to_end(&mut bytes))
            .map_err(|source| OwnKernelError::Io {
                path: path.to_owned(),
                source,
            })?;
        Self::parse(&bytes).ok_or_else(|| OwnKernelError::OtherFormat {
            path: path.to_owned(),
        })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(ELF_MAGIC) {
            let has_acpi = memmem::find(bytes, ACPI_ID).is_some();
            return Some(Self {
                discovery: if has_acpi {
                    Discovery::Acpi
                } else {
                    Discovery::CommandLine
                },
                release: memmem::find(bytes, BANNER)
                    .and_then(|at| release(bytes.get(at + BANNER.len()..)?)),
            });
        }
        let magic = bytes.get(SETUP_MAGIC_AT..)?.get(..SETUP_MAGIC.len())?;
        if magic != SETUP_MAGIC {
            return None;
        }
        // Compressed, so nothing can be looked for in it: distributions' kernels have ACPI.
        let offset = u16::from_le_bytes(*bytes.get(VERSION_AT..)?.first_chunk()?);
        let version = bytes.get(usize::from(offset) + VERSION_BASE..);
        Some(Self {
            discovery: Discovery::Acpi,
            release: version.filter(|_| offset != 0).and_then(release),
        })
    }
}

/// The release at the beginning of a banner: up to the first blank.
fn release(banner: &[u8]) -> Option<String> {
    let end = banner.iter().take(MAX_RELEASE).position(|&b| b == b' ')?;
    let text = std::str::from_utf8(banner.get(..end)?).ok()?;
    text.starts_with(|c: char| c.is_ascii_digit())
        .then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn elf_kernel_with_acpi_is_told_from_one_without() {
        let with = b"\x7FELF..Linux version 6.12.1-a (x)..LNRO0005..";
        let without = b"\x7FELF..Linux version 6.12.1-b (x)..";
        let with = OwnKernel::parse(with).unwrap();
        assert_eq!(with.discovery, Discovery::Acpi);
        assert_eq!(with.release.as_deref(), Some("6.12.1-a"));
        let without = OwnKernel::parse(without).unwrap();
        assert_eq!(without.discovery, Discovery::CommandLine);
        assert_eq!(without.release.as_deref(), Some("6.12.1-b"));
    }

    #[test]
    fn bz_image_says_its_release() {
        let mut bytes = vec![0; 0x400];
        bytes[0x202..0x206].copy_from_slice(b"HdrS");
        bytes[0x20E..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        bytes[0x300..0x310].copy_from_slice(b"6.12.9-amd64 (x)");
        let kernel = OwnKernel::parse(&bytes).unwrap();
        assert_eq!(kernel.discovery, Discovery::Acpi);
        assert_eq!(kernel.release.as_deref(), Some("6.12.9-amd64"));
    }

    #[test]
    fn other_files_are_no_kernels() {
        for bytes in [&b""[..], b"MZ", &[0; 0x400], b"#!/bin/sh\n"] {
            assert_eq!(OwnKernel::parse(bytes), None);
        }
    }

    proptest! {
        #[test]
        fn any_header_is_looked_at_without_a_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0x206..0x400),
        ) {
            bytes[SETUP_MAGIC_AT..SETUP_MAGIC_AT + 4].copy_from_slice(SETUP_MAGIC);
            let _ = OwnKernel::parse(&bytes);
        }
    }
}
