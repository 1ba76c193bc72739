//! What a session about files says: a request, the data of its streams, a report.
//!
//! Such a session goes as a command's does: `Started`, data with credit in both directions, `Exited`.
//! What the operation reads comes as standard input, with its XXH3 digest behind it; what it gives goes
//! as standard output (or both through a lane: `agent_archive::lane`); and standard error is one [`FileReport`], at the end. Entries are sent as
//! records: a length of 4 bytes, little-endian, and a message.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// The largest record: an entry's path and where its link leads are at most a path's length each.
pub const MAX_RECORD: usize = 64 * 1024;
/// The size of a record's length.
const LENGTH_LEN: usize = 4;

/// Something to do with files. Bytes, not text: what POSIX allows is passed as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRequest {
    /// The file; from the user's home, unless it is absolute.
    pub path: ByteBuf,
    /// Whose rights count, as in an exec request.
    pub user: Option<String>,
    /// Data is to take the lane that came with this session's stream, if the agent can use it: it says
    /// so by the first byte of standard output.
    pub lane: bool,
    /// What to do.
    pub operation: FileOperation,
}

/// What to do with a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileOperation {
    /// Send its entry.
    Stat {
        /// Of what a link leads to, and not of the link.
        follow: bool,
    },
    /// Send an entry for each file of a folder.
    List,
    /// Make a folder.
    MakeDirectory {
        /// Those above it, too, if they are missing; and let it be there already.
        parents: bool,
        /// Its mode; 0755 without one.
        mode: Option<u32>,
    },
    /// Give it another name, as rename(2) does.
    Rename {
        /// The name; from the user's home, unless it is absolute.
        to: ByteBuf,
    },
    /// Remove it.
    Remove {
        /// With all that is below it.
        recursive: bool,
    },
    /// Send a file's data.
    Read {
        /// Where to begin.
        offset: u64,
        /// How much; all that there is without one.
        length: Option<u64>,
    },
    /// Put what is sent in the file's place, at once, when it has come whole.
    Write {
        /// Its mode; that of the file before it without one, and 0644 if there was none.
        mode: Option<u32>,
    },
    /// Send it, with all that is below it, as a tar stream.
    Pack {
        /// What it is called there.
        name: ByteBuf,
        /// What a link leads to, and not the link.
        follow: bool,
    },
    /// Unpack the tar stream that is sent in this folder.
    Unpack {
        /// The first part that every entry's name must have; any without one.
        root: Option<ByteBuf>,
        /// Files belong to whom they belonged to, by number; else to the user who asks.
        owners: bool,
    },
    /// Send an entry for each file below this folder that fits.
    Find {
        /// A glob for its name, or for its path from the folder if it contains a slash.
        name: Option<ByteBuf>,
        /// What it must contain.
        contains: Option<ByteBuf>,
    },
    /// Send a change whenever something happens in this folder, or to this file, until the session is
    /// ended.
    Watch {
        /// In all folders below it, too, that the user may read.
        recursive: bool,
    },
}

impl FileOperation {
    /// Whether it moves data, which may be much.
    #[must_use]
    pub const fn is_bulk(&self) -> bool {
        self.takes_input() || matches!(self, Self::Read { .. } | Self::Pack { .. })
    }

    /// Whether it reads what the host sends.
    #[must_use]
    pub const fn takes_input(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Unpack { .. })
    }
}

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name in the folder that was listed; its path from the folder that was searched.
    pub path: ByteBuf,
    /// What it is.
    pub kind: FileKind,
    /// Its size in bytes.
    pub size: u64,
    /// Its permissions.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// How many names it has.
    pub links: u64,
    /// When it was last changed, in seconds since the Unix epoch.
    pub modified_s: i64,
    /// And nanoseconds.
    pub modified_ns: u32,
    /// Where it leads, if it is a symbolic link.
    pub target: Option<ByteBuf>,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharacterDevice,
}

