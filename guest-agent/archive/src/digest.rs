//! The proof that a stream came whole: its XXH3 digest, told at its end.
//!
//! Input carries it as a trailer behind the data, so that a stream which was cut off can never be
//! taken for a shorter one.
//!
//! The digest is against accidents on the way, in 128 bits. It need not be one that nobody can forge:
//! both sides take it of the same bytes in the same session, and who could change the bytes on their way
//! is the side that tells the digest. So it is one that costs next to nothing.

use std::fmt;
use std::io::{self, Read, Write};

use twox_hash::XxHash3_128;

/// An XXH3 digest of 128 bits, in its canonical form: big-endian.
pub type Digest = [u8; DIGEST_LEN];
/// Its size in bytes.
pub const DIGEST_LEN: usize = 16;
/// How much is read at a time.
const CHUNK: usize = 64 * 1024;

/// The digest of what has passed so far.
struct Hash(XxHash3_128);

impl Hash {
    fn new() -> Self {
        Self(XxHash3_128::new())
    }

    fn update(&mut self, data: &[u8]) {
        self.0.write(data);
    }

    fn digest(&self) -> Digest {
        self.0.finish_128().to_be_bytes()
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Hash").finish_non_exhaustive()
    }
}

/// Passes data on, and knows how much it was and what its digest is.
#[derive(Debug)]
pub struct DigestWriter<W> {
    inner: W,
    hash: Hash,
    bytes: u64,
}

impl<W: Write> DigestWriter<W> {
    /// Nothing has been written yet.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Hash::new(),
            bytes: 0,
        }
    }

    /// How much was written, its digest, and where it was written to.
    pub fn finish(self) -> (u64, Digest, W) {
        (self.bytes, self.hash.digest(), self.inner)
    }

    /// Writes the digest behind the data.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write_trailer(self) -> io::Result<(u64, Digest)> {
        let (bytes, digest, mut inner) = self.finish();
        inner.write_all(&digest)?;
        inner.flush()?;
        Ok((bytes, digest))
    }
}

impl<W: Write> Write for DigestWriter<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(data)?;
        self.hash.update(data.get(..count).unwrap_or(data));
        self.bytes = self.bytes.saturating_add(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Reads data that has its digest behind it.
#[derive(Debug)]
pub struct TrailedReader<R> {
    inner: R,
    hash: Hash,
    bytes: u64,
    /// Invariant: `start <= end <= buffer.len()`; what is between them has not been handed out, and
    /// its last [`DIGEST_LEN`] bytes may be the trailer.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    ended: bool,
}

impl<R: Read> TrailedReader<R> {
    /// Nothing has been read yet.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            hash: Hash::new(),
            bytes: 0,
            buffer: vec![0; CHUNK],
            start: 0,
            end: 0,
            ended: false,
        }
    }

    /// Reads what is left, and compares. Returns how much there was, and its digest.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` if there is no such trailer: the stream was cut off or changed on its way.
    pub fn finish(mut self) -> io::Result<(u64, Digest)> {
        io::copy(&mut self, &mut io::sink())?;
        let digest: Digest = self.hash.digest();
        if self.buffer.get(self.start..self.end) == Some(&digest[..]) {
            Ok((self.bytes, digest))
        } else {
            Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the data did not arrive whole",
            ))
        }
    }
}

impl<R: Read> Read for TrailedReader<R> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        while !self.ended && self.end - self.start <= DIGEST_LEN {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            let free = self.buffer.get_mut(self.end..).unwrap_or_default();
            match self.inner.read(free) {
                Ok(0) => self.ended = true,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let count = (self.end - self.start)
            .saturating_sub(DIGEST_LEN)
            .min(space.len());
        let data = self.buffer.get(self.start..self.start + count);
        if let (Some(data), Some(space)) = (data, space.get_mut(..count)) {
            space.copy_from_slice(data);
            self.hash.update(data);
            self.start += count;
            self.bytes = self.bytes.saturating_add(count as u64);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trailed(data: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        let mut writer = DigestWriter::new(&mut wire);
        writer.write_all(data).unwrap();
        writer.write_trailer().unwrap();
        wire
    }

    /// Hands out a few bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(space.len());
            let (now, later) = self.0.split_at(count);
            space[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    proptest! {
        #[test]
        fn data_comes_out_whatever_the_reads_were(
            data in prop::collection::vec(any::<u8>(), 0..2000),
            step in 1usize..100,
        ) {
            let wire = trailed(&data);
            let mut reader = TrailedReader::new(Slow(&wire, step));
            let mut out = Vec::new();
            reader.read_to_end(&mut out).unwrap();
            prop_assert_eq!(&out, &data);
            prop_assert_eq!(reader.finish().unwrap().0, data.len() as u64);
        }

        #[test]
        fn stream_that_is_cut_or_changed_is_noticed(
            data in prop::collection::vec(any::<u8>(), 0..500),
            at in any::<prop::sample::Index>(),
            cut in any::<bool>(),
        ) {
            let mut wire = trailed(&data);
            let at = at.index(wire.len());
            if cut {
                wire.truncate(at);
            } else {
                wire[at] ^= 1;
            }
            prop_assert!(TrailedReader::new(wire.as_slice()).finish().is_err());
        }
    }
}
