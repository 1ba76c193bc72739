//! A list of buffers in guest memory, consumed from the front.

use vm_memory::{ByteValued, VolatileSlice};

/// Buffers in guest memory that follow one another, like an `iovec` array.
///
/// Reading and writing move on; what is left can be handed to a system call as it lies
/// ([`slices`](Self::slices)), without copying it.
#[derive(Debug, Clone, Default)]
pub struct GuestBuffers<'m> {
    slices: Vec<VolatileSlice<'m>>,
    /// The first slice that is not used up. It is trimmed as it is consumed.
    first: usize,
    /// Bytes left.
    len: usize,
}

/// Fewer bytes are left than were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the guest's buffers hold {available} bytes where {needed} are needed")]
pub struct BuffersTooShort {
    /// How many bytes are left.
    pub available: usize,
    /// How many bytes were asked for.
    pub needed: usize,
}

impl<'m> GuestBuffers<'m> {
    pub(super) fn new(slices: Vec<VolatileSlice<'m>>) -> Self {
        // No overflow: a chain is shorter than 4 GiB, which its iterator checks.
        let len = slices.iter().map(VolatileSlice::len).sum();
        Self {
            slices,
            first: 0,
            len,
        }
    }

    /// The number of bytes left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no bytes are left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is left, as it lies in memory. No slice is empty.
    #[must_use]
    pub fn slices(&self) -> &[VolatileSlice<'m>] {
        self.slices.get(self.first..).unwrap_or_default()
    }

    /// Copies the next bytes out of guest memory, once.
    ///
    /// # Errors
    /// Fewer bytes are left than `data` holds; nothing is consumed then.
    pub fn read_exact(&mut self, data: &mut [u8]) -> Result<(), BuffersTooShort> {
        self.require(data.len())?;
        let mut rest = data;
        while !rest.is_empty() {
            let Some(slice) = self.slices.get(self.first) else {
                break;
            };
            let count = slice.copy_to(rest);
            rest = rest.get_mut(count..).unwrap_or_default();
            self.consume(count);
        }
        Ok(())
    }

    /// Copies a structure out of guest memory, once.
    ///
    /// # Errors
    /// Fewer bytes are left than the structure has; nothing is consumed then.
    pub fn read_obj<T: ByteValued + Default>(&mut self) -> Result<T, BuffersTooShort> {
        let mut object = T::default();
        self.read_exact(object.as_mut_slice())?;
        Ok(object)
    }

    /// Copies `data` into guest memory.
    ///
    /// # Errors
    /// Fewer bytes are left than `data` holds; nothing is written then.
    pub fn write_all(&mut self, data: &[u8]) -> Result<(), BuffersTooShort> {
        self.require(data.len())?;
        let mut rest = data;
        while !rest.is_empty() {
            let Some(slice) = self.slices.get(self.first) else {
                break;
            };
            let count = slice.len().min(rest.len());
            let (now, later) = rest.split_at(count);
            slice.copy_from(now);
            rest = later;
            self.consume(count);
        }
        Ok(())
    }

    /// Passes over the next `count` bytes, or all if fewer are left.
    pub fn advance(&mut self, count: usize) {
        let mut left = count.min(self.len);
        while left > 0 {
            let Some(slice) = self.slices.get(self.first) else {
                break;
            };
            let step = slice.len().min(left);
            left -= step;
            self.consume(step);
        }
    }

    /// Cuts the buffers in two: `self` keeps the next `at` bytes, the rest is returned.
    ///
    /// # Errors
    /// Fewer than `at` bytes are left; nothing changes then.
    pub fn split_off(&mut self, at: usize) -> Result<Self, BuffersTooShort> {
        self.require(at)?;
        let mut rest = self.clone();
        rest.advance(at);
        self.truncate(at);
        Ok(rest)
    }

    /// Keeps the next `len` bytes and forgets what comes after them.
    pub fn truncate(&mut self, len: usize) {
        let mut room = len;
        let mut end = self.first;
        for slice in self.slices.iter_mut().skip(self.first) {
            if room == 0 {
                break;
            }
            if slice.len() > room
                && let Ok(shorter) = slice.subslice(0, room)
            {
                *slice = shorter;
            }
            room -= slice.len().min(room);
            end += 1;
        }
        self.slices.truncate(end);
        self.len = self.len.min(len);
    }

    fn require(&self, needed: usize) -> Result<(), BuffersTooShort> {
        if needed > self.len {
            return Err(BuffersTooShort {
                available: self.len,
                needed,
            });
        }
        Ok(())
    }

    /// Consumes `count` bytes of the first slice, which has at least so many.
    fn consume(&mut self, count: usize) {
        let Some(slice) = self.slices.get_mut(self.first) else {
            return;
        };
        self.len -= count;
        match slice.offset(count) {
            Ok(rest) if !rest.is_empty() => *slice = rest,
            _ => self.first += 1,
        }
    }
}
