//! From files to a guest that is ready to run: kernel, initramfs, command line, start information.
//!
//! Two kinds of kernel are taken. An ELF `vmlinux` is entered by PVH, which needs nothing but a memory
//! map and has nothing to unpack. A `bzImage`, which distributions ship, unpacks itself and
//! is entered by the 64-bit Linux/x86 boot protocol. Kernels come from outside: every number in them is
//! an allegation.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use vm_memory::GuestAddress;

use super::registers::EntryMode;
use super::{bzimage, elf, layout, pvh};
use crate::devices::power::RESET_COMMAND;
use crate::memory::{self, GuestRam, MemoryError, PAGE_SIZE};

/// What a guest is to run.
#[derive(Debug)]
pub struct Payload<'a> {
    /// The kernel.
    pub kernel: &'a File,
    /// The initial RAM file system.
    pub initramfs: Option<&'a File>,
    /// The command line with its terminating zero.
    pub cmdline: &'a [u8],
    /// Where ACPI's root pointer lies, if the machine is described by ACPI.
    pub rsdp: Option<GuestAddress>,
}

/// All the firmware there is: `mov al, 0xfe; out 0x64, al; hlt; jmp` back to it.
///
/// A kernel that knows no other way to restart jumps to the firmware in real mode. Linux does so by
/// default when ACPI says "hardware-reduced" and there is no EFI; in zeroed memory it would run for ever.
const RESET_CODE: [u8; 7] = [0xb0, RESET_COMMAND, 0xe6, 0x64, 0xf4, 0xeb, 0xfd];

/// How the boot vCPU enters the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub(super) mode: EntryMode,
    pub(super) address: GuestAddress,
}

/// A file that lies in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) start: GuestAddress,
    pub(super) size: u64,
}

/// A kernel or initramfs cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel could not be read.
    #[error("reading the kernel")]
    ReadKernel(#[source] io::Error),
    /// The kernel is something else.
    #[error("the kernel is neither an ELF vmlinux nor a bzImage")]
    UnknownFormat,
    /// The kernel is for another processor.
    #[error("the kernel is not for 64-bit x86")]
    WrongMachine,
    /// The kernel's headers contradict themselves.
    #[error("the kernel is malformed: {0}")]
    Malformed(&'static str),
    /// The kernel ends early.
    #[error("the kernel is truncated: it has {found} bytes, and its headers speak of {needed}")]
    Truncated {
        /// The file's size.
        found: u64,
        /// The size that it should have.
        needed: u64,
    },
    /// An ELF kernel without a PVH entry point.
    #[error("the ELF kernel has no PVH entry point")]
    NoPvhNote,
    /// A bzImage that cannot be entered in 64-bit mode.
    #[error("the bzImage cannot be entered in 64-bit mode (boot protocol {version:#x})")]
    NoEntry64 {
        /// Its boot protocol version.
        version: u16,
    },
    /// The guest has too little memory.
    #[error(
        "the kernel and initramfs need {needed_mib} MiB of guest memory, and there are {found_mib}"
    )]
    TooLittleMemory {
        /// MiB that it needs.
        needed_mib: u64,
        /// MiB below the device gap.
        found_mib: u64,
    },
    /// The initramfs could not be read.
    #[error("reading the initramfs")]
    ReadInitramfs(#[source] io::Error),
    /// The initramfs has no content.
    #[error("the initramfs is empty")]
    EmptyInitramfs,
    /// Guest memory could not be written.
    #[error("loading the kernel")]
    Memory(#[from] MemoryError),
}

impl LoadError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoPvhNote => Some("build the kernel with CONFIG_PVH=y, or give its bzImage"),
            Self::NoEntry64 { .. } => Some("use a 64-bit kernel, Linux 3.8 or later"),
            Self::UnknownFormat => Some(
                "give an uncompressed vmlinux built with CONFIG_PVH=y, or a bzImage (vmlinuz of a \
                 distribution)",
            ),
            Self::Truncated { .. } | Self::Malformed(_) => {
                Some("the file is damaged: build or download the kernel again")
            }
            Self::TooLittleMemory { .. } => Some("give the machine more memory"),
            Self::ReadKernel(_)
            | Self::WrongMachine
            | Self::ReadInitramfs(_)
            | Self::EmptyInitramfs
            | Self::Memory(_) => None,
        }
    }
}

