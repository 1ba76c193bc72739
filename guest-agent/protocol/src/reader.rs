//! Cuts a stream of bytes into frames, without doing the reading itself.

use crate::frame::{FrameError, HEADER_LEN, Header, Kind, MAX_CONTROL, MAX_DATA};

/// The buffer's first size: enough for a session that moves little, and few pages to touch.
const FIRST_SIZE: usize = 4000;
/// The buffer's size once a large frame has come: two whole data frames.
const BULK_SIZE: usize = 2 * (HEADER_LEN + MAX_DATA);

/// Collects bytes as they come and hands out the frames in them.
///
/// The loop of its owner: read into [`space`](Self::space), tell [`filled`](Self::filled), then call
/// [`next_frame`](Self::next_frame) until it returns `None`. The buffer never holds more than one
/// frame of the largest kind that has been announced, or two data frames.
#[derive(Debug)]
pub struct FrameReader {
    /// Invariant: `start <= end <= buffer.len()`; the bytes between them are not consumed yet.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl FrameReader {
    /// A reader that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            buffer: vec![0; FIRST_SIZE],
            start: 0,
            end: 0,
        }
    }

    /// Where the next bytes of the stream belong. Never empty.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.buffer.len() > BULK_SIZE {
                self.buffer = vec![0; FIRST_SIZE];
            }
        }
        let needed = self.frame_size();
        if self.start > 0 && self.buffer.len() - self.start < needed.max(self.buffer.len() / 2) {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buffer.len() < self.start + needed {
            let size = if needed > MAX_CONTROL {
                needed.max(BULK_SIZE)
            } else {
                2 * needed
            };
            self.buffer.resize(self.start + size, 0);
        }
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// Says that the first `count` bytes of [`space`](Self::space) now hold data.
    pub fn filled(&mut self, count: usize) {
        self.end = self.end.saturating_add(count).min(self.buffer.len());
    }

    /// The next whole frame: its kind and payload. `None` until more bytes are there.
    ///
    /// # Errors
    ///
    /// [`FrameError`] as soon as a header is wrong, before its payload arrives. The stream has no
    /// meaning after that.
    pub fn next_frame(&mut self) -> Result<Option<(Kind, &[u8])>, FrameError> {
        let Some(header) = self.header()? else {
            return Ok(None);
        };
        let payload_start = self.start + HEADER_LEN;
        let payload_end = payload_start + header.length;
        if payload_end > self.end {
            return Ok(None);
        }
        self.start = payload_end;
        Ok(self
            .buffer
            .get(payload_start..payload_end)
            .map(|payload| (header.kind, payload)))
    }

    /// Puts what another reader had [`pending`](Self::pending) before everything else.
    pub fn preload(&mut self, bytes: &[u8]) {
        self.buffer
            .splice(..self.start, bytes.iter().copied())
            .for_each(drop);
        self.end = self.end - self.start + bytes.len();
        self.start = 0;
    }

    /// What has come and not been consumed.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Whether bytes of an unfinished frame are waiting.
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        self.start < self.end
    }

    fn header(&self) -> Result<Option<Header>, FrameError> {
        self.pending()
            .first_chunk()
            .map(|bytes| Header::decode(*bytes))
            .transpose()
    }

    /// How large the frame at `start` is, as far as is known.
    fn frame_size(&self) -> usize {
        match self.header() {
            Ok(Some(header)) => HEADER_LEN + header.length,
            Ok(None) | Err(_) => HEADER_LEN,
        }
    }
}

impl Default for FrameReader {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{MAX_MESSAGE, encode_bytes};
    use proptest::prelude::*;

    /// Feeds `stream` in pieces of the given sizes and collects what comes out.
    fn cut(stream: &[u8], pieces: &[usize]) -> Result<Vec<(Kind, Vec<u8>)>, FrameError> {
        let mut reader = FrameReader::new();
        let mut frames = Vec::new();
        let mut rest = stream;
        let mut pieces = pieces.iter().cycle();
        while !rest.is_empty() {
            let space = reader.space();
            assert!(!space.is_empty());
            let count = space
                .len()
                .min(rest.len())
                .min(*pieces.next().unwrap())
                .max(1);
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            reader.filled(count);
            while let Some((kind, payload)) = reader.next_frame()? {
                frames.push((kind, payload.to_vec()));
            }
        }
        assert!(!reader.is_mid_frame());
        Ok(frames)
    }

    #[test]
    fn header_is_refused_before_its_payload_arrives() {
        let mut reader = FrameReader::new();
        reader.space()[..8].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0]);
        reader.filled(8);
        assert!(matches!(
            reader.next_frame(),
            Err(FrameError::TooLarge { .. })
        ));
    }

    #[test]
    fn largest_request_passes_in_one_byte_reads_of_its_tail() {
        let mut stream = Vec::new();
        encode_bytes(Kind::Request, &vec![7; MAX_MESSAGE], &mut stream).unwrap();
        let frames = cut(&stream, &[MAX_MESSAGE, 1]).unwrap();
        assert_eq!(frames, [(Kind::Request, vec![7; MAX_MESSAGE])]);
    }

    #[test]
    fn bulk_data_does_not_grow_the_buffer() {
        let mut reader = FrameReader::new();
        let mut stream = Vec::new();
        encode_bytes(Kind::Stdout, &vec![1; MAX_DATA], &mut stream).unwrap();
        let mut rest = stream.iter().copied().cycle();
        for _ in 0..1000 {
            let space = reader.space();
            for byte in space.iter_mut() {
                *byte = rest.next().unwrap();
            }
            let count = space.len();
            reader.filled(count);
            while reader.next_frame().unwrap().is_some() {}
        }
        assert!(
            reader.buffer.len() <= 2 * BULK_SIZE,
            "{}",
            reader.buffer.len()
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn frames_come_out_whatever_the_reads_were(
            sizes in prop::collection::vec(0usize..MAX_DATA, 1..12),
            pieces in prop::collection::vec(1usize..100_000, 1..12),
        ) {
            let mut stream = Vec::new();
            let mut expected = Vec::new();
            for (index, size) in sizes.iter().enumerate() {
                let payload = vec![u8::try_from(index).unwrap(); *size];
                encode_bytes(Kind::Stderr, &payload, &mut stream).unwrap();
                expected.push((Kind::Stderr, payload));
            }
            prop_assert_eq!(cut(&stream, &pieces).unwrap(), expected);
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..4096),
            pieces in prop::collection::vec(1usize..64, 1..4),
        ) {
            let mut reader = FrameReader::new();
            let mut rest = bytes.as_slice();
            for piece in pieces.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let space = reader.space();
                let count = rest.len().min(*piece).min(space.len());
                space[..count].copy_from_slice(&rest[..count]);
                rest = &rest[count..];
                reader.filled(count);
                loop {
                    match reader.next_frame() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        // The end of this connection: nobody reads on, and there may be no room.
                        Err(_) => return Ok(()),
                    }
                }
            }
        }
    }
}
