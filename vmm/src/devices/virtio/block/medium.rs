//! What a disk keeps its data on.

use std::io;

use vm_memory::VolatileSlice;

/// What a disk keeps its data on: a row of sectors whose number never changes.
pub(super) trait Medium {
    /// How many sectors it has.
    fn sectors(&self) -> u64;

    /// Whether nothing can be written to it.
    fn is_read_only(&self) -> bool;

    /// Whether parts of it can be given back to the host.
    fn punches_holes(&self) -> bool;

    /// Reads some bytes at `offset` into guest memory. Zero bytes mean that there are none.
    fn read_at(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<usize>;

    /// Writes some bytes from guest memory at `offset`.
    fn write_at(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<usize>;

    /// Makes what was written safe against a crash of the host.
    fn sync(&self) -> io::Result<()>;

    /// Gives the storage of a range back; it reads as zeroes afterwards.
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes a range read as zeroes and keeps its storage, where that is possible.
    fn zero_range(&self, offset: u64, len: u64) -> io::Result<()>;
}
