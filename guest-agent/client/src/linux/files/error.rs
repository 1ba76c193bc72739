//! Why something was not done with files.

use std::io;

use agent_archive::ArchiveError;
use agent_protocol::files::FileFault;

use crate::error::ClientError;

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

impl FilesError {
    /// The file that it is about, if it is one of an archive, on this side.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        match self {
            Self::Archive(
                ArchiveError::File { path, .. }
                | ArchiveError::Owner { path, .. }
                | ArchiveError::Unfit { path, .. },
            ) => Some(path),
            _ => None,
        }
    }

    /// Whether it is that whoever was to read this side's stream reads no more: he has a reason of his own.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        let source = match self {
            Self::Io { source, .. } | Self::Archive(ArchiveError::Stream(source)) => source,
            _ => return false,
        };
        source.kind() == io::ErrorKind::BrokenPipe
    }
}
