//! Into a lane.

use std::io::{self, Read, Write};

use super::{Fill, IN_SLOT, INLINE_LEN, MAX_FREED, SLOT_LEN, SLOTS};
use crate::room::Room;

/// Writes through a lane. What was not flushed is lost.
#[derive(Debug)]
pub struct LaneWriter<M, W, R> {
    memory: M,
    pub(super) records: W,
    freed: R,
    /// The slot that is filled now or next.
    pub(super) slot: usize,
    /// How many slots the reader has not freed.
    pub(super) under_way: usize,
    /// What may turn out to be little. Empty once something is in the slot.
    held: Vec<u8>,
    /// How many bytes are in the slot.
    filled: usize,
}

impl<M: Fill, W: Write, R: Read> LaneWriter<M, W, R> {
    /// Nothing has been written yet.
    pub fn new(memory: M, records: W, freed: R) -> Self {
        Self {
            memory,
            records,
            freed,
            slot: 0,
            under_way: 0,
            held: Vec::new(),
            filled: 0,
        }
    }

    /// Whether what has come is little with so much more.
    fn stays_little(&self, more: usize) -> bool {
        self.filled == 0 && self.held.len().saturating_add(more) <= INLINE_LEN
    }

    /// Sees to it that there is a slot with room, and that nothing is held any more.
    fn open_slot(&mut self) -> io::Result<()> {
        if self.filled > 0 {
            return Ok(());
        }
        self.wait_for_slot()?;
        let held = std::mem::take(&mut self.held);
        let mut held = held.as_slice();
        while !held.is_empty() {
            let count = self.put(held.len(), |mut room| room.write(held).unwrap_or(0))?;
            held = held.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// Has at most so many bytes put into the slot, and sends it when it is full. Returns how many were.
    fn put(&mut self, most: usize, fill: impl FnOnce(&mut [u8]) -> usize) -> io::Result<usize> {
        let room = self.memory.room(self.slot, self.filled)?;
        let most = most.min(room.len()).min(SLOT_LEN - self.filled);
        let count = room.get_mut(..most).map_or(0, fill).min(most);
        self.memory.put(self.slot, self.filled, count)?;
        self.filled += count;
        if self.filled == SLOT_LEN {
            self.send_slot()?;
        }
        Ok(count)
    }

    /// Waits until there is a slot that the reader has freed.
    fn wait_for_slot(&mut self) -> io::Result<()> {
        while self.under_way >= SLOTS {
            let mut freed = [0; MAX_FREED];
            match self.freed.read(&mut freed) {
                Ok(0) => return Err(io::ErrorKind::BrokenPipe.into()),
                Ok(count) => {
                    self.under_way = self
                        .under_way
                        .checked_sub(count)
                        .ok_or(io::ErrorKind::InvalidData)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Tells the reader of the slot.
    fn send_slot(&mut self) -> io::Result<()> {
        self.memory.complete(self.slot, self.filled)?;
        // No slot is longer than fits.
        let record = u32::try_from(self.filled).unwrap_or(u32::MAX) | IN_SLOT;
        self.records.write_all(&record.to_le_bytes())?;
        self.records.flush()?;
        self.under_way += 1;
        self.slot = (self.slot + 1) % SLOTS;
        self.filled = 0;
        Ok(())
    }

    fn send_held(&mut self) -> io::Result<()> {
        let length = u32::try_from(self.held.len()).unwrap_or(u32::MAX);
        let mut record = length.to_le_bytes().to_vec();
        record.append(&mut self.held);
        self.records.write_all(&record)?;
        self.records.flush()
    }
}

impl<M: Fill, W: Write, R: Read> Write for LaneWriter<M, W, R> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.stays_little(data.len()) {
            self.held.extend_from_slice(data);
            return Ok(data.len());
        }
        self.open_slot()?;
        // Writing to room in memory does not fail.
        self.put(data.len(), |mut room| room.write(data).unwrap_or(0))
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.filled > 0 {
            self.send_slot()?;
        } else if !self.held.is_empty() {
            self.send_held()?;
        }
        Ok(())
    }
}

impl<M: Fill, W: Write, R: Read> Room for LaneWriter<M, W, R> {
    fn lend(&mut self, most: usize, fill: &mut dyn FnMut(&mut [u8]) -> usize) -> io::Result<usize> {
        if self.stays_little(most) {
            return self.held.lend(most, fill);
        }
        self.open_slot()?;
        self.put(most, fill)
    }
}
