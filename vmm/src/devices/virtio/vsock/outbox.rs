//! Bytes from the guest that the host's socket had no room for.

use std::io;

use vm_memory::{VolatileSlice, WriteVolatile};

use super::stream::HostStream;

/// A first-in first-out buffer. Credit bounds what comes in, so it does not bound itself.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    /// How many of `bytes` are gone already. Invariant: less than `bytes.len()`, or both are 0.
    start: usize,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes wait.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Copies what comes after the first `skip` bytes of `buffers`.
    pub(super) fn append(&mut self, buffers: &[VolatileSlice<'_>], skip: usize) {
        let new: usize = buffers
            .iter()
            .map(VolatileSlice::len)
            .sum::<usize>()
            .saturating_sub(skip);
        if self.bytes.len() + new > self.bytes.capacity() {
            self.bytes.drain(..self.start);
            self.start = 0;
            self.bytes.reserve(new);
        }
        let mut skip = skip;
        for buffer in buffers {
            let skipped = skip.min(buffer.len());
            skip -= skipped;
            let Ok(rest) = buffer.offset(skipped) else {
                continue;
            };
            // Room is reserved, and a vector takes everything.
            let _ = self.bytes.write_volatile(&rest);
        }
    }

    /// Writes as much as the socket takes and returns how much that was.
    ///
    /// # Errors
    /// The socket takes nothing any more.
    pub(super) fn flush(&mut self, stream: &HostStream) -> io::Result<usize> {
        let mut flushed = 0;
        while let Some(waiting) = self.bytes.get(self.start..).filter(|rest| !rest.is_empty()) {
            let sent = stream.send_bytes(waiting)?;
            if sent == 0 {
                break;
            }
            flushed += sent;
            self.start += sent;
        }
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
        Ok(flushed)
    }

    /// Throws everything away and returns how much that was.
    pub(super) fn discard(&mut self) -> usize {
        let discarded = self.len();
        *self = Self::default();
        discarded
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn bytes_leave_in_the_order_they_came_however_full_the_socket_is() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let stream = HostStream::new(ours.into());
        let mut outbox = Outbox::default();
        let mut expected = Vec::new();
        let mut got = Vec::new();
        for round in 0_u32..2000 {
            let mut piece: Vec<u8> = (0..1000_u32)
                .map(|i| (i * 7 + round).to_le_bytes()[0])
                .collect();
            let skip = (round % 3) as usize * 100;
            expected.extend_from_slice(&piece[skip..]);
            let (first, second) = piece.split_at_mut(250);
            outbox.append(
                &[VolatileSlice::from(first), VolatileSlice::from(second)],
                skip,
            );
            outbox.flush(&stream).unwrap();
            if round % 100 == 99 {
                let _ = theirs.read_to_end(&mut got);
            }
        }
        while !outbox.is_empty() {
            let _ = theirs.read_to_end(&mut got);
            outbox.flush(&stream).unwrap();
        }
        let _ = theirs.read_to_end(&mut got);
        assert_eq!(outbox.len(), 0);
        assert!(got == expected);
    }

    #[test]
    fn memory_is_bounded_by_what_waits() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let stream = HostStream::new(ours.into());
        let mut outbox = Outbox::default();
        let mut piece = [7_u8; 1000];
        for _ in 0..10_000 {
            while outbox.len() < 64_000 {
                outbox.append(&[VolatileSlice::from(piece.as_mut_slice())], 0);
            }
            let _ = theirs.read_to_end(&mut Vec::new());
            outbox.flush(&stream).unwrap();
        }
        assert!(
            outbox.bytes.capacity() <= 256 * 1024,
            "{}",
            outbox.bytes.capacity()
        );
    }
}
