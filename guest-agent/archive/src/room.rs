//! Data that is read right into the place that it goes from.

use std::io::{self, Read, Write};

use crate::lane::INLINE_LEN;

/// A writer that lends its own room, so that who has data to read need not read it into room of theirs first.
pub trait Room: Write {
    /// Lends room for at most `most` bytes, and not less than one, to `fill`, which says how many bytes it
    /// has put there. They count as written.
    ///
    /// # Errors
    ///
    /// The writer's.
    fn lend(&mut self, most: usize, fill: &mut dyn FnMut(&mut [u8]) -> usize) -> io::Result<usize>;
}

impl Room for Vec<u8> {
    fn lend(&mut self, most: usize, fill: &mut dyn FnMut(&mut [u8]) -> usize) -> io::Result<usize> {
        let end = self.len();
        self.resize(end + most, 0);
        let count = self.get_mut(end..).map_or(0, fill).min(most);
        self.truncate(end + count);
        Ok(count)
    }
}

impl<W: Room + ?Sized> Room for &mut W {
    fn lend(&mut self, most: usize, fill: &mut dyn FnMut(&mut [u8]) -> usize) -> io::Result<usize> {
        (**self).lend(most, fill)
    }
}

/// How much room a writer without any of its own gets.
const ROOM_LEN: usize = 128 * 1024;

/// A writer with room: for one that has none of its own.
#[derive(Debug)]
pub struct WithRoom<W> {
    inner: W,
    /// Empty until somebody wants it.
    room: Vec<u8>,
}

impl<W: Write> WithRoom<W> {
    /// Nothing has been lent yet.
    pub const fn new(inner: W) -> Self {
        Self {
            inner,
            room: Vec::new(),
        }
    }
}

impl<W: Write> Write for WithRoom<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.inner.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: Write> Room for WithRoom<W> {
    fn lend(&mut self, most: usize, fill: &mut dyn FnMut(&mut [u8]) -> usize) -> io::Result<usize> {
        self.room.resize(ROOM_LEN, 0);
        let room = self.room.get_mut(..most.min(ROOM_LEN)).unwrap_or_default();
        let count = fill(room);
        self.inner
            .write_all(room.get(..count).ok_or(io::ErrorKind::InvalidInput)?)?;
        Ok(count)
    }
}

/// Which side of a copy failed.
#[derive(Debug)]
pub enum CopyError {
    /// What is read.
    Reading(io::Error),
    /// What is written to.
    Writing(io::Error),
}

/// Reads once, at most `most` bytes, right into the room of `out`. Returns how many there were: none at the
/// end.
///
/// # Errors
///
/// [`CopyError`]
pub fn read_into(
    out: &mut dyn Room,
    most: usize,
    input: &mut dyn Read,
) -> Result<usize, CopyError> {
    loop {
        let mut read = Ok(0);
        let put = out.lend(most, &mut |room| {
            read = input.read(room);
            *read.as_ref().unwrap_or(&0)
        });
        match read {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CopyError::Reading(error)),
            Ok(_) => return put.map_err(CopyError::Writing),
        }
    }
}

/// How much is passed on at first: what is little has a way of its own.
const LITTLE: usize = INLINE_LEN;