/// Loads all of the payload into guest memory of `ram_size` bytes.
///
/// # Errors
/// When a file is not what it should be, or memory is too small.
pub fn load(ram: &GuestRam, ram_size: u64, payload: &Payload<'_>) -> Result<Entry, LoadError> {
    memory::write(ram, layout::RESET_VECTOR, &RESET_CODE)?;
    memory::write(ram, layout::COMMAND_LINE, payload.cmdline)?;
    let low_end = ram_size.min(layout::DEVICE_GAP.0);
    let kernel = Source::of(payload.kernel).map_err(LoadError::ReadKernel)?;
    if kernel.is_elf()? {
        let image = elf::load(ram, low_end, &kernel)?;
        // Right behind the kernel, in huge pages that the kernel's end begins.
        let room = image.end..low_end;
        let initramfs = place_initramfs(ram, payload.initramfs, room, Corner::Lowest)?;
        pvh::write_start_info(ram, ram_size, payload, initramfs)?;
        return Ok(Entry {
            mode: EntryMode::Pvh,
            address: image.entry,
        });
    }
    let image = bzimage::load(ram, low_end, &kernel)?;
    // It unpacks itself, and takes more room than its header says when it looks for a place.
    let room = image.end()..low_end.min(image.initramfs_limit());
    let initramfs = place_initramfs(ram, payload.initramfs, room, Corner::Highest)?;
    bzimage::write_zero_page(ram, ram_size, &image, payload, initramfs)?;
    Ok(Entry {
        mode: EntryMode::Linux64,
        address: image.entry(),
    })
}

/// Which end of the free room an initramfs is put at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Corner {
    Lowest,
    Highest,
}

/// Puts the initramfs at one end of the room that the kernel leaves.
fn place_initramfs(
    ram: &GuestRam,
    file: Option<&File>,
    room: Range<u64>,
    corner: Corner,
) -> Result<Option<Placed>, LoadError> {
    let Some(file) = file else { return Ok(None) };
    let size = file.metadata().map_err(LoadError::ReadInitramfs)?.len();
    if size == 0 {
        return Err(LoadError::EmptyInitramfs);
    }
    let highest = room.end.checked_sub(size);
    let highest = highest.map(|start| start & !(PAGE_SIZE - 1));
    let lowest = room.start.checked_next_multiple_of(PAGE_SIZE);
    let start = match (lowest, highest) {
        (Some(lowest), Some(highest)) if lowest <= highest => match corner {
            Corner::Lowest => lowest,
            Corner::Highest => highest,
        },
        _ => return Err(too_little_memory(room.start.saturating_add(size), room.end)),
    };
    let placed = Placed {
        start: GuestAddress(start),
        size,
    };
    memory::place_file(ram, placed.start, file, 0, size)?;
    Ok(Some(placed))
}

pub(super) fn too_little_memory(needed: u64, found: u64) -> LoadError {
    const MIB: u64 = 1 << 20;
    LoadError::TooLittleMemory {
        needed_mib: needed.div_ceil(MIB),
        found_mib: found / MIB,
    }
}

/// A kernel file and its size.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub(super) file: &'a File,
    pub(super) size: u64,
}

impl<'a> Source<'a> {
    pub(super) fn of(file: &'a File) -> io::Result<Self> {
        Ok(Self {
            file,
            size: file.metadata()?.len(),
        })
    }

    /// Fails with [`LoadError::Truncated`] when the file ends before `needed` bytes.
    pub(super) fn require(&self, needed: u64) -> Result<(), LoadError> {
        if self.size < needed {
            return Err(LoadError::Truncated {
                found: self.size,
                needed,
            });
        }
        Ok(())
    }

    pub(super) fn read<const N: usize>(&self, offset: u64) -> Result<[u8; N], LoadError> {
        let mut bytes = [0; N];
        self.read_into(&mut bytes, offset)?;
        Ok(bytes)
    }

    pub(super) fn read_into(&self, bytes: &mut [u8], offset: u64) -> Result<(), LoadError> {
        let needed = offset
            .checked_add(bytes.len() as u64)
            .ok_or(LoadError::Malformed("an offset is out of range"))?;
        self.require(needed)?;
        self.file
            .read_exact_at(bytes, offset)
            .map_err(LoadError::ReadKernel)
    }

    fn is_elf(&self) -> Result<bool, LoadError> {
        if self.size < 4 {
            return Err(LoadError::UnknownFormat);
        }
        Ok(self.read::<4>(0)? == *b"\x7fELF")
    }
}
