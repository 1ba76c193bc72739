//! Files of a sandbox, one operation a session.
//!
//! ```text
//!  reader ──digest behind it──▶ pipe ──pump──▶ agent         a thread of its own fills the pipe
//!  agent ──pump──▶ digest ──▶ writer, or pipe ──▶ unpacked   a thread of its own empties it
//! ```
//!
//! Data is never held: as much is read as the other side has taken. Both sides take the SHA-256 of
//! what they sent and got, and an operation whose digests differ has failed. What comes out of a
//! sandbox is hostile, and is unpacked so that nothing leaves its folder.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::thread::{self, ScopedJoinHandle};

use agent_archive::digest::{Digest, DigestWriter};
use agent_archive::{ArchiveError, Links, UnpackOptions};
use agent_protocol::files::{
    FileChange, FileEntry, FileFault, FileOperation, FileReport, FileRequest, MAX_RECORD, Transfer,
    decode_record,
};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;

use crate::error::ClientError;
use crate::linux::pump::PumpIo;
use crate::linux::session::Session;
use crate::linux::sink::{OutputTarget, Taker};
use crate::linux::source::InputSource;

/// The bits of a mode that files from a sandbox may have here: no set-user-ID.
const HOST_MODES: u32 = 0o777;
/// As large as one may be without privilege.
const PIPE_SIZE: usize = 1024 * 1024;
/// How much is written to a pipe at a time.
const CHUNK: usize = 128 * 1024;

