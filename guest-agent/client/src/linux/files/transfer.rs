//! One operation's data on its way, hashed on this side as it is on the other.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::{self, ScopedJoinHandle};
use std::time::Instant;

use agent_archive::ArchiveError;
use agent_archive::digest::{Digest, DigestReader, DigestWriter};
use agent_archive::lane::Memory;
use agent_archive::room::{self, CopyError, Room};
use agent_protocol::files::{
    FileOperation, FileReport, FileRequest, MAX_RECORD, Transfer, decode_record,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;

use super::incoming::{Basket, Incoming};
use super::lane::{Inlet, Outlet};
use super::{Files, FilesError};
use crate::error::ClientError;
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
        if self.takes_lane(&operation) {
            return self.take(path, operation, |incoming| {
                pass_on(incoming, out)?;
                out.flush().map_err(passing_on)
            });
        }
        let mut output = DigestTaker {
            out: Some(DigestWriter::new(out).counted(self.meter.clone())),
            failure: None,
        };
        let talked = self.talk(path, operation, None, InputSource::Empty, Some(&mut output));
        if let Some(error) = output.failure {
            return Err(passing_on(error));
        }
        let transfer = talked?;
        let got = output.out.map(|out| {
            let (bytes, digest, inner) = out.finish();
            inner.flush().map(|()| (bytes, digest))
        });
        compare(path, transfer, got.transpose().map_err(passing_on)?)
    }

    /// Has `use_it` read what the sandbox sends, and compares digests.
    pub(super) fn take(
        self,
        path: &[u8],
        operation: FileOperation,
        use_it: impl FnOnce(&mut dyn BufRead) -> Result<(), FilesError>,
    ) -> Result<Transfer, FilesError> {
        let lane = self.lane(&operation);
        let (freed_out, freed) = new_pipe()?;
        // This thread also passes on what is written there, and must not wait for itself.
        never_blocking(&freed)?;
        let mut report = Vec::new();
        let basket = Basket::default();
        let mut taker = basket.clone();
        let meter = self.meter.clone();
        let memory = lane.as_ref().map(Memory::descriptor).transpose();
        let exec = self.request(path, operation, memory.map_err(making_lane)?)?;
        let pump = exec.into_pump(PumpIo {
            stdin: InputSource::Fd(freed_out.as_fd()),
            stdout: OutputTarget::Taker(&mut taker),
            stderr: into_report(&mut report),
            ..PumpIo::default()
        });
        let mut incoming = Incoming::new(pump, basket);
        let mut data = DigestReader::new(Inlet::new(lane, &mut incoming, freed)).counted(meter);
        let used = use_it(&mut data);
        let used = used.and_then(|()| {
            let rest = io::copy(&mut data, &mut io::sink());
            rest.map(drop)
                .map_err(|error| ArchiveError::Stream(error).into())
        });
        let early = match used {
            Err(error) if !ends_early(&error) => return Err(error),
            used => used,
        };
        let (bytes, digest, _) = data.finish();
        incoming.finish()?;
        let transfer = read_report(path, &report)?;
        early?;
        compare(path, transfer, Some((bytes, digest)))
    }

    /// Sends what `fill` writes, with its digest behind it, and compares digests. `fill` is told a
    /// descriptor, too, that has an error once nobody takes what it writes.
    pub(super) fn send(
        self,
        path: &[u8],
        operation: FileOperation,
        fill: impl FnOnce(&mut dyn Room, BorrowedFd<'_>) -> Result<(), FilesError> + Send,
    ) -> Result<Transfer, FilesError> {
        let lane = self.lane(&operation);
        let memory = lane.as_ref().map(Memory::descriptor).transpose();
        let memory = memory.map_err(making_lane)?;
        let (read, write) = new_pipe()?;
        let meter = self.meter.clone();
        let (answers, answers_in) = new_pipe()?;
        never_blocking(&answers_in)?;
        thread::scope(|scope| {
            let filling = start(scope, "send-files", move || {
                let buffered = io::BufWriter::with_capacity(CHUNK, &write);
                let mut out =
                    DigestWriter::new(Outlet::new(lane, buffered, answers)).counted(meter);
                fill(&mut out, write.as_fd())?;
                out.write_trailer().map_err(sending)
            })?;
            let stdin = InputSource::Fd(read.as_fd());
            let mut stdout = PipeTaker(answers_in);
            let talked = self.talk(path, operation, memory, stdin, Some(&mut stdout));
            // Whoever still fills it learns that nobody reads.
            drop((read, stdout));
            match (talked, joined(filling)?) {
                (Ok(transfer), Ok(sent)) => compare(path, transfer, Some(sent)),
                // The other side gave up first, and knows why.
                (Err(error), Ok(_)) => Err(error),
                (Err(error), Err(ours)) if ours.is_broken_pipe() => Err(error),
                (_, Err(ours)) => Err(ours),
            }
        })
    }

    /// One session, to its report; with the memory of its lane.
    pub(super) fn talk(
        self,
        path: &[u8],
        operation: FileOperation,
        lane: Option<OwnedFd>,
        stdin: InputSource<'_>,
        stdout: Option<&mut dyn Taker>,
    ) -> Result<Transfer, FilesError> {
        let stdout = match stdout {
            Some(taker) => OutputTarget::Taker(taker),
            None => OutputTarget::Discard,
        };
        let mut report = Vec::new();
        let exec = self.request(path, operation, lane)?;
        exec.pump(PumpIo {
            stdin,
            stdout,
            stderr: into_report(&mut report),
            ..PumpIo::default()
        })?;
        read_report(path, &report)
    }

    fn takes_lane(&self, operation: &FileOperation) -> bool {
        self.session.has_lanes() && operation.is_bulk()
    }

    /// A lane, for what takes one, if there can be one: data goes without, too.
    fn lane(&self, operation: &FileOperation) -> Option<Memory> {
        let lane = self.takes_lane(operation).then(Memory::new);
        lane.and_then(Result::ok)
    }

    fn request(
        self,
        path: &[u8],
        operation: FileOperation,
        lane: Option<OwnedFd>,
    ) -> Result<Exec, FilesError> {
        // What is asked for may be done, whoever waits for it.
        if self.until.is_some_and(|until| until <= Instant::now()) {
            return Err(ClientError::OutOfTime.into());
        }
        let request = FileRequest {
            path: ByteBuf::from(path),
            user: self.user,
            lane: lane.is_some(),
            operation,
        };
        Ok(self.session.request_files(request, lane, self.until)?)
    }
}

