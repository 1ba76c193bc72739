//! What is known of files.

use std::fs::Metadata;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use agent_protocol::files::{FileEntry, FileFault, FileKind, Transfer, encode_record};
use serde::Serialize;
use serde_bytes::ByteBuf;

use super::{Out, fault, sent};

/// Records are sent when so many bytes of them have come together.
const BATCH: usize = 32 * 1024;
/// The bits of a mode that are told.
const MODE_BITS: u32 = 0o7777;

/// Sends the entry of one file.
pub(crate) fn stat(path: &Path, follow: bool, out: Out) -> Result<Transfer, FileFault> {
    let metadata = match follow {
        true => path.metadata(),
        false => path.symlink_metadata(),
    };
    let metadata = metadata.map_err(|error| fault::of(path, error))?;
    let mut records = Records::new(out);
    records.push(&entry(path, path.as_os_str().as_bytes(), &metadata))?;
    records.finish()
}

/// Sends an entry for each file of a folder. One that cannot be looked at is told when all the others have
/// been.
pub(crate) fn list(path: &Path, out: Out) -> Result<Transfer, FileFault> {
    let mut records = Records::new(out);
    let mut hidden = None;
    for found in path.read_dir().map_err(|error| fault::of(path, error))? {
        let found = found.map_err(|error| fault::of(path, error))?;
        match found.metadata() {
            Ok(metadata) => {
                let name = found.file_name();
                records.push(&entry(&found.path(), name.as_bytes(), &metadata))?;
            }
            // One that is gone meanwhile is not there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                hidden.get_or_insert(fault::of(&found.path(), error));
            }
        }
    }
    let sent = records.finish()?;
    hidden.map_or(Ok(sent), Err)
}

/// What is known of the file at `path`, which is told as `name`.
pub(crate) fn entry(path: &Path, name: &[u8], metadata: &Metadata) -> FileEntry {
    let kind = kind(metadata);
    let target = (kind == FileKind::Symlink)
        .then(|| path.read_link().ok())
        .flatten()
        .map(|target| ByteBuf::from(target.into_os_string().into_vec()));
    FileEntry {
        path: ByteBuf::from(name),
        kind,
        size: metadata.size(),
        mode: metadata.mode() & MODE_BITS,
        uid: metadata.uid(),
        gid: metadata.gid(),
        links: metadata.nlink(),
        modified_s: metadata.mtime(),
        modified_ns: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
        target,
    }
}

fn kind(metadata: &Metadata) -> FileKind {
    let file_type = metadata.file_type();
    if file_type.is_dir() {
        FileKind::Directory
    } else if file_type.is_symlink() {
        FileKind::Symlink
    } else if file_type.is_fifo() {
        FileKind::Fifo
    } else if file_type.is_socket() {
        FileKind::Socket
    } else if file_type.is_block_device() {
        FileKind::BlockDevice
    } else if file_type.is_char_device() {
        FileKind::CharacterDevice
    } else {
        FileKind::File
    }
}

/// Records on their way to the host.
pub(crate) struct Records {
    out: Out,
    batch: Vec<u8>,
    count: u64,
}

impl Records {
    pub(crate) fn new(out: Out) -> Self {
        Self {
            out,
            batch: Vec::new(),
            count: 0,
        }
    }

    pub(crate) fn push(&mut self, record: &impl Serialize) -> Result<(), FileFault> {
        let encoded = encode_record(record, &mut self.batch);
        encoded.map_err(|error| fault::stream(&io::Error::other(error)))?;
        self.count += 1;
        if self.batch.len() >= BATCH {
            self.flush()?;
        }
        Ok(())
    }

    /// Sends what there is.
    pub(crate) fn flush(&mut self) -> Result<(), FileFault> {
        let written = self.out.write_all(&self.batch);
        self.batch.clear();
        written.map_err(|error| fault::stream(&error))
    }

    pub(crate) fn finish(mut self) -> Result<Transfer, FileFault> {
        self.flush()?;
        Ok(Transfer {
            entries: self.count,
            ..sent(self.out)?
        })
    }
}
