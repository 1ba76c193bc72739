//! The entries of a tar stream, one after the other, nothing trusted and nothing unbounded.

use std::fs::File;
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use crate::error::ArchiveError;
use crate::header::{BLOCK, MAX_EXTENSION, Moment, Records, padding};
use crate::room::CopyError;

/// A sparse file of more pieces is not believed.
const MAX_PIECES: usize = 1 << 20;

/// What people take for tar archives, by what it begins with.
const FOREIGN: [(&[u8], &str); 5] = [
    (b"\x1f\x8b", "it is compressed with gzip"),
    (b"BZh", "it is compressed with bzip2"),
    (b"\xfd7zXZ\0", "it is compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd"),
    (b"PK\x03\x04", "it is a zip archive"),
];

/// What a stream is that begins as none of them.
const NO_HEADER: ArchiveError = ArchiveError::Foreign("it does not begin with a header of one");

/// An entry, before its data is read.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: EntryType,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    /// Unless it is told in no way that makes sense.
    pub(crate) owner: Option<Owner>,
    pub(crate) modified: Moment,
    /// The file's size.
    pub(crate) size: u64,
    /// The pieces of a sparse file, in order.
    pieces: Option<Vec<Piece>>,
}

/// Whom a file belongs to, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) user: u32,
    pub(crate) group: u32,
}

impl Owner {
    /// A record's word counts more than the header's.
    fn of(header: &Header, records: &Records) -> Option<Self> {
        let id = |told: Option<u64>, header: io::Result<u64>| {
            let number = u32::try_from(told.or_else(|| header.ok())?).ok()?;
            // The largest stands for none at all.
            (number != u32::MAX).then_some(number)
        };
        Some(Self {
            user: id(records.user, header.uid())?,
            group: id(records.group, header.gid())?,
        })
    }
}

/// Where data is in a sparse file.
#[derive(Debug, Clone, Copy)]
struct Piece {
    offset: u64,
    length: u64,
}

/// Reads entries.
pub(crate) struct Entries<R> {
    input: R,
    is_begun: bool,
    /// Data and padding of the entry that has been told last and was not read yet.
    unread: u64,
}

impl<R: BufRead> Entries<R> {
    pub(crate) fn new(input: R) -> Self {
        Self {
            input,
            is_begun: false,
            unread: 0,
        }
    }

