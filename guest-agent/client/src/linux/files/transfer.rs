//! One operation's data on its way, hashed on this side as it is on the other.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread::{self, ScopedJoinHandle};

use agent_archive::ArchiveError;
use agent_archive::digest::{Digest, DigestWriter};
use agent_protocol::files::{
    FileOperation, FileReport, FileRequest, MAX_RECORD, Transfer, decode_record,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;

use super::incoming::{Basket, Incoming};
use super::{Files, FilesError};
use crate::linux::pump::PumpIo;
use crate::linux::session::Exec;
use crate::linux::sink::{OutputTarget, Taker};
use crate::linux::source::InputSource;

/// As large as one may be without privilege.
const PIPE_SIZE: usize = 1024 * 1024;
/// How much is written to a pipe at a time.
const CHUNK: usize = 128 * 1024;

impl Files {
    /// Passes records on as they come.
    pub(super) fn records<T: DeserializeOwned>(
        self,
        path: &[u8],
        operation: FileOperation,
        each: &mut (dyn FnMut(T) -> io::Result<()> + Send),
    ) -> Result<Transfer, FilesError> {
        let mut records = RecordWriter {
            waiting: Vec::new(),
            each,
        };
        self.receive(path, operation, &mut records)
    }

    /// Writes what the sandbox sends to `out`, and compares digests.
    pub(super) fn receive(
        self,
        path: &[u8],
        operation: FileOperation,
        out: &mut (dyn Write + Send),
    ) -> Result<Transfer, FilesError> {
        let mut output = DigestTaker {
            out: Some(DigestWriter::new(out)),
            failure: None,
        };
        let talked = self.talk(path, operation, InputSource::Empty, Some(&mut output));
        if let Some(source) = output.failure {
            let doing = "passing on what came from the sandbox";
            return Err(FilesError::Io { doing, source });
        }
        let transfer = talked?;
        let got = output.out.map(|out| {
            let (bytes, digest, inner) = out.finish();
            inner.flush().map(|()| (bytes, digest))
        });
        let got = got.transpose().map_err(|source| FilesError::Io {
            doing: "passing on what came from the sandbox",
            source,
        })?;
        compare(path, transfer, got)
    }

    /// Has `use_it` read what the sandbox sends, and compares digests.
    pub(super) fn take(
        self,
        path: &[u8],
        operation: FileOperation,
        use_it: impl FnOnce(&mut dyn Read) -> Result<(), ArchiveError>,
    ) -> Result<Transfer, FilesError> {
        let mut report = Vec::new();
        let basket = Basket::default();
        let mut taker = basket.clone();
        let exec = self.request(path, operation)?;
        let pump = exec.into_pump(PumpIo {
            stdout: OutputTarget::Taker(&mut taker),
            stderr: into_report(&mut report),
            ..PumpIo::default()
        });
        let mut incoming = Incoming::new(pump, basket);
        let used = use_it(&mut incoming);
        // A stream that ends early is what an error on the other side looks like here.
        let early = match used {
            Ok(()) => Ok(()),
            Err(error @ ArchiveError::Stream(_)) => Err(error),
            // Nobody reads on, and the sandbox learns that by the session's end.
            Err(error) => return Err(error.into()),
        };
        let got = incoming.finish()?;
        let transfer = read_report(path, &report)?;
        early?;
        compare(path, transfer, Some(got))
    }

    /// Sends what `fill` writes, with its digest behind it, and compares digests. `fill` is told a
    /// descriptor, too, that has an error once nobody takes what it writes.
    pub(super) fn send(
        self,
        path: &[u8],
        operation: FileOperation,
        fill: impl FnOnce(&mut dyn Write, BorrowedFd<'_>) -> Result<(), FilesError> + Send,
    ) -> Result<Transfer, FilesError> {
        let (read, write) = new_pipe()?;
        thread::scope(|scope| {
            let filling = start(scope, "send-files", move || {
                let buffered = io::BufWriter::with_capacity(CHUNK, &write);
                let mut out = DigestWriter::new(buffered);
                fill(&mut out, write.as_fd())?;
                out.write_trailer().map_err(|source| FilesError::Io {
                    doing: "sending data to the sandbox",
                    source,
                })
            })?;
            let input = InputSource::Fd(read.as_fd());
            let talked = self.talk(path, operation, input, None);
            // Whoever still fills it learns that nobody reads.
            drop(read);
            match (talked, joined(filling)?) {
                (Ok(transfer), Ok(sent)) => compare(path, transfer, Some(sent)),
                // The other side gave up first, and knows why.
                (Err(error), Ok(_)) => Err(error),
                (Err(error), Err(ours)) if ours.is_broken_pipe() => Err(error),
                (_, Err(ours)) => Err(ours),
            }
        })
    }

    /// One session, to its report.
    pub(super) fn talk(
        self,
        path: &[u8],
        operation: FileOperation,
        stdin: InputSource<'_>,
        stdout: Option<&mut dyn Taker>,
    ) -> Result<Transfer, FilesError> {
        let stdout = match stdout {
            Some(taker) => OutputTarget::Taker(taker),
            None => OutputTarget::Discard,
        };
        let mut report = Vec::new();
        let exec = self.request(path, operation)?;
        exec.pump(PumpIo {
            stdin,
            stdout,
            stderr: into_report(&mut report),
            ..PumpIo::default()
        })?;
        read_report(path, &report)
    }

    fn request(self, path: &[u8], operation: FileOperation) -> Result<Exec, FilesError> {
        Ok(self.session.request_files(FileRequest {
            path: ByteBuf::from(path),
            user: self.user,
            operation,
        })?)
    }
}

fn into_report(report: &mut Vec<u8>) -> OutputTarget<'_> {
    OutputTarget::Collect {
        into: report,
        limit: MAX_RECORD,
    }
}

fn read_report(path: &[u8], mut report: &[u8]) -> Result<Transfer, FilesError> {
    match decode_record(&mut report) {
        Ok(Some(FileReport::Done(transfer))) => Ok(transfer),
        Ok(Some(FileReport::Failed(fault))) => Err(fault.into()),
        Ok(None) | Err(_) => Err(FilesError::Nonsense { path: shown(path) }),
    }
}

fn compare(
    path: &[u8],
    told: Transfer,
    ours: Option<(u64, Digest)>,
) -> Result<Transfer, FilesError> {
    if ours == Some((told.bytes, told.xxh3)) {
        Ok(told)
    } else {
        Err(FilesError::Corrupt { path: shown(path) })
    }
}

pub(super) fn copy(input: &mut dyn Read, out: &mut dyn Write) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => out.write_all(buffer.get(..count).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn start<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, FilesError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn_scoped(scope, work)
        .map_err(|source| FilesError::Io {
            doing: "starting a thread",
            source,
        })
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> Result<T, FilesError> {
    thread.join().map_err(|_| FilesError::Io {
        doing: "moving files",
        source: io::Error::other("a thread gave up"),
    })
}

fn new_pipe() -> Result<(File, File), FilesError> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| FilesError::Io {
        doing: "making a pipe",
        source: error.into(),
    })?;
    // It only saves turns; where it is not allowed, the pipe stays as it is.
    let _ = fcntl_setpipe_size(&write, PIPE_SIZE);
    Ok((read.into(), write.into()))
}

pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Passes output on, with its digest.
struct DigestTaker<'a> {
    out: Option<DigestWriter<&'a mut (dyn Write + Send)>>,
    failure: Option<io::Error>,
}

impl Taker for DigestTaker<'_> {
    fn take(&mut self, data: &[u8]) -> io::Result<()> {
        let Some(out) = &mut self.out else {
            return Ok(());
        };
        out.write_all(data).map_err(|error| {
            let kind = error.kind();
            self.out = None;
            self.failure = Some(error);
            kind.into()
        })
    }
}

impl fmt::Debug for DigestTaker<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DigestTaker")
            .finish_non_exhaustive()
    }
}

/// Input of a descriptor, for as long as somebody takes what is made of it.
pub(super) struct WhileTaken<'a> {
    pub(super) input: BorrowedFd<'a>,
    /// The writing end of a pipe.
    pub(super) taker: BorrowedFd<'a>,
}

impl Read for WhileTaken<'_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut fds = [
                PollFd::from_borrowed_fd(self.input, PollFlags::IN),
                PollFd::from_borrowed_fd(self.taker, PollFlags::empty()),
            ];
            rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
            let [input, taker] = fds.map(|fd| fd.revents());
            if !taker.is_empty() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if !input.is_empty() {
                match rustix::io::read(self.input, &mut *space) {
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    read => return Ok(read?),
                }
            }
        }
    }
}

/// An error that nobody takes for a reason to try again.
fn final_error(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::Interrupted => io::Error::other(error),
        _ => error,
    }
}

/// Cuts what comes into records.
struct RecordWriter<'a, T> {
    waiting: Vec<u8>,
    each: &'a mut (dyn FnMut(T) -> io::Result<()> + Send),
}

impl<T: DeserializeOwned> Write for RecordWriter<'_, T> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(data);
        let mut rest = self.waiting.as_slice();
        while let Some(record) = decode_record(&mut rest).map_err(io::Error::other)? {
            (self.each)(record).map_err(final_error)?;
        }
        let taken = self.waiting.len() - rest.len();
        self.waiting.drain(..taken);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
