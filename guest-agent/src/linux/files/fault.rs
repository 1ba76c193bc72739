//! What is wrong with a file, for programs and for people.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use agent_archive::ArchiveError;
use agent_protocol::files::{FaultKind, FileFault};
use rustix::io::Errno;

use crate::linux::exec::command::shown;
use crate::linux::reason::reason;

/// What the system said of a path.
pub(crate) fn at(path: &[u8], error: impl Into<io::Error>) -> FileFault {
    let error = error.into();
    FileFault {
        path: shown(path),
        kind: kind(&error),
        reason: reason(error),
    }
}

/// What the system said of a path.
pub(crate) fn of(path: &Path, error: impl Into<io::Error>) -> FileFault {
    at(path.as_os_str().as_bytes(), error)
}

/// The host's side of a stream is gone, or it did not come whole.
pub(crate) fn stream(error: &io::Error) -> FileFault {
    let fault = at(
        b"the transfer",
        io::Error::new(error.kind(), error.to_string()),
    );
    let is_cut = error.kind() == io::ErrorKind::UnexpectedEof;
    FileFault {
        kind: if is_cut {
            FaultKind::Corrupt
        } else {
            fault.kind
        },
        ..fault
    }
}

/// What is wrong with a request.
pub(crate) fn invalid(path: &Path, reason: &str) -> FileFault {
    FileFault {
        path: shown(path.as_os_str().as_bytes()),
        kind: FaultKind::Invalid,
        reason: reason.to_owned(),
    }
}

/// What is wrong with an archive, or with a file that belongs to it.
pub(crate) fn archive(error: ArchiveError) -> FileFault {
    match error {
        ArchiveError::File { path, source } => at(path.as_bytes(), source),
        ArchiveError::Stream(error) => stream(&error),
        ArchiveError::Owner {
            path,
            user,
            group,
            source,
        } => FileFault {
            path,
            kind: kind(&source),
            reason: format!(
                "it cannot be given to user {user} and group {group}: {}",
                reason(source)
            ),
        },
        ArchiveError::Unfit { path, why } => FileFault {
            path,
            kind: FaultKind::Invalid,
            reason: why.to_owned(),
        },
        ArchiveError::Refused { entry, why } => FileFault {
            path: entry,
            kind: FaultKind::Refused,
            reason: format!("the archive's entry is refused: {why}"),
        },
        ArchiveError::Malformed(what) => FileFault {
            path: "the archive".to_owned(),
            kind: FaultKind::Archive,
            reason: format!("it is malformed: {what}"),
        },
        ArchiveError::Foreign(what) => FileFault {
            path: "the input".to_owned(),
            kind: FaultKind::Archive,
            reason: format!("it is no tar archive: {what}"),
        },
    }
}

fn kind(error: &io::Error) -> FaultKind {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) => FaultKind::NotFound,
        Some(Errno::EXIST) => FaultKind::Exists,
        Some(Errno::ACCESS | Errno::PERM) => FaultKind::PermissionDenied,
        Some(Errno::NOTDIR) => FaultKind::NotADirectory,
        Some(Errno::ISDIR) => FaultKind::IsADirectory,
        Some(Errno::NOTEMPTY) => FaultKind::NotEmpty,
        Some(Errno::NOSPC | Errno::DQUOT) => FaultKind::NoSpace,
        Some(Errno::ROFS) => FaultKind::ReadOnly,
        Some(Errno::INVAL | Errno::NAMETOOLONG | Errno::LOOP) => FaultKind::Invalid,
        _ => FaultKind::Other,
    }
}
