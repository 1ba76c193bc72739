//! One request: its header, its checks, its work and its status (virtio 1.2, section 5.2.6).
//!
//! ```text
//!   readable: type, reserved, sector (16 bytes) │ data of a write
//!   writable: data of a read                    │ status (the last byte)
//! ```
//!
//! Where the buffers begin and end says nothing: header, data and status may share one or be spread
//! over many (virtio 1.2, section 2.7.4.1).

use std::io;
use std::sync::Arc;

use rustix::io::Errno;

use super::config::{MAX_RANGES, SECTOR_SIZE, SIZE_MAX, VIRTIO_BLK_F_FLUSH, seg_max};
use super::medium::Medium;
use super::{ID_BLOCK, QUEUE_SIZE};
use crate::devices::virtio::queue::{Chain, GuestBuffers};
use crate::devices::virtio::report_failure;

const VIRTIO_BLK_T_IN: u32 = 0;
const VIRTIO_BLK_T_OUT: u32 = 1;
const VIRTIO_BLK_T_FLUSH: u32 = 4;
const VIRTIO_BLK_T_GET_ID: u32 = 8;
const VIRTIO_BLK_T_DISCARD: u32 = 11;
const VIRTIO_BLK_T_WRITE_ZEROES: u32 = 13;

const VIRTIO_BLK_S_OK: u8 = 0;
const VIRTIO_BLK_S_IOERR: u8 = 1;
const VIRTIO_BLK_S_UNSUPP: u8 = 2;

/// `unmap` in the flags of a write-zeroes range.
const UNMAP: u32 = 1;

/// The length of what `GET_ID` answers.
const ID_LEN: usize = 20;

/// A driver left no room to answer it.
#[derive(Debug, thiserror::Error)]
#[error("the request at head {head} has no byte for its status")]
pub(super) struct NoStatus {
    head: u16,
}

/// How a request failed, as the driver is told.
#[derive(Debug)]
enum Failure {
    /// Not done, because the driver asked for what cannot be.
    Refused,
    /// Not a request that this device knows.
    Unsupported,
    /// Not done, because the host failed.
    Host(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::OPNOTSUPP) => Self::Unsupported,
            // There is nothing at this place.
            Some(Errno::NXIO) => Self::Refused,
            _ => Self::Host(error),
        }
    }
}

/// A disk as one driver uses it, from activation to reset.
pub(super) struct Disk<M> {
    medium: Arc<M>,
    id: [u8; ID_LEN],
    /// The driver does not know of a cache, so nothing may stay in it.
    write_through: bool,
    reported: bool,
}

impl<M: Medium> Disk<M> {
    /// `name` is what the driver is told that the disk is called.
    pub(super) fn new(medium: Arc<M>, name: &str, features: u64) -> Self {
        let mut id = [0; ID_LEN];
        for (byte, value) in id.iter_mut().zip(name.bytes()) {
            *byte = value;
        }
        let write_through = features & VIRTIO_BLK_F_FLUSH == 0 && !medium.is_read_only();
        Self {
            medium,
            id,
            write_through,
            reported: false,
        }
    }

    /// Does what the driver asks for, and tells it how that went. Returns how many bytes were
    /// written to the chain, from the beginning of its writable buffers.
    ///
    /// # Errors
    /// There is no room for an answer.
    pub(super) fn execute(&mut self, chain: &mut Chain<'_>) -> Result<u32, NoStatus> {
        let room = chain.writable.len();
        let no_status = NoStatus { head: chain.head() };
        let Some(data_len) = room.checked_sub(1) else {
            return Err(no_status);
        };
        let Ok(mut status) = chain.writable.split_off(data_len) else {
            return Err(no_status);
        };

        let outcome = self.perform(&mut chain.readable, &mut chain.writable);
        let (code, written) = match outcome {
            Ok(written) => (VIRTIO_BLK_S_OK, written),
            Err(Failure::Refused) => (VIRTIO_BLK_S_IOERR, 0),
            Err(Failure::Unsupported) => (VIRTIO_BLK_S_UNSUPP, 0),
            Err(Failure::Host(error)) => {
                self.report(&error);
                (VIRTIO_BLK_S_IOERR, 0)
            }
        };
        if status.write_all(&[code]).is_err() {
            return Err(no_status);
        }
        // VIRTIO 1.2 §2.7.8.2: no more than what was written without a gap. The status lies at the
        // end of the room.
        let used = if written == data_len { room } else { written };
        Ok(u32::try_from(used).unwrap_or(u32::MAX))
    }

    /// Returns how many bytes were written to `writable`.
    fn perform(
        &self,
        readable: &mut GuestBuffers<'_>,
        writable: &mut GuestBuffers<'_>,
    ) -> Result<usize, Failure> {
        let header = Header::read(readable)?;
        match header.kind {
            VIRTIO_BLK_T_IN => self.read(header.sector, writable),
            VIRTIO_BLK_T_OUT => self.write(header.sector, readable),
            VIRTIO_BLK_T_FLUSH => self.flush(),
            VIRTIO_BLK_T_GET_ID => self.get_id(writable),
            VIRTIO_BLK_T_DISCARD => self.discard(readable),
            VIRTIO_BLK_T_WRITE_ZEROES => self.write_zeroes(readable),
            _ => Err(Failure::Unsupported),
        }
    }

    fn read(&self, sector: u64, data: &mut GuestBuffers<'_>) -> Result<usize, Failure> {
        let len = data.len();
        let mut offset = self.data_offset(sector, len)?;
        while !data.is_empty() {
            let count = self.medium.read_at(data.slices(), offset)?;
            if count == 0 {
                // The file has become shorter since it was opened.
                return Err(Failure::Host(io::ErrorKind::UnexpectedEof.into()));
            }
            data.advance(count);
            offset += count as u64;
        }
        Ok(len)
    }