fn sending(source: io::Error) -> FilesError {
    FilesError::Io {
        doing: "sending data to the sandbox",
        source,
    }
}

/// Whether a stream has ended early, which is what an error on the other side looks like here. Whoever has
/// any other reason reads no more, and the sandbox learns that by the session's end.
fn ends_early(error: &FilesError) -> bool {
    match error {
        FilesError::Archive(ArchiveError::Stream(error)) => {
            error.kind() == io::ErrorKind::UnexpectedEof
        }
        _ => false,
    }
}

fn making_lane(source: io::Error) -> FilesError {
    FilesError::Io {
        doing: "making memory for the transfer",
        source,
    }
}

fn passing_on(source: io::Error) -> FilesError {
    FilesError::Io {
        doing: "passing on what came from the sandbox",
        source,
    }
}

fn pass_on(incoming: &mut dyn BufRead, out: &mut dyn Write) -> Result<(), FilesError> {
    loop {
        let count = match incoming.fill_buf() {
            Ok([]) => return Ok(()),
            Ok(data) => {
                out.write_all(data).map_err(passing_on)?;
                data.len()
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(ArchiveError::Stream(error).into()),
        };
        incoming.consume(count);
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

/// Passes on what comes, as it comes.
pub(super) fn copy(input: &mut dyn Read, out: &mut dyn Room) -> Result<(), FilesError> {
    room::pass_on(out, u64::MAX, input).map_err(|error| match error {
        CopyError::Reading(source) => FilesError::Io {
            doing: "reading what is to be sent to the sandbox",
            source,
        },
        CopyError::Writing(error) => sending(error),
    })
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

fn never_blocking(pipe: &File) -> Result<(), FilesError> {
    rustix::io::ioctl_fionbio(pipe, true).map_err(|error| FilesError::Io {
        doing: "making a pipe",
        source: error.into(),
    })
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

/// Passes on into a pipe that never blocks what is less than fits there.
#[derive(Debug)]
struct PipeTaker(File);

impl Taker for PipeTaker {
    fn take(&mut self, data: &[u8]) -> io::Result<()> {
        match self.0.write_all(data) {
            // Who reads it wants no more.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            // More than anybody has asked for.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::ErrorKind::InvalidData.into())
            }
            written => written,
        }
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