/// Why an operation was not done.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The conversation with the agent failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// In the sandbox, it could not be done.
    #[error(transparent)]
    Fault(#[from] FileFault),
    /// On this side, an archive could not be packed or unpacked.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// What came is not what was sent.
    #[error("{path}: the data did not arrive as it was sent")]
    Corrupt {
        /// The file in the sandbox.
        path: String,
    },
    /// What came makes no sense.
    #[error("the guest agent's answer about {path} makes no sense")]
    Nonsense {
        /// The file in the sandbox.
        path: String,
    },
    /// This side's end failed.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// A session for one operation on files. Paths begin at the user's home, unless they are absolute.
#[derive(Debug)]
pub struct Files {
    session: Session,
    user: Option<String>,
}

impl Files {
    pub(crate) fn new(session: Session, user: Option<String>) -> Self {
        Self { session, user }
    }

    /// What is known of a file; of what it leads to, if it is a link and `follow`.
    ///
    /// # Errors
    ///
    /// [`FilesError`]
    pub fn stat(self, path: &[u8], follow: bool) -> Result<FileEntry, FilesError> {
        let mut found = None;
        self.records(path, FileOperation::Stat { follow }, &mut |entry| {
            found = Some(entry);
            Ok(())
        })?;
        found.ok_or_else(|| FilesError::Nonsense { path: shown(path) })
    }

    /// Tells `each` of the files of a folder, in no order.
    ///
    /// # Errors
    ///
    /// [`FilesError`], also if `each` failed.
    pub fn list(
        self,
        path: &[u8],
        each: &mut (dyn FnMut(FileEntry) -> io::Result<()> + Send),
    ) -> Result<Transfer, FilesError> {
        self.records(path, FileOperation::List, each)
    }

    /// Tells `each` of the files below a folder that fit, in no order. `name` is a glob for names, or
    /// for paths from the folder if it contains a slash.
    ///
    /// # Errors
    ///
    /// [`FilesError`], also if `each` failed.
    pub fn find(
        self,
        path: &[u8],
        name: Option<&[u8]>,
        contains: Option<&[u8]>,
        each: &mut (dyn FnMut(FileEntry) -> io::Result<()> + Send),
    ) -> Result<Transfer, FilesError> {
        let operation = FileOperation::Find {
            name: name.map(ByteBuf::from),
            contains: contains.map(ByteBuf::from),
        };
        self.records(path, operation, each)
    }

    /// Tells `each` of what happens in a folder, until `each` fails. The first change is of the folder
    /// itself, and says that from here on everything is told.
    ///
    /// # Errors
    ///
    /// [`FilesError`], also because `each` failed.
    pub fn watch(
        self,
        path: &[u8],
        recursive: bool,
        each: &mut (dyn FnMut(FileChange) -> io::Result<()> + Send),
    ) -> Result<Transfer, FilesError> {
        self.records(path, FileOperation::Watch { recursive }, each)
    }

    /// Makes a folder; with `parents` those above it, too, and it may be there already.
    ///
    /// # Errors
    ///
    /// [`FilesError`]
    pub fn make_directory(
        self,
        path: &[u8],
        parents: bool,
        mode: Option<u32>,
    ) -> Result<(), FilesError> {
        self.change(path, FileOperation::MakeDirectory { parents, mode })
    }

    /// Gives a file another name, in the place of a file that has it.
    ///
    /// # Errors
    ///
    /// [`FilesError`]
    pub fn rename(self, path: &[u8], to: &[u8]) -> Result<(), FilesError> {
        let to = ByteBuf::from(to);
        self.change(path, FileOperation::Rename { to })
    }

    /// Removes a file, or a folder with all that is below it.
    ///
    /// # Errors
    ///
    /// [`FilesError`]
    pub fn remove(self, path: &[u8], recursive: bool) -> Result<(), FilesError> {
        self.change(path, FileOperation::Remove { recursive })
    }

    /// Writes a file's data, or a part of it, to `out`.
    ///
    /// # Errors
    ///
    /// [`FilesError`]; what was written until then is not to be relied on.
    pub fn read(
        self,
        path: &[u8],
        offset: u64,
        length: Option<u64>,
        out: &mut (dyn Write + Send),
    ) -> Result<Transfer, FilesError> {
        self.receive(path, FileOperation::Read { offset, length }, out)
    }

    /// Puts what `input` has in a file's place, at once, when it has come whole.
    ///
    /// # Errors
    ///
    /// [`FilesError`]; the old file is still there then.
    pub fn write(
        self,
        path: &[u8],
        mode: Option<u32>,
        input: &mut (dyn Read + Send),
    ) -> Result<Transfer, FilesError> {
        self.send(path, FileOperation::Write { mode }, |out| {
            copy(input, out).map_err(|source| FilesError::Io {
                doing: "reading what is to be written",
                source,
            })
        })
    }

    /// Writes a tree to `out`, as a tar stream in which it is called `name`.
    ///
    /// # Errors
    ///
    /// [`FilesError`]
    pub fn pack(
        self,
        path: &[u8],
        name: &[u8],
        follow: bool,
        out: &mut (dyn Write + Send),
    ) -> Result<Transfer, FilesError> {
        self.receive(path, pack_as(name, follow), out)
    }

    /// Unpacks a tar stream in a folder of the sandbox. With `root`, every entry's name must begin so.
    ///
    /// # Errors
    ///
    /// [`FilesError`]; what was unpacked until then stays.
    pub fn unpack(
        self,
        path: &[u8],
        root: Option<&[u8]>,
        input: &mut (dyn Read + Send),
    ) -> Result<Transfer, FilesError> {
        self.send(path, unpack_as(root), |out| {
            copy(input, out).map_err(|source| FilesError::Io {
                doing: "reading the archive",
                source,
            })
        })
    }

    /// Copies a file or tree of the sandbox into a folder of this machine, as `name`; what is in the
    /// tree alone, into the folder itself, if that is `.`.
    ///
    /// # Errors
    ///
    /// [`FilesError`]; what was copied until then stays.
    pub fn copy_out(
        self,
        path: &[u8],
        folder: BorrowedFd<'_>,
        name: &[u8],
        follow: bool,
    ) -> Result<Transfer, FilesError> {
        let (read, write) = new_pipe()?;
        let options = UnpackOptions {
            root: (name != b".").then_some(name),
            links: Links::Refuse,
            modes: HOST_MODES,
        };
        thread::scope(|scope| {
            let unpacking = start(scope, "unpack", move || {
                let mut read = read;
                agent_archive::unpack(&mut read, folder, options)?;
                io::copy(&mut read, &mut io::sink()).map_err(ArchiveError::Stream)
            })?;
            let mut write = write;
            let received = self.receive(path, pack_as(name, follow), &mut write);
            drop(write);
            match (received, joined(unpacking)?) {
                // A stream that ends early is what an error on the other side looks like here.
                (Err(error), Ok(_) | Err(ArchiveError::Stream(_))) => Err(error),
                (_, Err(error)) => Err(error.into()),
                (Ok(transfer), Ok(_)) => Ok(transfer),
            }
        })
    }

    /// Copies a file or tree of this machine into a folder of the sandbox, as `name`; what is in the
    /// tree alone, into the folder itself, if that is `.`.
    ///
    /// # Errors
    ///
    /// [`FilesError`]; what was copied until then stays.
    pub fn copy_in(
        self,
        source: &Path,
        path: &[u8],
        name: &[u8],
        follow: bool,
    ) -> Result<Transfer, FilesError> {
        let root = (name != b".").then_some(name);
        let mut skipped = 0;
        let sent = self.send(path, unpack_as(root), |out| {
            skipped = agent_archive::pack(source, name, follow, out)?.skipped;
            Ok(())
        })?;
        Ok(Transfer { skipped, ..sent })
    }

    fn change(self, path: &[u8], operation: FileOperation) -> Result<(), FilesError> {
        self.talk(path, operation, InputSource::Empty, None)?;
        Ok(())
    }

    /// Passes records on as they come.
    fn records<T: DeserializeOwned>(
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
    fn receive(
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

    /// Sends what `fill` writes, with its digest behind it, and compares digests.
    fn send(
        self,
        path: &[u8],
        operation: FileOperation,
        fill: impl FnOnce(&mut dyn Write) -> Result<(), FilesError> + Send,
    ) -> Result<Transfer, FilesError> {
        let (read, write) = new_pipe()?;
        thread::scope(|scope| {
            let filling = start(scope, "send-files", move || {
                let buffered = io::BufWriter::with_capacity(CHUNK, write);
                let mut out = DigestWriter::new(buffered);
                fill(&mut out)?;
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
    fn talk(
        self,
        path: &[u8],
        operation: FileOperation,
        stdin: InputSource<'_>,
        stdout: Option<&mut dyn Taker>,
    ) -> Result<Transfer, FilesError> {
        let request = FileRequest {
            path: ByteBuf::from(path),
            user: self.user,
            operation,
        };
        let stdout = match stdout {
            Some(taker) => OutputTarget::Taker(taker),
            None => OutputTarget::Discard,
        };
        let mut report = Vec::new();
        let exec = self.session.request_files(request)?;
        exec.pump(PumpIo {
            stdin,
            stdout,
            stderr: OutputTarget::Collect {
                into: &mut report,
                limit: MAX_RECORD,
            },
            ..PumpIo::default()
        })?;
        match decode_record(&mut report.as_slice()) {
            Ok(Some(FileReport::Done(transfer))) => Ok(transfer),
            Ok(Some(FileReport::Failed(fault))) => Err(fault.into()),
            Ok(None) | Err(_) => Err(FilesError::Nonsense { path: shown(path) }),
        }
    }
}

impl FilesError {
    fn is_broken_pipe(&self) -> bool {
        let source = match self {
            Self::Io { source, .. } | Self::Archive(ArchiveError::Stream(source)) => source,
            _ => return false,
        };
        source.kind() == io::ErrorKind::BrokenPipe
    }
}

fn pack_as(name: &[u8], follow: bool) -> FileOperation {
    FileOperation::Pack {
        name: ByteBuf::from(name),
        follow,
    }
}

fn unpack_as(root: Option<&[u8]>) -> FileOperation {
    FileOperation::Unpack {
        root: root.map(ByteBuf::from),
    }
}

fn compare(
    path: &[u8],
    told: Transfer,
    ours: Option<(u64, Digest)>,
) -> Result<Transfer, FilesError> {
    if ours == Some((told.bytes, told.sha256)) {
        Ok(told)
    } else {
        Err(FilesError::Corrupt { path: shown(path) })
    }
}

fn copy(input: &mut dyn Read, out: &mut dyn Write) -> io::Result<()> {
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

fn shown(path: &[u8]) -> String {
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
            (self.each)(record)?;
        }
        let taken = self.waiting.len() - rest.len();
        self.waiting.drain(..taken);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
