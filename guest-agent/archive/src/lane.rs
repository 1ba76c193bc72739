//! A lane: memory beside a session's stream, through which its bulk data goes.
//!
//! ```text
//!            slot 0   slot 1                          SLOT_LEN bytes each, used in turn
//!  writer ──▶ ▓▓▓▓     ▓▓░░  ──────────────────▶ reader
//!     │  ── "a slot with n bytes", "n bytes: ..." ──▶ │          the stream's one direction
//!     └◀──────── a byte for each slot that is free ───┘          the other
//! ```
//!
//! A stream is cut into frames, packets and pipes on its way; what goes through a slot is put there and
//! taken from there, and told of in four bytes. Little things go in the stream itself.
//!
//! The other side may be hostile: what it says is checked, and what is in a slot that it can still write
//! to is copied, once, before it is looked at.

#[cfg(target_os = "linux")]
mod memory;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::io::{self, Read, Write};

#[cfg(target_os = "linux")]
pub use self::memory::Memory;
pub use self::reader::LaneReader;
pub use self::writer::LaneWriter;

/// The length of a slot in bytes: so much that telling of it costs nothing beside copying it, and so
/// little that making the memory does not, either.
pub const SLOT_LEN: usize = 1024 * 1024;
/// How many slots a lane has: one to fill while the other is read.
pub const SLOTS: usize = 2;
/// The length of a lane's memory in bytes.
pub const LANE_LEN: u64 = (SLOTS * SLOT_LEN) as u64;

/// Which lane of a virtual machine is a connection's that the host has started from this port of its own: a
/// port that nobody else uses meanwhile. Lanes lie on the machine's lane disk one behind the other.
#[must_use]
pub const fn number_of_host_port(port: u32) -> u64 {
    port as u64
}

/// The same for one that the guest has started.
#[must_use]
pub const fn number_of_guest_port(port: u32) -> u64 {
    1 << 32 | port as u64
}

/// What is no longer than this goes in the stream.
pub const INLINE_LEN: usize = 16 * 1024;
/// A record with this bit tells of a slot; one without it is followed by its bytes.
const IN_SLOT: u32 = 1 << 31;
/// What says that a slot is free again. Only how many of them come matters.
const FREE: u8 = 1;
/// How many of them are taken at a time.
const MAX_FREED: usize = 16;

/// The first byte of what the agent sends where a lane was asked for: whether it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Data goes as without one.
    Refused,
    /// Data goes through the lane.
    Taken,
}

impl Answer {
    /// Writes it.
    ///
    /// # Errors
    ///
    /// The stream's.
    pub fn write(self, mut stream: impl Write) -> io::Result<()> {
        stream.write_all(&[u8::from(self == Self::Taken)])?;
        stream.flush()
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// The stream's; or there is none.
    pub fn read(mut stream: impl Read) -> io::Result<Self> {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        match byte {
            [0] => Ok(Self::Refused),
            [1] => Ok(Self::Taken),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// What data is put into.
pub trait Fill {
    /// Lends room for what comes next in a slot, `at` bytes from its beginning and right behind what was
    /// put there before: as much as there is, or less, but more than nothing if the slot is not full.
    ///
    /// # Errors
    ///
    /// The memory's.
    fn room(&mut self, slot: usize, at: usize) -> io::Result<&mut [u8]>;

    /// So many bytes of the room that was lent last have been filled.
    ///
    /// # Errors
    ///
    /// The memory's.
    fn put(&mut self, slot: usize, at: usize, len: usize) -> io::Result<()>;

    /// The slot has all that it gets: this many bytes.
    ///
    /// # Errors
    ///
    /// The memory's.
    fn complete(&mut self, slot: usize, len: usize) -> io::Result<()>;
}

/// What data is taken from.
pub trait Fetch {
    /// A slot has so many bytes for us.
    ///
    /// # Errors
    ///
    /// The memory's.
    fn open(&mut self, slot: usize, len: usize) -> io::Result<()>;

    /// Shows what is in the slot that was opened last, from `at` on, which is before its end: all, or
    /// less, but more than nothing. It is the same until something else is asked for.
    ///
    /// # Errors
    ///
    /// The memory's.
    fn show(&mut self, at: usize) -> io::Result<&[u8]>;
}
