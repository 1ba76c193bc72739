//! Where the data of a file with holes is.

use std::os::fd::OwnedFd;

use rustix::fs::{SeekFrom, Stat};
use rustix::io::Errno;
use tar::GnuSparseHeader;

use crate::header::BLOCK;

/// Where a file's data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Writes as many pieces down as there is room for. Returns the others.
pub(crate) fn fill<'p>(places: &mut [GnuSparseHeader], pieces: &'p [Piece]) -> &'p [Piece] {
    let (now, later) = pieces.split_at(places.len().min(pieces.len()));
    for (place, piece) in places.iter_mut().zip(now) {
        place.set_offset(piece.offset);
        place.set_length(piece.length);
    }
    later
}

/// Where the data of a file with holes is, and an empty piece at its end; `None` if it has none.
pub(crate) fn pieces(file: &OwnedFd, stat: &Stat, size: u64) -> Result<Option<Vec<Piece>>, Errno> {
    let allocated = u64::try_from(stat.st_blocks)
        .unwrap_or(0)
        .saturating_mul(512);
    if allocated >= size {
        return Ok(None);
    }
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start.min(size),
            Err(Errno::NXIO) => break,
            // A file system that knows no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(size);
        // Pieces begin at blocks, for readers that insist on it.
        let offset = start - start % BLOCK as u64;
        if end <= at || offset < at {
            return Err(Errno::AGAIN);
        }
        pieces.push(Piece {
            offset,
            length: end - offset,
        });
        at = end;
    }
    rustix::fs::seek(file, SeekFrom::Start(0))?;
    if let [Piece { offset: 0, length }] = pieces[..]
        && length == size
    {
        return Ok(None);
    }
    pieces.push(Piece {
        offset: size,
        length: 0,
    });
    Ok(Some(pieces))
}