/// Something that happened to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// Its path from the folder that is watched; empty for that itself.
    pub path: ByteBuf,
    /// What happened.
    pub kind: ChangeKind,
}

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeKind {
    /// It is there.
    Created,
    /// Its data changed.
    Modified,
    /// Its mode, owner or times changed.
    Attributes,
    /// It is gone, or has another name.
    Removed,
    /// Things happened faster than they could be told: look again.
    Overflow,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileReport {
    /// All of it was done.
    Done(Transfer),
    /// It was not, or not all of it.
    Failed(FileFault),
}

/// What was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Transfer {
    /// How many bytes were sent, or came without their digest.
    pub bytes: u64,
    /// Their XXH3 digest of 128 bits, big-endian.
    pub xxh3: [u8; 16],
    /// How many entries an archive has.
    pub entries: u64,
    /// How many sockets, pipes and devices were left out of it.
    pub skipped: u64,
    /// How many files were gone before they were read, and were left out.
    pub vanished: u64,
}

/// Why an operation was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct FileFault {
    /// The file that it is about.
    pub path: String,
    /// What is wrong, for programs.
    pub kind: FaultKind,
    /// What is wrong, for people.
    pub reason: String,
}

/// What is wrong with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// There is no such file.
    NotFound,
    /// There is one already.
    Exists,
    /// The user may not.
    PermissionDenied,
    /// It should be a folder.
    NotADirectory,
    /// It is a folder.
    IsADirectory,
    /// The folder is not empty.
    NotEmpty,
    /// There is no room.
    NoSpace,
    /// The file system is read-only.
    ReadOnly,
    /// An archive's entry would leave its folder, or is of a kind that is not unpacked.
    Refused,
    /// What came is no archive, or cannot be read as one.
    Archive,
    /// The data did not come whole.
    Corrupt,
    /// The request makes no sense.
    Invalid,
    /// Something else.
    Other,
}

/// Appends a record.
///
/// # Errors
///
/// If the message is too large.
pub fn encode_record<T: Serialize>(message: &T, out: &mut Vec<u8>) -> Result<(), RecordError> {
    let text = postcard::to_allocvec(message).map_err(|_| RecordError::Malformed)?;
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    if text.len() > MAX_RECORD {
        return Err(RecordError::TooLarge(length));
    }
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&text);
    Ok(())
}

/// Takes the first record away from `bytes`; `None` if it has not come whole yet.
///
/// # Errors
///
/// If it can never be one.
pub fn decode_record<T: DeserializeOwned>(bytes: &mut &[u8]) -> Result<Option<T>, RecordError> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_LEN>() else {
        return Ok(None);
    };
    let told = u32::from_le_bytes(*length);
    let length = usize::try_from(told).unwrap_or(usize::MAX);
    if length > MAX_RECORD {
        return Err(RecordError::TooLarge(told));
    }
    let Some((message, rest)) = rest.split_at_checked(length) else {
        return Ok(None);
    };
    let message = postcard::from_bytes(message).map_err(|_| RecordError::Malformed)?;
    *bytes = rest;
    Ok(Some(message))
}

/// A record that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It says that it is larger than one may be.
    #[error("a record of {0} bytes, and one may have {MAX_RECORD}")]
    TooLarge(u32),
    /// It is none.
    #[error("a record that cannot be read")]
    Malformed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_come_out_as_they_went_in(
            paths in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..10),
            cut in any::<prop::sample::Index>(),
        ) {
            let changes: Vec<_> = paths
                .into_iter()
                .map(|path| FileChange { path: ByteBuf::from(path), kind: ChangeKind::Modified })
                .collect();
            let mut wire = Vec::new();
            for change in &changes {
                encode_record(change, &mut wire).unwrap();
            }
            let whole = wire.len();
            let mut rest = wire.as_slice();
            let mut found = Vec::new();
            while let Some(change) = decode_record::<FileChange>(&mut rest).unwrap() {
                found.push(change);
            }
            prop_assert_eq!(&found, &changes);
            prop_assert!(rest.is_empty());
            let mut part = &wire[..cut.index(whole + 1)];
            while decode_record::<FileChange>(&mut part).unwrap().is_some() {}
        }

        #[test]
        fn arbitrary_records_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_record::<FileEntry>(&mut bytes.as_slice());
            let _ = decode_record::<FileReport>(&mut bytes.as_slice());
        }
    }
}
