//! Lanes through memory that both sides have, and pipes.

use std::io::{PipeReader, PipeWriter};
use std::sync::{Arc, Mutex};
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::room::Room;

/// Memory that both sides have.
#[derive(Clone)]
struct Shared {
    all: Arc<Mutex<Vec<u8>>>,
    own: Vec<u8>,
}

impl Shared {
    fn new() -> Self {
        Self {
            all: Arc::new(Mutex::new(vec![0; SLOTS * SLOT_LEN])),
            own: vec![0; SLOT_LEN],
        }
    }
}

impl Fill for Shared {
    fn room(&mut self, _slot: usize, at: usize) -> io::Result<&mut [u8]> {
        // Not more than a little at a time, as memory may.
        let end = (at + 100_000).min(SLOT_LEN);
        Ok(&mut self.own[at..end])
    }

    fn put(&mut self, slot: usize, at: usize, len: usize) -> io::Result<()> {
        let there = slot * SLOT_LEN + at;
        self.all.lock().unwrap()[there..there + len].copy_from_slice(&self.own[at..at + len]);
        Ok(())
    }

    fn complete(&mut self, _slot: usize, len: usize) -> io::Result<()> {
        assert!((1..=SLOT_LEN).contains(&len));
        Ok(())
    }
}

impl Fetch for Shared {
    fn open(&mut self, slot: usize, len: usize) -> io::Result<()> {
        let there = slot * SLOT_LEN;
        self.own = self.all.lock().unwrap()[there..there + len].to_vec();
        Ok(())
    }

    fn show(&mut self, at: usize) -> io::Result<&[u8]> {
        Ok(&self.own[at..])
    }
}

type Writer = LaneWriter<Shared, PipeWriter, PipeReader>;
type Reader = LaneReader<Shared, PipeReader, PipeWriter>;

fn lane() -> (Writer, Reader) {
    let memory = Shared::new();
    let (records_out, records_in) = io::pipe().unwrap();
    let (freed_out, freed_in) = io::pipe().unwrap();
    (
        LaneWriter::new(memory.clone(), records_in, freed_out),
        LaneReader::new(memory, records_out, freed_in),
    )
}

fn pattern(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

#[test]
fn more_than_all_slots_hold_arrives_as_it_was() {
    let data = pattern(3 * SLOTS * SLOT_LEN + 12_345);
    let (mut writer, mut reader) = lane();
    let sent = data.clone();
    let writing = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.flush().unwrap();
    });
    let mut come = Vec::new();
    reader.read_to_end(&mut come).unwrap();
    writing.join().unwrap();
    assert!(come == data);
}

/// Records that wait in a buffer make the reader wait for ever, and the writer for it.
#[test]
fn what_is_told_is_told_at_once() {
    let memory = Shared::new();
    let (records_out, records_in) = io::pipe().unwrap();
    let (freed_out, freed_in) = io::pipe().unwrap();
    let records_in = io::BufWriter::new(records_in);
    let mut writer = LaneWriter::new(memory.clone(), records_in, freed_out);
    let mut reader = LaneReader::new(memory, records_out, freed_in);
    writer.write_all(&pattern(SLOT_LEN)).unwrap();
    assert_eq!(reader.read(&mut [0; 100]).unwrap(), 100);
}

#[test]
fn little_things_take_no_slot() {
    let (mut writer, mut reader) = lane();
    for _ in 0..10 * SLOTS {
        writer.write_all(b"little").unwrap();
        writer.flush().unwrap();
    }
    assert_eq!((writer.under_way, writer.slot), (0, 0));
    drop(writer);
    let mut come = Vec::new();
    reader.read_to_end(&mut come).unwrap();
    assert_eq!(come, b"little".repeat(10 * SLOTS));
}

#[test]
fn a_stream_that_is_cut_off_is_no_end() {
    let (mut writer, mut reader) = lane();
    writer.records.write_all(&100_u32.to_le_bytes()).unwrap();
    writer.records.write_all(b"few").unwrap();
    drop(writer);
    let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn who_says_nonsense_is_not_believed() {
    let (mut writer, mut reader) = lane();
    let too_long = u32::try_from(SLOT_LEN + 1).unwrap() | IN_SLOT;
    for record in [too_long, IN_SLOT, 0] {
        writer.records.write_all(&record.to_le_bytes()).unwrap();
        let error = reader.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
    // More slots freed than were ever filled.
    reader.freed.write_all(&[FREE; MAX_FREED]).unwrap();
    let data = pattern((SLOTS + 1) * SLOT_LEN);
    let error = writer.write_all(&data).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(Answer::read(&[7][..]).is_err());
}

/// Where what is told of free slots must not block, as in a thread that also passes it on.
#[cfg(target_os = "linux")]
#[test]
fn who_fills_slots_that_are_not_free_stops_nobody() {
    let (records_out, mut records_in) = io::pipe().unwrap();
    let (_freed_out, freed_in) = io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&freed_in, true).unwrap();
    let record = 1 | IN_SLOT;
    thread::spawn(move || while records_in.write_all(&record.to_le_bytes()).is_ok() {});
    let mut reader = LaneReader::new(Shared::new(), records_out, freed_in);
    let error = io::copy(&mut reader, &mut io::sink()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_reader_that_is_gone_is_noticed() {
    let (mut writer, reader) = lane();
    drop(reader);
    let data = pattern(2 * SLOTS * SLOT_LEN);
    let error = writer.write_all(&data).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn what_is_written_in_whatever_pieces_arrives(
        pieces in prop::collection::vec(
            (0_usize..3 * INLINE_LEN, any::<bool>(), any::<bool>()), 0..60
        ),
        space in 1_usize..100_000,
    ) {
        let (mut writer, mut reader) = lane();
        let total: usize = pieces.iter().map(|(len, ..)| len).sum();
        let data = pattern(total);
        let sent = data.clone();
        let writing = thread::spawn(move || {
            let mut rest = sent.as_slice();
            for (len, flush, lent) in pieces {
                let (mut now, later) = rest.split_at(len);
                while lent && !now.is_empty() {
                    let mut put = |mut room: &mut [u8]| room.write(now).unwrap();
                    let count = writer.lend(now.len(), &mut put).unwrap();
                    now = &now[count..];
                }
                writer.write_all(now).unwrap();
                if flush {
                    writer.flush().unwrap();
                }
                rest = later;
            }
            writer.flush().unwrap();
        });
        let mut come = Vec::new();
        let mut buffer = vec![0; space];
        loop {
            match reader.read(&mut buffer).unwrap() {
                0 => break,
                count => come.extend_from_slice(&buffer[..count]),
            }
        }
        writing.join().unwrap();
        prop_assert!(come == data);
    }
}