/// Passes on what comes, as it comes: at most `limit` bytes.
///
/// # Errors
///
/// [`CopyError`]
pub fn pass_on(out: &mut dyn Room, limit: u64, input: &mut dyn Read) -> Result<(), CopyError> {
    let mut left = limit;
    let mut chunk = LITTLE;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(chunk).min(chunk);
        let count = read_into(out, most, input)?;
        if count == 0 {
            break;
        }
        if count < most || chunk == LITTLE {
            // There may be no more just now: what there is must not wait for it.
            out.flush().map_err(CopyError::Writing)?;
        }
        left -= count as u64;
        chunk = ROOM_LEN;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn put(text: &'static [u8]) -> impl FnMut(&mut [u8]) -> usize {
        move |room| {
            room[..text.len()].copy_from_slice(text);
            text.len()
        }
    }

    #[test]
    fn what_is_put_into_lent_room_is_written() {
        let mut written = b"a".to_vec();
        assert_eq!(written.lend(10, &mut put(b"bc")).unwrap(), 2);
        let mut with_room = WithRoom::new(&mut written);
        with_room.write_all(b"d").unwrap();
        assert_eq!(with_room.lend(10, &mut put(b"ef")).unwrap(), 2);
        assert_eq!(with_room.lend(10, &mut |_| 0).unwrap(), 0);
        assert_eq!(written, b"abcdef");
    }

    /// Fails as told, in turn.
    struct Fails(Vec<io::ErrorKind>);

    impl Read for Fails {
        fn read(&mut self, _space: &mut [u8]) -> io::Result<usize> {
            self.0.pop().map_or(Ok(0), |kind| Err(kind.into()))
        }
    }

    impl Write for Fails {
        fn write(&mut self, _data: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn it_is_told_which_side_has_failed() {
        let mut out = Vec::new();
        assert_eq!(read_into(&mut out, 2, &mut &b"abc"[..]).unwrap(), 2);
        let mut interrupted = Fails(vec![io::ErrorKind::Interrupted]);
        assert_eq!(read_into(&mut out, 2, &mut interrupted).unwrap(), 0);
        let mut unreadable = Fails(vec![io::ErrorKind::PermissionDenied]);
        let error = read_into(&mut out, 2, &mut unreadable);
        assert!(matches!(error, Err(CopyError::Reading(_))), "{error:?}");
        let mut full = WithRoom::new(Fails(Vec::new()));
        let error = read_into(&mut full, 2, &mut &b"abc"[..]);
        assert!(matches!(error, Err(CopyError::Writing(_))), "{error:?}");
        assert_eq!(out, b"ab");
    }

    /// Gives pieces of these lengths, and notes before each how much of the others has been passed on.
    struct Slow<'a> {
        lengths: Vec<usize>,
        given: usize,
        passed_on: &'a Cell<usize>,
    }

    impl Read for Slow<'_> {
        fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
            assert_eq!(self.passed_on.get(), self.given, "something waits");
            let count = self.lengths.pop().unwrap_or(0).min(space.len());
            self.given += count;
            Ok(count)
        }
    }

    /// Passes nothing on before it is flushed.
    #[derive(Debug)]
    struct Held<'a> {
        held: Vec<u8>,
        passed_on: &'a Cell<usize>,
    }

    impl Write for Held<'_> {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.held.write(data)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.passed_on.set(self.passed_on.get() + self.held.len());
            self.held.clear();
            Ok(())
        }
    }

    #[test]
    fn what_comes_slowly_is_passed_on_as_it_comes() {
        let passed_on = &Cell::new(0);
        let mut input = Slow {
            lengths: vec![7, 1, LITTLE],
            given: 0,
            passed_on,
        };
        let held = Held {
            held: Vec::new(),
            passed_on,
        };
        pass_on(&mut WithRoom::new(held), u64::MAX, &mut input).unwrap();
        assert_eq!(passed_on.get(), LITTLE + 8);
    }

    #[test]
    fn no_more_is_passed_on_than_was_asked_for() {
        for limit in [0, 1, LITTLE, LITTLE + 1, 3 * ROOM_LEN] {
            let mut out = Vec::new();
            let mut input = io::repeat(7);
            pass_on(&mut out, limit as u64, &mut input).unwrap();
            assert_eq!(out.len(), limit);
        }
    }

    #[test]
    fn nobody_gets_more_room_than_they_want() {
        let mut with_room = WithRoom::new(Vec::new());
        for most in [1, 100, ROOM_LEN, 2 * ROOM_LEN] {
            let mut lent = 0;
            let mut look = |room: &mut [u8]| {
                lent = room.len();
                0
            };
            with_room.lend(most, &mut look).unwrap();
            assert_eq!(lent, most.min(ROOM_LEN));
        }
    }
}