    fn write(&self, sector: u64, data: &mut GuestBuffers<'_>) -> Result<usize, Failure> {
        self.require_writable()?;
        let mut offset = self.data_offset(sector, data.len())?;
        while !data.is_empty() {
            let count = self.medium.write_at(data.slices(), offset)?;
            if count == 0 {
                return Err(Failure::Host(io::ErrorKind::WriteZero.into()));
            }
            data.advance(count);
            offset += count as u64;
        }
        self.finish_write()
    }

    fn flush(&self) -> Result<usize, Failure> {
        if !self.medium.is_read_only() {
            self.medium.sync()?;
        }
        Ok(0)
    }

    fn get_id(&self, data: &mut GuestBuffers<'_>) -> Result<usize, Failure> {
        data.write_all(&self.id).map_err(|_| Failure::Refused)?;
        Ok(ID_LEN)
    }

    fn discard(&self, data: &mut GuestBuffers<'_>) -> Result<usize, Failure> {
        self.require_writable()?;
        // VIRTIO 1.2 §5.2.6.2: no flag means anything for a discard.
        for range in self.ranges(data, 0)?.iter().filter(|range| range.len > 0) {
            self.medium.punch_hole(range.offset, range.len)?;
        }
        self.finish_write()
    }

    fn write_zeroes(&self, data: &mut GuestBuffers<'_>) -> Result<usize, Failure> {
        self.require_writable()?;
        for range in self
            .ranges(data, UNMAP)?
            .iter()
            .filter(|range| range.len > 0)
        {
            if range.flags & UNMAP == 0 {
                self.medium.zero_range(range.offset, range.len)?;
            } else {
                self.medium.punch_hole(range.offset, range.len)?;
            }
        }
        self.finish_write()
    }

    fn finish_write(&self) -> Result<usize, Failure> {
        if self.write_through {
            self.medium.sync()?;
        }
        Ok(0)
    }

    fn require_writable(&self) -> Result<(), Failure> {
        // VIRTIO 1.2 §5.2.6.2: a write to a read-only device fails.
        if self.medium.is_read_only() {
            Err(Failure::Refused)
        } else {
            Ok(())
        }
    }

    /// Where in the file `len` bytes from `sector` on lie, if they lie wholly on the disk.
    fn data_offset(&self, sector: u64, len: usize) -> Result<u64, Failure> {
        let most = u64::from(SIZE_MAX) * u64::from(seg_max(QUEUE_SIZE));
        let len = len as u64;
        if !len.is_multiple_of(SECTOR_SIZE) || len > most {
            return Err(Failure::Refused);
        }
        self.require_on_disk(sector, len / SECTOR_SIZE)
    }

    /// The byte offset of `sector`, if it and the `count - 1` sectors after it are on the disk.
    fn require_on_disk(&self, sector: u64, count: u64) -> Result<u64, Failure> {
        let end = sector.checked_add(count).ok_or(Failure::Refused)?;
        if end > self.medium.sectors() {
            return Err(Failure::Refused);
        }
        // No overflow: the file is longer than this.
        Ok(sector * SECTOR_SIZE)
    }

    /// Reads and checks all ranges before anything is done with one of them.
    fn ranges(&self, data: &mut GuestBuffers<'_>, flags: u32) -> Result<Vec<Range>, Failure> {
        let count = data.len() / RANGE_LEN;
        if !data.len().is_multiple_of(RANGE_LEN) || count == 0 || count > MAX_RANGES as usize {
            return Err(Failure::Refused);
        }
        if !self.medium.punches_holes() {
            return Err(Failure::Unsupported);
        }
        (0..count).map(|_| self.range(data, flags)).collect()
    }

    /// `struct virtio_blk_discard_write_zeroes`.
    fn range(&self, data: &mut GuestBuffers<'_>, known_flags: u32) -> Result<Range, Failure> {
        let sector = u64::from_le_bytes(take(data)?);
        let count = u64::from(u32::from_le_bytes(take(data)?));
        let flags = u32::from_le_bytes(take(data)?);
        // VIRTIO 1.2 §5.2.6.2: unknown flags are unsupported.
        if flags & !known_flags != 0 {
            return Err(Failure::Unsupported);
        }
        let offset = self.require_on_disk(sector, count)?;
        Ok(Range {
            offset,
            len: count * SECTOR_SIZE,
            flags,
        })
    }

    /// Tells the host's side once; the guest hears of every failure.
    fn report(&mut self, error: &io::Error) {
        if !self.reported {
            self.reported = true;
            report_failure(ID_BLOCK, error);
        }
    }
}

/// `struct virtio_blk_req` up to its data.
struct Header {
    kind: u32,
    sector: u64,
}

impl Header {
    fn read(readable: &mut GuestBuffers<'_>) -> Result<Self, Failure> {
        let kind = u32::from_le_bytes(take(readable)?);
        let _reserved: [u8; 4] = take(readable)?;
        let sector = u64::from_le_bytes(take(readable)?);
        Ok(Self { kind, sector })
    }
}

/// The length of one range.
const RANGE_LEN: usize = 16;

/// A checked range of a discard or write-zeroes request, in bytes.
struct Range {
    offset: u64,
    len: u64,
    flags: u32,
}

/// Copies the next bytes out of guest memory.
fn take<const N: usize>(buffers: &mut GuestBuffers<'_>) -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    buffers
        .read_exact(&mut bytes)
        .map_err(|_| Failure::Refused)?;
    Ok(bytes)
}
