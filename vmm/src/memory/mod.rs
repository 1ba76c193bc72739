//! Guest memory: what backs it and where files are put in it.
//!
//! Guest RAM is private anonymous memory that the host hands out page by page, on first touch: what
//! the guest never uses never becomes resident. The kernel and the initramfs are not read into it but
//! laid over it as private mappings of their files, so loading them costs a system call and no copy.

mod mapping;

use std::fs::File;
use std::io;

use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap,
    GuestMemoryRegion, GuestRegionCollectionError, GuestRegionMmap, GuestUsize,
    atomic::GuestMemoryAtomic,
};

pub use mapping::HostPages;

/// The guest's memory map.
pub type GuestRam = GuestMemoryMmap<()>;

/// A handle to the guest's memory that devices hold and clone.
pub type GuestRamHandle = GuestMemoryAtomic<GuestRam>;

/// The size of a page on host and guest.
pub const PAGE_SIZE: u64 = 4096;

/// How the host backs the guest's anonymous memory: the one switch to measure either way.
///
/// Huge pages save page faults (one for 2 MiB instead of 512) and TLB misses, and cost resident
/// memory: touching one byte makes 2 MiB resident.
pub const GUEST_PAGES: HostPages = HostPages::Small;

/// Guest memory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host refused the mapping.
    #[error("mapping {size} bytes of guest memory at {at:#x}")]
    Map {
        /// Guest address of the region.
        at: u64,
        /// Its size.
        size: u64,
        /// Why.
        #[source]
        source: MmapRegionError,
    },
    /// The regions do not make a memory map.
    #[error("arranging the guest's memory map")]
    Arrange(#[source] GuestRegionCollectionError),
    /// The host refused advice on how to back the memory.
    #[error("choosing the page size of guest memory")]
    Advise(#[source] rustix::io::Errno),
    /// A file does not fit where it should go.
    #[error("no guest memory at {at:#x} for {size} bytes")]
    OutOfRange {
        /// Guest address.
        at: u64,
        /// Number of bytes.
        size: u64,
    },
    /// The host refused to map the file.
    #[error("mapping {size} bytes of a file at guest address {at:#x}")]
    MapFile {
        /// Guest address.
        at: u64,
        /// Number of bytes.
        size: u64,
        /// Why.
        #[source]
        source: rustix::io::Errno,
    },
    /// The file could not be read.
    #[error("reading a file to guest address {at:#x}")]
    ReadFile {
        /// Guest address.
        at: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Guest memory could not be written.
    #[error("writing guest memory at {at:#x}")]
    Write {
        /// Guest address.
        at: u64,
        /// Why.
        #[source]
        source: GuestMemoryError,
    },
}

/// Maps guest RAM at the given ranges, lowest first.
///
/// # Errors
/// When the host refuses the mapping.
pub fn allocate(ranges: &[(GuestAddress, u64)]) -> Result<GuestRam, MemoryError> {
    let mut regions = Vec::with_capacity(ranges.len());
    for &(at, size) in ranges {
        let out_of_range = || MemoryError::OutOfRange {
            at: at.raw_value(),
            size,
        };
        let length = usize::try_from(size).map_err(|_| out_of_range())?;
        let mapping = mapping::anonymous(length).map_err(|source| MemoryError::Map {
            at: at.raw_value(),
            size,
            source,
        })?;
        mapping::advise(&mapping, GUEST_PAGES).map_err(MemoryError::Advise)?;
        regions.push(GuestRegionMmap::new(mapping, at).ok_or_else(out_of_range)?);
    }
    GuestRam::from_regions(regions).map_err(MemoryError::Arrange)
}

/// Puts `size` bytes of `file`, from `offset` on, at guest address `at`.
///
/// Whole pages are mapped privately from the file where file offset and address allow it; the rest is
/// copied. The file must not shrink while the machine lives: the host would end it with SIGBUS.
///
/// # Errors
/// When the place is not in guest memory, or the host cannot map or read the file.
pub fn place_file(
    ram: &GuestRam,
    at: GuestAddress,
    file: &File,
    offset: u64,
    size: u64,
) -> Result<(), MemoryError> {
    let out_of_range = || MemoryError::OutOfRange {
        at: at.raw_value(),
        size,
    };
    let end = at.checked_add(size).ok_or_else(out_of_range)?;
    let file_end = offset.checked_add(size).ok_or_else(out_of_range)?;
    if offset % PAGE_SIZE != at.raw_value() % PAGE_SIZE {
        return copy_file(ram, at, file, offset, size);
    }
    let first_page = at
        .raw_value()
        .next_multiple_of(PAGE_SIZE)
        .min(end.raw_value());
    let after_pages = (end.raw_value() & !(PAGE_SIZE - 1)).max(first_page);
    let (head, pages) = (first_page - at.raw_value(), after_pages - first_page);
    copy_file(ram, at, file, offset, head)?;
    if pages > 0 {
        check_length(file, file_end).map_err(|source| MemoryError::ReadFile {
            at: at.raw_value(),
            source,
        })?;
        mapping::overlay(ram, GuestAddress(first_page), file, offset + head, pages)?;
    }
    let tail = end.raw_value() - after_pages;
    copy_file(ram, GuestAddress(after_pages), file, file_end - tail, tail)
}

/// Writes bytes to guest memory.
///
/// # Errors
/// When the place is not in guest memory.
pub fn write(ram: &GuestRam, at: GuestAddress, bytes: &[u8]) -> Result<(), MemoryError> {
    ram.write_slice(bytes, at)
        .map_err(|source| MemoryError::Write {
            at: at.raw_value(),
            source,
        })
}

/// A mapping beyond the end of its file would end the VMM on first touch; reading only fails.
fn check_length(file: &File, needed: u64) -> io::Result<()> {
    if file.metadata()?.len() < needed {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

fn copy_file(
    ram: &GuestRam,
    at: GuestAddress,
    file: &File,
    offset: u64,
    size: u64,
) -> Result<(), MemoryError> {
    use std::os::unix::fs::FileExt;

    const CHUNK: u64 = 256 * 1024;
    let mut buffer = Vec::new();
    let mut done = 0;
    while done < size {
        let now = CHUNK.min(size - done);
        buffer.resize(usize::try_from(now).unwrap_or_default(), 0);
        let to = at.checked_add(done).ok_or(MemoryError::OutOfRange {
            at: at.raw_value(),
            size,
        })?;
        file.read_exact_at(&mut buffer, offset + done)
            .map_err(|source| MemoryError::ReadFile {
                at: to.raw_value(),
                source,
            })?;
        write(ram, to, &buffer)?;
        done += now;
    }
    Ok(())
}

/// The number of bytes of RAM from `at` to the end of its region.
#[must_use]
pub fn room_at(ram: &GuestRam, at: GuestAddress) -> GuestUsize {
    ram.find_region(at)
        .and_then(|region| region.last_addr().checked_offset_from(at))
        .map_or(0, |last| last + 1)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn ram() -> GuestRam {
        allocate(&[(GuestAddress(0), 4 << 20)]).unwrap()
    }

    fn read(ram: &GuestRam, at: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    #[test]
    fn placed_file_reads_back_and_the_bytes_after_it_stay_zero() {
        let content: Vec<u8> = (0..3 * 4096 + 100)
            .map(|i: u32| i.to_le_bytes()[1] | 1)
            .collect();
        let mut padded = content.clone();
        padded.extend_from_slice(&[0xee; 5000]);
        let (ram, file) = (ram(), file_of(&padded));
        let size = content.len() as u64;

        for at in [0x10_0000, 0x20_0123] {
            place_file(&ram, GuestAddress(at), &file, 0, size).unwrap();
            assert_eq!(read(&ram, at, content.len()), content);
            assert_eq!(read(&ram, at + size, 64), [0; 64]);
        }
    }

    #[test]
    fn congruent_but_unaligned_part_of_a_file_is_placed_whole() {
        let content: Vec<u8> = (0..5 * 4096_u32).map(|i| i.to_le_bytes()[0]).collect();
        let (ram, file) = (ram(), file_of(&content));

        place_file(&ram, GuestAddress(0x10_0010), &file, 0x10, 3 * 4096).unwrap();

        assert_eq!(
            read(&ram, 0x10_0010, 3 * 4096),
            content[0x10..0x10 + 3 * 4096]
        );
        assert_eq!(read(&ram, 0x10_0000, 0x10), [0; 0x10]);
    }

    #[test]
    fn guest_writes_do_not_reach_the_file() {
        let (ram, file) = (ram(), file_of(&[7; 4096]));
        place_file(&ram, GuestAddress(0x1000), &file, 0, 4096).unwrap();

        ram.write_slice(&[1; 16], GuestAddress(0x1000)).unwrap();

        let mut first = [0; 16];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut first, 0).unwrap();
        assert_eq!(first, [7; 16]);
    }

    #[test]
    fn file_beyond_memory_is_refused() {
        let (ram, file) = (ram(), file_of(&[7; 8192]));
        let end = GuestAddress((4 << 20) - 4096);
        assert!(matches!(
            place_file(&ram, end, &file, 0, 8192),
            Err(MemoryError::OutOfRange { .. })
        ));
    }

    #[test]
    fn truncated_file_is_an_error() {
        let (ram, file) = (ram(), file_of(&[7; 10]));
        assert!(matches!(
            place_file(&ram, GuestAddress(0x1000), &file, 0, 100),
            Err(MemoryError::ReadFile { .. })
        ));
    }

    #[test]
    fn room_ends_with_the_region() {
        let ram = ram();
        assert_eq!(room_at(&ram, GuestAddress(0x1000)), (4 << 20) - 0x1000);
        assert_eq!(room_at(&ram, GuestAddress(8 << 20)), 0);
    }
}
