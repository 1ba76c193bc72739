//! Files of sandboxes.

use std::time::{Duration, SystemTime};

use agent_protocol::files::{ChangeKind, FileChange, FileEntry, FileKind};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

use super::result::{Bytes, Encoding};
use crate::error::Problem;
use crate::registry::record::Timestamp;

/// What became of a file that was named, or found.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct FileTold<T> {
    /// Its path: as it was named; of a folder's entries, from that folder, or as they are below the
    /// folder's name, of several. What is no text is replaced.
    pub(in crate::cli) path: String,
    /// The path's bytes in base64, if they are no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) path_base64: Option<String>,
    /// What is known of it, or was done.
    #[serde(flatten)]
    pub(in crate::cli) done: Option<T>,
    /// Why it could not be done.
    pub(in crate::cli) error: Option<Problem>,
}

/// What is known of a file.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct Entry {
    /// What it is.
    r#type: Type,
    /// Its size in bytes.
    size: u64,
    /// Its permissions, octal.
    mode: String,
    /// Its owner.
    uid: u32,
    /// Its group.
    gid: u32,
    /// How many names it has.
    links: u64,
    /// When it was last changed.
    modified: Timestamp,
    /// Where it leads, if it is a symbolic link.
    target: Option<String>,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
enum Type {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    BlockDevice,
    CharacterDevice,
}

/// What is in a file.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct Content {
    /// How many bytes `content` stands for.
    bytes: usize,
    /// The bytes.
    content: String,
    /// How they are told.
    encoding: Encoding,
    /// Whether the file goes on: at most 16 MiB are told at once, from `--offset`.
    truncated: bool,
}

/// What was written to a file.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct Written {
    /// How much.
    pub(in crate::cli) bytes: u64,
    /// Its XXH3 (128 bits), in hexadecimal, the same on both sides.
    pub(in crate::cli) xxh3: String,
}

/// What was done has nothing more to say.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct Done {}

/// Something that happened to a file.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct Change {
    /// What.
    kind: Happened,
    /// Its path, from what is watched; what is no text is replaced.
    path: String,
    /// The path's bytes in base64, if they are no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
}

/// What can happen to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(in crate::cli) enum Happened {
    /// It is there.
    Created,
    /// What is in it has changed.
    Modified,
    /// Its mode, owner or times have changed.
    Attributes,
    /// It is gone from there.
    Removed,
    /// More has happened than could be told.
    Overflow,
}

impl<T> FileTold<T> {
    pub(in crate::cli) fn new(path: &[u8], outcome: Result<T, Problem>) -> Self {
        let (path, path_base64) = told_path(path);
        let (done, error) = match outcome {
            Ok(done) => (Some(done), None),
            Err(problem) => (None, Some(problem)),
        };
        Self {
            path,
            path_base64,
            done,
            error,
        }
    }
}

fn told_path(path: &[u8]) -> (String, Option<String>) {
    let base64 = std::str::from_utf8(path)
        .is_err()
        .then(|| BASE64_STANDARD.encode(path));
    (String::from_utf8_lossy(path).into_owned(), base64)
}

impl Entry {
    pub(in crate::cli) fn of(entry: &FileEntry) -> Self {
        let target = entry.target.as_ref();
        Self {
            r#type: match entry.kind {
                FileKind::File => Type::File,
                FileKind::Directory => Type::Directory,
                FileKind::Symlink => Type::Symlink,
                FileKind::Fifo => Type::Fifo,
                FileKind::Socket => Type::Socket,
                FileKind::BlockDevice => Type::BlockDevice,
                FileKind::CharacterDevice => Type::CharacterDevice,
            },
            size: entry.size,
            mode: format!("{:04o}", entry.mode),
            uid: entry.uid,
            gid: entry.gid,
            links: entry.links,
            modified: modified(entry),
            target: target.map(|target| String::from_utf8_lossy(target).into_owned()),
        }
    }
}

/// When it was changed, to the millisecond. What no calendar holds is told as its end.
pub(in crate::cli) fn modified(entry: &FileEntry) -> Timestamp {
    const LAST: u64 = 253_402_300_799;
    let seconds = u64::try_from(entry.modified_s).unwrap_or(0).min(LAST);
    let since = Duration::new(seconds, 0) + Duration::from_nanos(entry.modified_ns.into());
    let at = SystemTime::UNIX_EPOCH.checked_add(since.min(Duration::from_secs(LAST)));
    Timestamp(at.unwrap_or(SystemTime::UNIX_EPOCH))
}

impl Content {
    pub(in crate::cli) fn of(bytes: &[u8], truncated: bool) -> Self {
        let told = Bytes::from(bytes);
        Self {
            bytes: bytes.len(),
            content: told.text.into_owned(),
            encoding: told.encoding,
            truncated,
        }
    }
}

impl Change {
    pub(in crate::cli) fn of(change: &FileChange) -> Self {
        let (path, path_base64) = told_path(&change.path);
        Self {
            kind: Happened::of(change.kind),
            path,
            path_base64,
        }
    }
}

impl Happened {
    pub(in crate::cli) const fn of(kind: ChangeKind) -> Self {
        match kind {
            ChangeKind::Created => Self::Created,
            ChangeKind::Modified => Self::Modified,
            ChangeKind::Attributes => Self::Attributes,
            ChangeKind::Removed => Self::Removed,
            ChangeKind::Overflow => Self::Overflow,
        }
    }

    pub(in crate::cli) const fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Modified => "modified",
            Self::Attributes => "attributes",
            Self::Removed => "removed",
            Self::Overflow => "overflow",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_no_text_is_told_in_base64_too() {
        let told = FileTold::new(b"a\xff", Ok(Done {}));
        let json = serde_json::to_value(told).unwrap();
        assert_eq!(json["path_base64"], "Yf8=");
        assert_eq!(json["error"], serde_json::Value::Null);
        let told = serde_json::to_value(FileTold::new(b"a", Ok(Done {}))).unwrap();
        assert_eq!(told, serde_json::json!({ "path": "a", "error": null }));
    }

    #[test]
    fn times_out_of_every_calendar_are_told_as_its_end() {
        let mut entry = FileEntry {
            path: serde_bytes::ByteBuf::from("x"),
            kind: FileKind::File,
            size: 0,
            mode: 0,
            uid: 0,
            gid: 0,
            links: 1,
            modified_s: 1,
            modified_ns: 500_000_000,
            target: None,
        };
        assert_eq!(modified(&entry).to_string(), "1970-01-01T00:00:01.500Z");
        entry.modified_s = i64::MAX;
        assert_eq!(modified(&entry).to_string(), "9999-12-31T23:59:59.000Z");
    }
}
