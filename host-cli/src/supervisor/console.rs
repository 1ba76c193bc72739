//! A guest's console, kept in its sandbox's folder as it is written.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use agent_protocol::message::OutputStream;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::registry::output::{self, OutputWriter};

/// How much of a console is read at a time.
const READ_BYTES: usize = 4096;

/// A console that is kept by a thread until nobody writes to it any more. Dropped, it waits for that.
#[derive(Debug)]
pub(super) struct Console {
    end: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Console {
    /// Keeps a console at this path, in place of the one of the start before.
    pub(super) fn new(path: PathBuf) -> io::Result<Self> {
        output::remove(&path);
        let (read, end) = pipe_with(PipeFlags::CLOEXEC)?;
        // Who writes to it is a machine, which never waits.
        fcntl_setfl(&end, OFlags::NONBLOCK)?;
        let thread = thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || keep(read.into(), &path))?;
        Ok(Self {
            end: Some(end),
            thread: Some(thread),
        })
    }

    /// Where to write it.
    pub(super) fn end(&self) -> Option<BorrowedFd<'_>> {
        self.end.as_ref().map(AsFd::as_fd)
    }

    /// Leaves it to those who have been given the end.
    pub(super) fn let_go(&mut self) {
        self.end = None;
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.let_go();
        if let Some(thread) = self.thread.take() {
            // It has no result.
            let _ = thread.join();
        }
    }
}

/// Keeps what comes, until nobody is left to write. A sandbox without a console has no file.
fn keep(mut pipe: File, path: &std::path::Path) {
    let mut writer = None;
    let mut space = [0; READ_BYTES];
    loop {
        let data = match pipe.read(&mut space) {
            Ok(0) => return,
            Ok(length) => space.get(..length).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        if writer.is_none() {
            writer = OutputWriter::create_console(path).ok();
        }
        // What a full disk does not take is lost; the guest goes on.
        let _ = writer
            .as_mut()
            .map(|writer| writer.write(OutputStream::Stdout, data));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::registry::output::{OutputReader, Piece};

    fn text(path: &std::path::Path) -> String {
        let mut reader = OutputReader::open(path).unwrap();
        let mut text = Vec::new();
        while let Some(piece) = reader.next_piece().unwrap() {
            if let Piece::Output { data, .. } = piece {
                text.extend(data);
            }
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn what_is_written_is_kept_until_the_end_and_the_next_start_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("output/console");
        for line in ["one\n", "two\n"] {
            let mut console = Console::new(path.clone()).unwrap();
            assert!(!path.exists());
            let mut guest = File::from(console.end().unwrap().try_clone_to_owned().unwrap());
            console.let_go();
            guest.write_all(line.as_bytes()).unwrap();
            drop(guest);
            drop(console);
            assert_eq!(text(&path), line);
        }
    }

    #[test]
    fn a_flood_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        let console = Console::new(path.clone()).unwrap();
        let guest = console.end().unwrap().try_clone_to_owned().unwrap();
        fcntl_setfl(&guest, OFlags::empty()).unwrap();
        let mut guest = File::from(guest);
        let line = [b'x'; 1023];
        for _ in 0..4096 {
            guest.write_all(&line).unwrap();
            guest.write_all(b"\n").unwrap();
        }
        drop(guest);
        drop(console);
        let files = [path.clone(), path.with_extension("1")];
        let sizes = files.map(|file| std::fs::metadata(file).unwrap().len());
        assert!(sizes.iter().sum::<u64>() <= 1 << 20, "{sizes:?}");
        assert!(sizes.iter().sum::<u64>() > 500_000, "{sizes:?}");
    }
}