    /// The next entry; `None` at the archive's end.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        self.skip()?;
        let mut records = Records::default();
        loop {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = header.entry_size().map_err(|_| malformed("a size"))?;
            let kind = header.entry_type();
            match kind {
                EntryType::XHeader => {
                    let told = Records::parse(&self.extension(size)?)?;
                    records = Records {
                        path: told.path.or(records.path),
                        link: told.link.or(records.link),
                        ..told
                    };
                }
                EntryType::GNULongName => records.path = Some(self.name(size)?),
                EntryType::GNULongLink => records.link = Some(self.name(size)?),
                EntryType::XGlobalHeader => drop(self.extension(size)?),
                _ => return self.entry(&header, kind, size, records).map(Some),
            }
        }
    }

    /// Copies the entry's data into a new file, holes as holes.
    pub(crate) fn copy(&mut self, entry: &Entry, file: &mut File) -> Result<(), CopyError> {
        match &entry.pieces {
            None => self.copy_exactly(entry.size, file)?,
            Some(pieces) => {
                file.set_len(entry.size).map_err(CopyError::Writing)?;
                for piece in pieces.iter().filter(|piece| piece.length > 0) {
                    let to = SeekFrom::Start(piece.offset);
                    file.seek(to).map_err(CopyError::Writing)?;
                    self.copy_exactly(piece.length, file)?;
                }
            }
        }
        Ok(())
    }

    fn copy_exactly(&mut self, length: u64, file: &mut File) -> Result<(), CopyError> {
        let mut left = length;
        while left > 0 {
            let data = some(&mut self.input, left).map_err(CopyError::Reading)?;
            file.write_all(data).map_err(CopyError::Writing)?;
            let count = data.len();
            self.input.consume(count);
            left -= count as u64;
            self.unread = self.unread.saturating_sub(count as u64);
        }
        Ok(())
    }

    /// Passes over what is left of the last entry.
    fn skip(&mut self) -> Result<(), ArchiveError> {
        while self.unread > 0 {
            let count = some(&mut self.input, self.unread)
                .map_err(ArchiveError::Stream)?
                .len();
            self.input.consume(count);
            self.unread -= count as u64;
        }
        Ok(())
    }

    fn block(&mut self) -> Result<[u8; BLOCK], ArchiveError> {
        let mut block = [0; BLOCK];
        let read = self.input.read_exact(&mut block);
        read.map_err(ArchiveError::Stream)?;
        Ok(block)
    }

    /// The next header; `None` for a block of zeros, which ends an archive.
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        let block = match is_first {
            true => self.first_block()?,
            false => self.block()?,
        };
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum: u32 = (0..)
            .zip(block)
            .map(|(index, byte)| match index {
                148..156 => u32::from(b' '),
                _ => u32::from(byte),
            })
            .sum();
        match header.cksum().ok() == Some(sum) {
            true => Ok(Some(header)),
            false if is_first => Err(foreign(&block).unwrap_or(NO_HEADER)),
            false => Err(malformed("a header's checksum is wrong")),
        }
    }

    /// The first block, of what may be shorter than one.
    fn first_block(&mut self) -> Result<[u8; BLOCK], ArchiveError> {
        let mut block = Vec::with_capacity(BLOCK);
        let read = self
            .input
            .by_ref()
            .take(BLOCK as u64)
            .read_to_end(&mut block);
        read.map_err(ArchiveError::Stream)?;
        block.try_into().map_err(|short: Vec<u8>| {
            let cut = ArchiveError::Stream(io::ErrorKind::UnexpectedEof.into());
            foreign(&short).unwrap_or(cut)
        })
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > MAX_EXTENSION {
            return Err(malformed("an extended header is too large"));
        }
        let size_here = usize::try_from(size).unwrap_or(0);
        let mut text = vec![0; size_here + padding(size)];
        let read = self.input.read_exact(&mut text);
        read.map_err(ArchiveError::Stream)?;
        text.truncate(size_here);
        Ok(text)
    }

    fn name(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        let mut name = self.extension(size)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn entry(
        &mut self,
        header: &Header,
        kind: EntryType,
        size: u64,
        records: Records,
    ) -> Result<Entry, ArchiveError> {
        let owner = Owner::of(header, &records);
        let path = records
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        if records.foreign_sparse {
            return Err(ArchiveError::refused(
                &path,
                "sparse files of this form are not supported",
            ));
        }
        let stored = match kind {
            // Of these, a size is what the file had when it was packed, and no data follows.
            EntryType::Link | EntryType::Symlink | EntryType::Directory => 0,
            _ => records.size.unwrap_or(size),
        };
        let (pieces, size) = if kind == EntryType::GNUSparse {
            let (pieces, size) = self.pieces(header, stored)?;
            (Some(pieces), size)
        } else {
            (None, stored)
        };
        self.unread = stored
            .checked_add(padding(stored) as u64)
            .ok_or_else(|| malformed("a size"))?;
        let link = records
            .link
            .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
        let seconds = header
            .mtime()
            .ok()
            .and_then(|seconds| i64::try_from(seconds).ok());
        let modified = Moment {
            seconds: seconds.unwrap_or(0),
            nanoseconds: 0,
        };
        Ok(Entry {
            kind,
            path,
            link: link.unwrap_or_default(),
            mode: header.mode().map_err(|_| malformed("a mode"))?,
            owner,
            modified: records.modified.unwrap_or(modified),
            size,
            pieces,
        })
    }

    /// The pieces of a sparse file in GNU's old form, and the file's size.
    fn pieces(&mut self, header: &Header, stored: u64) -> Result<(Vec<Piece>, u64), ArchiveError> {
        let wrong = || malformed("a sparse file's map");
        let gnu = header.as_gnu().ok_or_else(wrong)?;
        let size = gnu.real_size().map_err(|_| wrong())?;
        let mut map = Map {
            pieces: Vec::new(),
            end: 0,
            stored: 0,
        };
        map.add(&gnu.sparse)?;
        let mut is_extended = gnu.is_extended();
        while is_extended {
            let mut extension = GnuExtSparseHeader::new();
            extension.as_mut_bytes().copy_from_slice(&self.block()?);
            map.add(extension.sparse())?;
            is_extended = extension.is_extended();
        }
        if map.end > size || map.stored != stored {
            return Err(wrong());
        }
        Ok((map.pieces, size))
    }
}

/// A sparse file's map, as far as it is known.
struct Map {
    pieces: Vec<Piece>,
    /// Where the last piece ends.
    end: u64,
    /// How much data they are together.
    stored: u64,
}

impl Map {
    fn add(&mut self, headers: &[GnuSparseHeader]) -> Result<(), ArchiveError> {
        let wrong = || malformed("a sparse file's map");
        for header in headers.iter().filter(|header| !header.is_empty()) {
            let offset = header.offset().map_err(|_| wrong())?;
            let length = header.length().map_err(|_| wrong())?;
            if offset < self.end || self.pieces.len() >= MAX_PIECES {
                return Err(wrong());
            }
            self.end = offset.checked_add(length).ok_or_else(wrong)?;
            self.stored = self.stored.checked_add(length).ok_or_else(wrong)?;
            self.pieces.push(Piece { offset, length });
        }
        Ok(())
    }
}

/// Some of what comes next: at most `most` bytes, and at least one.
fn some(input: &mut impl BufRead, most: u64) -> io::Result<&[u8]> {
    // Asked again, as borrows want it: what is there stays there.
    while let Err(error) = input.fill_buf() {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let data = input.fill_buf()?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    match data.get(..most).unwrap_or(data) {
        [] => Err(io::ErrorKind::UnexpectedEof.into()),
        data => Ok(data),
    }
}

/// What a stream is that begins so, and is no tar archive.
fn foreign(beginning: &[u8]) -> Option<ArchiveError> {
    let mut known = FOREIGN.iter();
    let (_, what) = known.find(|(magic, _)| beginning.starts_with(magic))?;
    Some(ArchiveError::Foreign(what))
}

const fn malformed(what: &'static str) -> ArchiveError {
    ArchiveError::Malformed(what)
}
