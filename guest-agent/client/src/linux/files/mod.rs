//! Files of a sandbox, one operation a session.
//!
//! ```text
//!  reader ──digest behind it──▶ pipe ──pump──▶ agent         a thread of its own fills the pipe
//!  agent ──pump──▶ digest ──▶ writer, or unpacked
//! ```
//!
//! Where memory can be passed to the agent, what is much takes a lane: the streams only tell of it.
//!
//! Without a deadline an operation takes as long as the sandbox does.
//!
//! Data is never held: as much is read as the other side has taken. Both sides take the digest of what
//! they sent and got, and an operation whose digests differ has failed. What comes out of a
//! sandbox is hostile, and is unpacked so that nothing leaves its folder.

mod error;
mod incoming;
mod lane;
mod transfer;

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Instant;

pub use agent_archive::digest::Meter;
use agent_archive::{Links, Packed, UnpackOptions};
use agent_protocol::files::{FileChange, FileEntry, FileOperation, Transfer};
use serde_bytes::ByteBuf;

pub use self::error::FilesError;
use self::transfer::{WhileTaken, copy, shown};
#[cfg(doc)]
use crate::error::ClientError;
use crate::linux::session::Session;
use crate::linux::source::InputSource;

/// The bits of a mode that files from a sandbox may have here: no set-user-ID.
const HOST_MODES: u32 = 0o777;

/// A session for one operation on files. Paths begin at the user's home, unless they are absolute.
#[derive(Debug)]
pub struct Files {
    session: Session,
    user: Option<String>,
    owners: bool,
    meter: Option<Meter>,
    until: Option<Instant>,
}

impl Files {
    pub(crate) fn new(session: Session, user: Option<String>) -> Self {
        Self {
            session,
            user,
            owners: false,
            meter: None,
            until: None,
        }
    }

    /// What is unpacked or copied belongs to whom it belonged to, by number, and not to the user who
    /// does it. Only root may do that: in the sandbox for what goes in, here for what comes out.
    #[must_use]
    pub fn keeping_owners(mut self) -> Self {
        self.owners = true;
        self
    }

    /// What is moved is told to a meter as it moves: data, and what an archive says of it.
    #[must_use]
    pub fn counted_by(self, meter: Meter) -> Self {
        Self {
            meter: Some(meter),
            ..self
        }
    }

    /// It is given up then, as [`ClientError::OutOfTime`], if it is not done: a sandbox may be slow, and
    /// a hostile one silent for ever. What was asked for by then may still be done: a file is the old one
    /// or the new one, whole. What waits for a reader or a writer here is not interrupted.
    #[must_use]
    pub fn until(self, deadline: Instant) -> Self {
        Self {
            until: Some(deadline),
            ..self
        }
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
    /// itself, and says that from here on everything is told; with `recursive` of all folders below it,
    /// too, that the user may read.
    ///
    /// # Errors
    ///
    /// [`FilesError`], also because `each` failed, or because the user may watch no more folders.
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
    /// [`FilesError`]; the old file is still there then, or, of an answer that did not come, the new one.
    pub fn write(
        self,
        path: &[u8],
        mode: Option<u32>,
        input: &mut (dyn Read + Send),
    ) -> Result<Transfer, FilesError> {
        self.send(path, FileOperation::Write { mode }, |out, _| {
            copy(input, out)
        })
    }

    /// As [`write`](Self::write), from a descriptor: a refusal is told at once, also while nothing
    /// comes.
    ///
    /// # Errors
    ///
    /// [`FilesError`]; the old file is still there then, or, of an answer that did not come, the new one.
    pub fn write_from(
        self,
        path: &[u8],
        mode: Option<u32>,
        input: BorrowedFd<'_>,
    ) -> Result<Transfer, FilesError> {
        self.send(path, FileOperation::Write { mode }, |out, taker| {
            copy(&mut WhileTaken { input, taker }, out)
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
        let operation = self.unpack_as(root);
        self.send(path, operation, |out, _| copy(input, out))
    }

    /// As [`unpack`](Self::unpack), from a descriptor: a refusal is told at once, also while nothing
    /// comes.
    ///
    /// # Errors
    ///
    /// [`FilesError`]; what was unpacked until then stays.
    pub fn unpack_from(
        self,
        path: &[u8],
        root: Option<&[u8]>,
        input: BorrowedFd<'_>,
    ) -> Result<Transfer, FilesError> {
        let operation = self.unpack_as(root);
        self.send(path, operation, |out, taker| {
            copy(&mut WhileTaken { input, taker }, out)
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
        let options = UnpackOptions {
            root: (name != b".").then_some(name),
            links: Links::Refuse,
            modes: HOST_MODES,
            owners: self.owners,
        };
        self.take(path, pack_as(name, follow), |incoming| {
            agent_archive::unpack(incoming, folder, options)?;
            Ok(())
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
        let mut packed = Packed::default();
        let operation = self.unpack_as(root);
        let sent = self.send(path, operation, |out, _| {
            packed = agent_archive::pack(source, name, follow, out)?;
            Ok(())
        })?;
        Ok(Transfer {
            skipped: packed.skipped,
            vanished: packed.vanished,
            ..sent
        })
    }

    fn unpack_as(&self, root: Option<&[u8]>) -> FileOperation {
        FileOperation::Unpack {
            root: root.map(ByteBuf::from),
            owners: self.owners,
        }
    }

    fn change(self, path: &[u8], operation: FileOperation) -> Result<(), FilesError> {
        self.talk(path, operation, None, InputSource::Empty, None)?;
        Ok(())
    }
}

fn pack_as(name: &[u8], follow: bool) -> FileOperation {
    FileOperation::Pack {
        name: ByteBuf::from(name),
        follow,
    }
}
