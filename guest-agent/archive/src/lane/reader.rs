//! Out of a lane.

use std::io::{self, BufRead, Read, Write};

use super::{FREE, Fetch, IN_SLOT, INLINE_LEN, SLOT_LEN, SLOTS};
use crate::buffered::read_buffered;

/// How much is shown at a time: what was looked at once is still in the CPU's cache when it is looked at
/// again.
const PIECE_LEN: usize = 128 * 1024;

/// Reads what comes through a lane.
#[derive(Debug)]
pub struct LaneReader<M, R, W> {
    memory: M,
    records: R,
    pub(super) freed: W,
    /// The slot that is told of next.
    slot: usize,
    /// How much the slot has that was opened last, and how much of that was taken. It is free, and
    /// empty, when that was told.
    len: usize,
    given: usize,
    /// How many bytes come in the stream.
    inline: usize,
    /// Some that have come so, and how many of them were taken.
    little: Vec<u8>,
    taken: usize,
}

impl<M: Fetch, R: Read, W: Write> LaneReader<M, R, W> {
    /// Nothing has been read yet.
    pub fn new(memory: M, records: R, freed: W) -> Self {
        Self {
            memory,
            records,
            freed,
            slot: 0,
            len: 0,
            given: 0,
            inline: 0,
            little: Vec::new(),
            taken: 0,
        }
    }

    /// Takes the next record. `false` at the end.
    fn next_record(&mut self) -> io::Result<bool> {
        let Some(record) = read_record(&mut self.records)? else {
            return Ok(false);
        };
        let length = usize::try_from(record & !IN_SLOT).unwrap_or(usize::MAX);
        if length == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if record & IN_SLOT == 0 {
            // It is read bit by bit, so it needs no bound.
            self.inline = length;
            return Ok(true);
        }
        if length > SLOT_LEN {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.memory.open(self.slot, length)?;
        (self.len, self.given) = (length, 0);
        self.slot = (self.slot + 1) % SLOTS;
        Ok(true)
    }

    /// Tells the writer that the slot is free.
    fn free(&mut self) -> io::Result<()> {
        (self.len, self.given) = (0, 0);
        // A writer that needs no more slots may be gone already.
        let told = self.freed.write_all(&[FREE]);
        match told.and_then(|()| self.freed.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            // Who has filled so many slots has not waited for one to be free.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::ErrorKind::InvalidData.into())
            }
            told => told,
        }
    }

    /// Reads some of what comes in the stream.
    fn read_inline(&mut self) -> io::Result<()> {
        self.taken = 0;
        self.little.resize(self.inline.min(INLINE_LEN), 0);
        let count = match self.records.read(&mut self.little) {
            Ok(count) => count,
            Err(error) => {
                self.little.clear();
                return Err(error);
            }
        };
        self.little.truncate(count);
        self.inline -= count;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

impl<M: Fetch, R: Read, W: Write> BufRead for LaneReader<M, R, W> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        loop {
            if self.given < self.len {
                let shown = self.memory.show(self.given)?;
                let most = (self.len - self.given).min(PIECE_LEN);
                return Ok(shown.get(..most).unwrap_or(shown));
            }
            if self.taken < self.little.len() {
                return Ok(self.little.get(self.taken..).unwrap_or_default());
            }
            if self.len > 0 {
                self.free()?;
            }
            if self.inline > 0 {
                self.read_inline()?;
            } else if !self.next_record()? {
                return Ok(&[]);
            }
        }
    }

    fn consume(&mut self, count: usize) {
        if self.given < self.len {
            self.given = (self.given + count).min(self.len);
        } else {
            self.taken = (self.taken + count).min(self.little.len());
        }
    }
}

impl<M: Fetch, R: Read, W: Write> Read for LaneReader<M, R, W> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, space)
    }
}

/// The next record; `None` at the stream's end.
fn read_record(mut records: impl Read) -> io::Result<Option<u32>> {
    let mut record = [0; 4];
    let mut come = 0;
    while let Some(rest @ [_, ..]) = record.get_mut(come..) {
        match records.read(rest) {
            Ok(0) if come == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => come += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(u32::from_le_bytes(record)))
}
