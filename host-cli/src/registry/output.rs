//! What a command wrote, kept in its sandbox's folder: bounded, rotated, and followed as it grows.
//!
//! ```text
//!  output/N        the newest part      header, then pieces
//!  output/N.1      the one before it    header, then pieces
//!
//!  header   8 bytes: how many parts came before this one
//!  piece    1 byte kind, 8 bytes Unix time in ms, 4 bytes length, the bytes
//! ```
//!
//! Numbers are little-endian. The last piece is the exit report, in JSON. Where a full disk did not take
//! something, a piece says how much.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_protocol::message::{ExitReport, OutputStream};

/// A part that has grown to this is put aside, and the one that was put aside before is lost.
const PART_BYTES: u64 = 8 << 20;
/// The same for a console.
const CONSOLE_PART_BYTES: u64 = 512 << 10;

/// The largest piece: what one frame of the agent carries, and some room.
const MAX_PIECE: usize = 1 << 20;

const HEADER: u64 = 8;
const PIECE_HEADER: usize = 13;

const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ENDED: u8 = 3;
const MISSING: u8 = 4;

/// The writing end. There is one.
#[derive(Debug)]
pub(crate) struct OutputWriter {
    path: PathBuf,
    file: File,
    part: u64,
    size: u64,
    limit: u64,
    /// How much output could not be written since the last piece that could.
    missing: u64,
    /// Whether there may be something behind `size`.
    is_torn: bool,
}

/// A reading end.
#[derive(Debug)]
pub struct OutputReader {
    path: PathBuf,
    file: File,
    part: u64,
    at: u64,
}

/// Something that a command wrote, or its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Output.
    Output {
        /// Where it wrote it.
        stream: OutputStream,
        /// When.
        time: SystemTime,
        /// What.
        data: Vec<u8>,
    },
    /// So many parts were put aside and lost before they were read.
    Lost {
        /// How many.
        parts: u64,
    },
    /// So much output is missing here: the disk did not take it.
    Missing {
        /// How many bytes.
        bytes: u64,
    },
    /// The command has ended.
    Ended(ExitReport),
}

impl OutputWriter {
    /// Makes the file for a command.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Self::create_with(path, PART_BYTES)
    }

    /// Makes the file for a console.
    pub(crate) fn create_console(path: &Path) -> io::Result<Self> {
        Self::create_with(path, CONSOLE_PART_BYTES)
    }

    fn create_with(path: &Path, limit: u64) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        Self::create_part(path, 0, limit)
    }

    fn create_part(path: &Path, part: u64, limit: u64) -> io::Result<Self> {
        let writer = Self::prepare_part(path, part, limit)?;
        fs::rename(unseen(path), path)?;
        Ok(writer)
    }

    /// Makes a part that nobody sees yet: none is ever seen without its header.
    fn prepare_part(path: &Path, part: u64, limit: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.write(true).create_new(true).mode(0o600);
        let new = unseen(path);
        let _ = fs::remove_file(&new);
        let mut file = options.open(&new)?;
        file.write_all(&part.to_le_bytes())?;
        Ok(Self {
            path: path.to_owned(),
            file,
            part,
            size: HEADER,
            limit,
            missing: 0,
            is_torn: false,
        })
    }

    /// Adds output. What cannot be written is counted, and the next piece that can be tells of it.
    pub(crate) fn write(&mut self, stream: OutputStream, data: &[u8]) -> io::Result<()> {
        let kind = match stream {
            OutputStream::Stdout => STDOUT,
            OutputStream::Stderr => STDERR,
        };
        let mut outcome = Ok(());
        for data in data.chunks(MAX_PIECE) {
            if let Err(error) = self.add(kind, data) {
                self.missing += u64::try_from(data.len()).unwrap_or_default();
                outcome = Err(error);
            }
        }
        outcome
    }

    /// Adds the end.
    pub(crate) fn end(&mut self, report: &ExitReport) -> io::Result<()> {
        self.add(ENDED, &serde_json::to_vec(report)?)
    }

    fn add(&mut self, kind: u8, data: &[u8]) -> io::Result<()> {
        let mut pieces = Vec::with_capacity(2 * PIECE_HEADER + 8 + data.len());
        if self.missing > 0 {
            encode(MISSING, &self.missing.to_le_bytes(), &mut pieces)?;
        }
        encode(kind, data, &mut pieces)?;
        let bytes = u64::try_from(pieces.len()).map_err(io::Error::other)?;
        if self.size + bytes > self.limit && self.size > HEADER {
            self.turn_over()?;
        }
        if self.is_torn {
            self.cut()?;
        }
        // In one write at a known place: a reader sees none of it or all.
        if let Err(error) = self.file.write_all_at(&pieces, self.size) {
            // What a full disk cut short goes at once: of a shorter piece in its place, a reader would
            // take the rest of it for the next one.
            self.is_torn = true;
            let _ = self.cut();
            return Err(error);
        }
        self.size += bytes;
        self.missing = 0;
        Ok(())
    }

    /// Cuts off what is behind the last whole piece.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.size)?;
        self.is_torn = false;
        Ok(())
    }

    /// Goes on in a new part. That is made first: without room for it, the full one stays in its place.
    fn turn_over(&mut self) -> io::Result<()> {
        let next = Self::prepare_part(&self.path, self.part + 1, self.limit)?;
        fs::rename(&self.path, aside(&self.path))?;
        fs::rename(unseen(&self.path), &self.path)?;
        *self = Self {
            missing: self.missing,
            ..next
        };
        Ok(())
    }
}

