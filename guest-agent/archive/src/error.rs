//! Why a tree could not be packed or unpacked.

use std::io;

use rustix::io::Errno;

use crate::read::Owner;

/// Why a tree could not be packed or unpacked. Each names what it is about.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stream cannot be read or written.
    #[error("the archive's stream")]
    Stream(#[source] io::Error),
    /// The stream is no archive, or not a whole one.
    #[error("the archive is malformed: {0}")]
    Malformed(&'static str),
    /// The stream is something else.
    #[error("this is no tar archive: {0}")]
    Foreign(&'static str),
    /// An entry would be written outside the folder.
    #[error("entry {entry:?} is refused: {why}")]
    Refused {
        /// The entry's name.
        entry: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file is not copied, or not replaced, for what it is.
    #[error("{path}: {why}")]
    Unfit {
        /// The file.
        path: String,
        /// What it is.
        why: &'static str,
    },
    /// A file cannot belong to whom it is to belong to.
    #[error("{path} cannot be given to user {user} and group {group}")]
    Owner {
        /// The file.
        path: String,
        /// The user's number.
        user: u32,
        /// The group's number.
        group: u32,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The system said no.
    #[error("{path}")]
    File {
        /// The file.
        path: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl ArchiveError {
    pub(crate) fn file(path: &[u8], error: impl Into<io::Error>) -> Self {
        Self::File {
            path: shown(path),
            source: error.into(),
        }
    }

    pub(crate) fn owner(path: &[u8], owner: Owner, error: Errno) -> Self {
        Self::Owner {
            path: shown(path),
            user: owner.user,
            group: owner.group,
            source: error.into(),
        }
    }

    pub(crate) fn unfit(path: &[u8], why: &'static str) -> Self {
        Self::Unfit {
            path: shown(path),
            why,
        }
    }

    pub(crate) fn refused(entry: &[u8], why: &'static str) -> Self {
        Self::Refused {
            entry: shown(entry),
            why,
        }
    }

    /// What `openat2` says of a path that it resolves beneath a folder.
    pub(crate) fn resolving(path: &[u8], error: Errno) -> Self {
        match error {
            Errno::XDEV => Self::refused(path, "it leaves the target"),
            Errno::LOOP => Self::refused(path, "a link leads to it"),
            other => Self::file(path, other),
        }
    }
}

/// A path as text, cut at a length that a message can bear.
pub(crate) fn shown(path: &[u8]) -> String {
    const MAX_SHOWN: usize = 1024;
    String::from_utf8_lossy(path.get(..MAX_SHOWN).unwrap_or(path)).into_owned()
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        for error in [
            ArchiveError::file(b"a", Errno::NOSPC),
            ArchiveError::Stream(Errno::NOSPC.into()),
        ] {
            let cause = error.source().unwrap().to_string();
            assert!(
                cause.contains("space") && !error.to_string().contains(&cause),
                "{error}"
            );
        }
    }
}
