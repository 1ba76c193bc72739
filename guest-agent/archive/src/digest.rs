//! The proof that a stream came whole: its XXH3 digest, told at its end.
//!
//! Input carries it as a trailer behind the data, so that a stream which was cut off can never be
//! taken for a shorter one.
//!
//! The digest is against accidents on the way, in 128 bits. It need not be one that nobody can forge:
//! both sides take it of the same bytes in the same session, and who could change the bytes on their way
//! is the side that tells the digest. So it is one that costs next to nothing.

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;

use twox_hash::XxHash3_128;

use crate::buffered::read_buffered;
use crate::room::Room;

/// An XXH3 digest of 128 bits, in its canonical form: big-endian.
pub type Digest = [u8; DIGEST_LEN];
/// Its size in bytes.
pub const DIGEST_LEN: usize = 16;

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

/// Is told how many bytes have passed, each time that some have.
#[derive(Clone)]
pub struct Meter(Arc<dyn Fn(u64) + Send + Sync>);

impl Meter {
    /// One that tells `each`, which must return soon: the data waits for it.
    pub fn new(each: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self(Arc::new(each))
    }

    /// So many more have passed.
    pub fn count(&self, bytes: u64) {
        (self.0)(bytes);
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Meter").finish_non_exhaustive()
    }
}

/// So many bytes more have passed.
fn note(bytes: &mut u64, meter: Option<&Meter>, count: usize) {
    *bytes = bytes.saturating_add(count as u64);
    if let Some(meter) = meter {
        meter.count(count as u64);
    }
}

/// Passes data on, and knows how much it was and what its digest is.
#[derive(Debug)]
pub struct DigestWriter<W> {
    inner: W,
    hash: Hash,
    bytes: u64,
    meter: Option<Meter>,
}

impl<W: Write> DigestWriter<W> {
    /// Nothing has been written yet.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Hash::new(),
            bytes: 0,
            meter: None,
        }
    }

    /// The same, told to a meter as it passes.
    #[must_use]
    pub fn counted(self, meter: Option<Meter>) -> Self {
        Self { meter, ..self }
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
        note(&mut self.bytes, self.meter.as_ref(), count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: Room> Room for DigestWriter<W> {
    fn lend(&mut self, most: usize, fill: &mut dyn FnMut(&mut [u8]) -> usize) -> io::Result<usize> {
        let hash = &mut self.hash;
        let count = self.inner.lend(most, &mut |room| {
            let count = fill(room);
            hash.update(room.get(..count).unwrap_or_default());
            count
        })?;
        note(&mut self.bytes, self.meter.as_ref(), count);
        Ok(count)
    }
}

/// Reads data, and knows how much it was and what its digest is.
#[derive(Debug)]
pub struct DigestReader<R> {
    inner: R,
    hash: Hash,
    bytes: u64,
    meter: Option<Meter>,
}

impl<R: BufRead> DigestReader<R> {
    /// Nothing has been read yet.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            hash: Hash::new(),
            bytes: 0,
            meter: None,
        }
    }

    /// The same, told to a meter as it passes.
    #[must_use]
    pub fn counted(self, meter: Option<Meter>) -> Self {
        Self { meter, ..self }
    }

    /// How much was read, its digest, and where it was read from.
    pub fn finish(self) -> (u64, Digest, R) {
        (self.bytes, self.hash.digest(), self.inner)
    }
}

impl<R: BufRead> BufRead for DigestReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        // What was shown is still there; were it not, the digests would differ.
        let shown = self.inner.fill_buf().unwrap_or_default();
        self.hash.update(shown.get(..count).unwrap_or(shown));
        self.inner.consume(count);
        note(&mut self.bytes, self.meter.as_ref(), count);
    }
}

impl<R: BufRead> Read for DigestReader<R> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, space)
    }
}

/// Reads data that has its digest behind it.
#[derive(Debug)]
pub struct TrailedReader<R> {
    inner: R,
    hash: Hash,
    bytes: u64,
    /// What was taken out of `inner` and not handed out: the newest bytes, which may be the trailer, and
    /// before them, while more than those are there, some that are none of it.
    tail: Vec<u8>,
    /// How many of `tail` are data for certain, and come next.
    open: usize,
}

impl<R: BufRead> TrailedReader<R> {
    /// Nothing has been read yet.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            hash: Hash::new(),
            bytes: 0,
            tail: Vec::with_capacity(2 * DIGEST_LEN),
            open: 0,
        }
    }

    /// Reads what is left, and compares. Returns how much there was, and its digest.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` if there is no such trailer: the stream was cut off or changed on its way.
    pub fn finish(mut self) -> io::Result<(u64, Digest)> {
        loop {
            match self.fill_buf() {
                Ok([]) => break,
                Ok(data) => {
                    let count = data.len();
                    self.consume(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let digest: Digest = self.hash.digest();
        if self.tail == digest {
            Ok((self.bytes, digest))
        } else {
            Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the data did not arrive whole",
            ))
        }
    }

    /// Takes more out of `inner`, until some of it can be shown. Returns how much of what `inner` shows
    /// is data; nothing, if it is in `tail`, or there is no more.
    fn look(&mut self) -> io::Result<usize> {
        while self.open == 0 {
            let shown = self.inner.fill_buf()?;
            if self.tail.is_empty() && shown.len() > DIGEST_LEN {
                return Ok(shown.len() - DIGEST_LEN);
            }
            if shown.is_empty() {
                break;
            }
            let few = shown.get(..DIGEST_LEN).unwrap_or(shown);
            if few.len() == DIGEST_LEN && !self.tail.is_empty() {
                // So much more has come that none of these is the trailer.
                self.open = self.tail.len();
            } else {
                let count = few.len();
                self.tail.extend_from_slice(few);
                self.inner.consume(count);
                self.open = self.tail.len().saturating_sub(DIGEST_LEN);
            }
        }
        Ok(0)
    }
}

impl<R: BufRead> BufRead for TrailedReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let count = self.look()?;
        let shown = match count {
            0 => self.tail.get(..self.open),
            _ => self.inner.fill_buf()?.get(..count),
        };
        Ok(shown.unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        if self.open > 0 {
            let count = count.min(self.open);
            self.hash.update(self.tail.get(..count).unwrap_or_default());
            self.tail.drain(..count);
            self.open -= count;
        } else {
            // What was shown is still there; were it not, the digests would differ.
            let shown = self.inner.fill_buf().unwrap_or_default();
            self.hash.update(shown.get(..count).unwrap_or(shown));
            self.inner.consume(count);
        }
        note(&mut self.bytes, None, count);
    }
}

impl<R: BufRead> Read for TrailedReader<R> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, space)
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use proptest::prelude::*;

    use super::*;

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
            space in 1usize..200,
            buffered in 1usize..100,
        ) {
            let wire = trailed(&data);
            let mut reader = TrailedReader::new(BufReader::with_capacity(buffered, Slow(&wire, step)));
            let mut out = Vec::new();
            let mut space = vec![0; space];
            loop {
                match reader.read(&mut space).unwrap() {
                    0 => break,
                    count => out.extend_from_slice(&space[..count]),
                }
            }
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