impl OutputReader {
    /// Opens what a command wrote, at the oldest that is still there.
    ///
    /// # Errors
    ///
    /// If there is nothing.
    pub fn open(path: &Path) -> io::Result<Self> {
        let oldest = open_part(&aside(path));
        let (file, part) = match oldest {
            Err(error) if error.kind() == ErrorKind::NotFound => open_part(path)?,
            found => found?,
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            part,
            at: HEADER,
        })
    }

    /// The next piece; `None` if there is none yet.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or is none of this kind.
    pub fn next_piece(&mut self) -> io::Result<Option<Piece>> {
        loop {
            if let Some(piece) = self.read_piece()? {
                return Ok(Some(piece));
            }
            // Only a part that was put aside is complete.
            let (newest, part) = match open_part(&self.path) {
                Ok(found) => found,
                // Just being put aside.
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            if part <= self.part {
                return Ok(None);
            }
            // It may have grown between the two.
            if let Some(piece) = self.read_piece()? {
                return Ok(Some(piece));
            }
            let next = self.part + 1;
            let (file, part) = match open_part(&aside(&self.path)) {
                Ok((file, aside)) if aside == next && part > next => (file, aside),
                _ => (newest, part),
            };
            (self.file, self.part, self.at) = (file, part, HEADER);
            if part > next {
                return Ok(Some(Piece::Lost { parts: part - next }));
            }
        }
    }

    fn read_piece(&mut self) -> io::Result<Option<Piece>> {
        let mut header = [0; PIECE_HEADER];
        if !self.read_whole(&mut header, self.at)? {
            return Ok(None);
        }
        let [kind, rest @ ..] = header;
        let (time, length) = rest.split_at(8);
        let time = u64::from_le_bytes(time.try_into().unwrap_or_default());
        let length = u32::from_le_bytes(length.try_into().unwrap_or_default());
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        if size > MAX_PIECE {
            return Err(self.damaged());
        }
        let mut data = vec![0; size];
        if !self.read_whole(&mut data, self.at + 13)? {
            return Ok(None);
        }
        self.at += 13 + u64::from(length);
        let stream = match kind {
            STDOUT => OutputStream::Stdout,
            STDERR => OutputStream::Stderr,
            ENDED => {
                let report = serde_json::from_slice(&data).map_err(|_| self.damaged())?;
                return Ok(Some(Piece::Ended(report)));
            }
            MISSING => {
                let bytes = data.try_into().map_err(|_| self.damaged())?;
                let bytes = u64::from_le_bytes(bytes);
                return Ok(Some(Piece::Missing { bytes }));
            }
            _ => return Err(self.damaged()),
        };
        Ok(Some(Piece::Output {
            stream,
            time: UNIX_EPOCH + Duration::from_millis(time),
            data,
        }))
    }

    /// Reads that many bytes; `false` if they are not there yet.
    fn read_whole(&self, space: &mut [u8], at: u64) -> io::Result<bool> {
        match self.file.read_exact_at(space, at) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn damaged(&self) -> io::Error {
        let text = format!("{} is damaged at byte {}", self.path.display(), self.at);
        io::Error::new(ErrorKind::InvalidData, text)
    }
}

/// Adds a piece to `pieces`.
fn encode(kind: u8, data: &[u8], pieces: &mut Vec<u8>) -> io::Result<()> {
    let length = u32::try_from(data.len()).map_err(io::Error::other)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
    pieces.push(kind);
    pieces.extend_from_slice(&now.to_le_bytes());
    pieces.extend_from_slice(&length.to_le_bytes());
    pieces.extend_from_slice(data);
    Ok(())
}

/// Removes what a command wrote.
pub(crate) fn remove(path: &Path) {
    for path in [path.to_owned(), aside(path)] {
        // What is not there need not be removed.
        let _ = fs::remove_file(path);
    }
}

fn open_part(path: &Path) -> io::Result<(File, u64)> {
    let mut file = File::open(path)?;
    let mut header = [0; 8];
    file.read_exact(&mut header)?;
    Ok((file, u64::from_le_bytes(header)))
}

/// Where a part is made.
fn unseen(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension("1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> ExitReport {
        ExitReport {
            code: Some(3),
            signal: None,
            timed_out: false,
            truncated: false,
            duration: Duration::from_secs(1),
        }
    }

    fn data(piece: Option<Piece>) -> Option<Vec<u8>> {
        match piece {
            Some(Piece::Output { data, .. }) => Some(data),
            Some(other) => panic!("{other:?}"),
            None => None,
        }
    }

    #[test]
    fn what_is_written_is_read_as_it_grows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("output/1");
        let mut writer = OutputWriter::create(&path).unwrap();
        let mut reader = OutputReader::open(&path).unwrap();
        assert_eq!(reader.next_piece().unwrap(), None);
        writer.write(OutputStream::Stdout, b"one").unwrap();
        assert_eq!(data(reader.next_piece().unwrap()), Some(b"one".to_vec()));
        writer.write(OutputStream::Stderr, b"\xff").unwrap();
        writer.end(&report()).unwrap();
        let Some(Piece::Output { stream, .. }) = reader.next_piece().unwrap() else {
            panic!()
        };
        assert_eq!(stream, OutputStream::Stderr);
        assert_eq!(reader.next_piece().unwrap(), Some(Piece::Ended(report())));
        assert_eq!(reader.next_piece().unwrap(), None);
    }

    #[test]
    fn it_is_bounded_and_whoever_is_too_slow_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1");
        let mut writer = OutputWriter::create_part(&path, 0, 100).unwrap();
        let mut quick = OutputReader::open(&path).unwrap();
        let mut slow = OutputReader::open(&path).unwrap();
        for number in 0..50_u8 {
            writer.write(OutputStream::Stdout, &[number; 20]).unwrap();
            let read = data(quick.next_piece().unwrap());
            assert_eq!(read, Some(vec![number; 20]));
        }
        let sizes = [path.clone(), aside(&path)].map(|path| fs::metadata(path).unwrap().len());
        assert!(sizes.iter().all(|size| *size <= 100), "{sizes:?}");

        let mut lost = false;
        let mut last = None;
        while let Some(piece) = slow.next_piece().unwrap() {
            match piece {
                Piece::Lost { .. } => lost = true,
                Piece::Output { data, .. } => last = Some(data),
                Piece::Missing { .. } | Piece::Ended(_) => panic!("nothing of that happened"),
            }
        }
        assert!(lost);
        assert_eq!(last, Some(vec![49; 20]));
    }

    #[test]
    fn what_a_full_disk_cut_short_spoils_nothing_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1");
        let mut writer = OutputWriter::create(&path).unwrap();
        writer.write(OutputStream::Stdout, b"before").unwrap();
        // As `write` leaves it when the rest cannot be taken back either.
        let torn = [[STDOUT].as_slice(), &[7; 500]].concat();
        writer.file.write_all_at(&torn, writer.size).unwrap();
        (writer.is_torn, writer.missing) = (true, 488);
        writer.write(OutputStream::Stdout, b"after").unwrap();
        writer.end(&report()).unwrap();
        let mut reader = OutputReader::open(&path).unwrap();
        assert_eq!(data(reader.next_piece().unwrap()), Some(b"before".to_vec()));
        let missing = Piece::Missing { bytes: 488 };
        assert_eq!(reader.next_piece().unwrap(), Some(missing));
        assert_eq!(data(reader.next_piece().unwrap()), Some(b"after".to_vec()));
        assert_eq!(reader.next_piece().unwrap(), Some(Piece::Ended(report())));
    }

    #[test]
    fn without_room_for_the_next_part_the_full_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1");
        let mut writer = OutputWriter::create_part(&path, 0, 100).unwrap();
        writer.write(OutputStream::Stdout, &[1; 60]).unwrap();
        // Nothing can be made in its place.
        fs::create_dir(unseen(&path)).unwrap();
        writer.write(OutputStream::Stdout, &[2; 60]).unwrap_err();
        fs::remove_dir(unseen(&path)).unwrap();
        writer.write(OutputStream::Stdout, &[3; 60]).unwrap();
        let mut reader = OutputReader::open(&path).unwrap();
        assert_eq!(data(reader.next_piece().unwrap()), Some(vec![1; 60]));
        let missing = Piece::Missing { bytes: 60 };
        assert_eq!(reader.next_piece().unwrap(), Some(missing));
        assert_eq!(data(reader.next_piece().unwrap()), Some(vec![3; 60]));
    }

    #[test]
    fn what_is_no_output_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1");
        fs::write(&path, [[0; 8].as_slice(), &[9; 40]].concat()).unwrap();
        let error = OutputReader::open(&path).unwrap().next_piece().unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }
}
