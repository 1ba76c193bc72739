//! Collects frames for a stream that takes them as it can, without doing the writing itself.

use crate::frame::{FrameError, HEADER_LEN, Header, Kind};
use crate::from_agent::AgentFrame;
use crate::from_host::HostFrame;

/// Bytes to be sent. Its owner bounds it: it collects no data frame while much is still waiting.
#[derive(Debug, Default)]
pub struct FrameWriter {
    /// Invariant: `start <= end <= buffer.len()`; the bytes between them are to be sent. What is
    /// behind `end` is old storage, kept so that it need not be cleared again.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl FrameWriter {
    /// A writer with nothing to send.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a frame of the host's.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLarge`] if the frame is larger than the protocol allows.
    pub fn push_host(&mut self, frame: &HostFrame<'_>) -> Result<(), FrameError> {
        self.compact();
        self.buffer.truncate(self.end);
        let result = frame.encode(&mut self.buffer);
        self.end = self.buffer.len();
        result
    }

    /// Adds a frame of the agent's.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLarge`] if the frame is larger than the protocol allows.
    pub fn push_agent(&mut self, frame: &AgentFrame<'_>) -> Result<(), FrameError> {
        self.compact();
        self.buffer.truncate(self.end);
        let result = frame.encode(&mut self.buffer);
        self.end = self.buffer.len();
        result
    }

    /// Adds bytes that another writer had [`pending`](Self::pending).
    pub fn push_raw(&mut self, bytes: &[u8]) {
        self.compact();
        self.buffer.truncate(self.end);
        self.buffer.extend_from_slice(bytes);
        self.end = self.buffer.len();
    }

    /// Adds a data frame whose payload, of at most `limit` bytes and at most as large as the kind
    /// may be, `fill` writes in place. Nothing is added when `fill` returns 0 or an error.
    ///
    /// # Errors
    ///
    /// What `fill` returned.
    pub fn push_data<E>(
        &mut self,
        kind: Kind,
        limit: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        self.compact();
        let limit = limit.min(kind.limit());
        let payload = self.end + HEADER_LEN;
        if self.buffer.len() < payload + limit {
            self.buffer.resize(payload + limit, 0);
        }
        let space = self
            .buffer
            .get_mut(payload..payload + limit)
            .unwrap_or_default();
        let count = fill(space)?.min(limit);
        let header = Header {
            kind,
            length: count,
        }
        .encode();
        if let (1.., Ok(header), Some(place)) =
            (count, header, self.buffer.get_mut(self.end..payload))
        {
            place.copy_from_slice(&header);
            self.end = payload + count;
        }
        Ok(count)
    }

    /// Moves what is to be sent to the front, once more than as much has gone before it.
    fn compact(&mut self) {
        if self.start > self.end - self.start {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// What is to be sent.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Says that the first `count` bytes of [`pending`](Self::pending) have been sent.
    pub fn sent(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io;

    use super::*;
    use crate::frame::MAX_DATA;
    use crate::reader::FrameReader;

    fn push(writer: &mut FrameWriter, limit: usize, data: &[u8]) -> usize {
        let fill = |space: &mut [u8]| {
            let count = space.len().min(data.len());
            space[..count].copy_from_slice(&data[..count]);
            Ok::<_, Infallible>(count)
        };
        match writer.push_data(Kind::Stdout, limit, fill) {
            Ok(count) => count,
        }
    }

    #[test]
    fn frames_leave_in_order_whatever_is_sent_at_once() {
        let mut writer = FrameWriter::new();
        let mut reader = FrameReader::new();
        assert_eq!(push(&mut writer, 100, b"one"), 3);
        writer.push_agent(&AgentFrame::Pong).unwrap();
        writer.sent(4);
        assert_eq!(push(&mut writer, 2, b"two"), 2);
        let mut wire = Vec::from(b"\x03\0\0\0".as_slice());
        while let Some(byte) = writer.pending().first() {
            wire.push(*byte);
            writer.sent(1);
        }
        reader.space()[..wire.len()].copy_from_slice(&wire);
        reader.filled(wire.len());
        assert_eq!(
            reader.next_frame(),
            Ok(Some((Kind::Stdout, b"one".as_slice())))
        );
        assert_eq!(reader.next_frame(), Ok(Some((Kind::Pong, b"".as_slice()))));
        assert_eq!(
            reader.next_frame(),
            Ok(Some((Kind::Stdout, b"tw".as_slice())))
        );
        assert_eq!(reader.next_frame(), Ok(None));
    }

    #[test]
    fn nothing_is_added_when_there_is_no_data() {
        let mut writer = FrameWriter::new();
        let failed = writer.push_data(Kind::Stdin, 10, |_| Err(io::ErrorKind::WouldBlock));
        assert_eq!(failed, Err(io::ErrorKind::WouldBlock));
        assert_eq!(push(&mut writer, 10, b""), 0);
        assert_eq!(writer.pending(), b"");
    }

    #[test]
    fn writer_that_is_never_empty_stays_bounded() {
        let mut writer = FrameWriter::new();
        push(&mut writer, 1000, &[1; 1000]);
        for _ in 0..10_000 {
            push(&mut writer, 1000, &[1; 1000]);
            writer.sent(1000 + HEADER_LEN);
        }
        assert!(writer.buffer.len() < 10_000, "{}", writer.buffer.len());
    }

    #[test]
    fn data_is_cut_at_the_largest_frame() {
        let mut writer = FrameWriter::new();
        assert_eq!(
            push(&mut writer, usize::MAX, &vec![1; MAX_DATA + 1]),
            MAX_DATA
        );
    }
}
