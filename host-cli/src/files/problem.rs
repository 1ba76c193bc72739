//! What went wrong with files, told as the user called them.

use std::error::Error;
use std::io;
use std::path::Path;

use agent_client::{ArchiveError, FilesError};
use agent_protocol::files::{FaultKind, FileFault};

use super::place::Place;
use crate::error::{ENGINE_FAILURE, ErrorKind, Problem, chain};
use crate::sandbox::client_kind;

/// What to do about a sandbox that has no room.
const SANDBOX_FULL: &str = "what a sandbox may write is bounded: remove something in it, or make one with a \
                            larger `--disk` or `--overlay-size`";

/// What to do about an archive that cannot be read.
const WHOLE_TAR: &str = "it takes a whole tar archive, and not a compressed one: `zcat FILE | sovereign cp - \
                         SANDBOX:PATH`, or `bzcat`, `xzcat`, `zstdcat`";

impl From<FilesError> for Problem {
    fn from(error: FilesError) -> Self {
        let code = match &error {
            FilesError::Client(error) => client_kind(error),
            FilesError::Fault(fault) => fault_kind(fault.kind),
            FilesError::Archive(_) => archive_kind(&error),
            FilesError::Corrupt { .. } => ErrorKind::Corrupt,
            FilesError::Nonsense { .. } => ErrorKind::Protocol,
            FilesError::Io { .. } => system_kind(&error).unwrap_or(ErrorKind::System),
        };
        let is_full =
            matches!(&error, FilesError::Fault(fault) if fault.kind == FaultKind::NoSpace);
        let exit_code = match &error {
            FilesError::Client(error) => error.exit_code(),
            _ => ENGINE_FAILURE,
        };
        Self {
            hint: is_full.then(|| SANDBOX_FULL.to_owned()),
            exit_code,
            ..Self::of(code, &error)
        }
    }
}

/// The same error of an archive that somebody gave, and may have compressed.
pub(super) fn of_archive(error: FilesError) -> Problem {
    let problem = Problem::from(error);
    match problem.code {
        ErrorKind::Archive => Problem {
            hint: Some(WHOLE_TAR.to_owned()),
            ..problem
        },
        _ => problem,
    }
}

/// What the system's reason is for programs, if it is one that they may act on.
fn system_kind(error: &FilesError) -> Option<ErrorKind> {
    let cause = error.source()?.downcast_ref::<io::Error>()?;
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(ErrorKind::NoSpace),
        io::ErrorKind::ReadOnlyFilesystem => Some(ErrorKind::ReadOnly),
        io::ErrorKind::PermissionDenied => Some(ErrorKind::PermissionDenied),
        _ => None,
    }
}

/// What is wrong with an archive, or with a file that is part of one.
fn archive_kind(error: &FilesError) -> ErrorKind {
    match error {
        FilesError::Archive(ArchiveError::Unfit { .. }) => ErrorKind::Invalid,
        error => system_kind(error).unwrap_or(ErrorKind::Archive),
    }
}

/// The same error of a copy into a folder of a sandbox. The archive's names become the user's.
pub(super) fn into_sandbox(error: FilesError, source: &Path, place: &Place) -> Problem {
    let is_part = |path: &str| {
        let below = path.as_bytes().strip_prefix(place.name.as_slice());
        below.is_some_and(|below| below.is_empty() || below.starts_with(b"/"))
    };
    match error {
        FilesError::Fault(fault) if is_part(&fault.path) => FilesError::Fault(FileFault {
            path: place.below(&fault.path),
            ..fault
        })
        .into(),
        error => match error.file() {
            Some(path) if is_part(path) => {
                let below = path.get(place.name.len()..).unwrap_or_default();
                let asked = format!("{}{below}", source.display());
                named(&error, path, &asked)
            }
            _ => error.into(),
        },
    }
}

/// The same error of a copy into a folder of this machine. The archive's names become the user's.
pub(super) fn onto_host(error: FilesError, place: &Place) -> Problem {
    let problem = match error.file() {
        Some(path) => named(&error, path, &place.below(path)),
        None => return error.into(),
    };
    if problem.code != ErrorKind::NoSpace {
        return problem;
    }
    let folder = String::from_utf8_lossy(&place.folder);
    Problem {
        hint: Some(format!(
            "make room on the file system of {folder}, or copy to another one"
        )),
        ..problem
    }
}

/// An error whose text begins with a path, with another path.
fn named(error: &FilesError, path: &str, asked: &str) -> Problem {
    let code = archive_kind(error);
    let text = chain(error);
    let rest = text.strip_prefix(path).unwrap_or(&text);
    Problem::new(code, format!("{asked}{rest}"))
}

/// A word for programs.
#[must_use]
pub const fn fault_kind(kind: FaultKind) -> ErrorKind {
    match kind {
        FaultKind::NotFound => ErrorKind::NoSuchFile,
        FaultKind::Exists => ErrorKind::FileExists,
        FaultKind::PermissionDenied => ErrorKind::PermissionDenied,
        FaultKind::NotADirectory => ErrorKind::NotADirectory,
        FaultKind::IsADirectory => ErrorKind::IsADirectory,
        FaultKind::NotEmpty => ErrorKind::NotEmpty,
        FaultKind::NoSpace => ErrorKind::NoSpace,
        FaultKind::ReadOnly => ErrorKind::ReadOnly,
        FaultKind::Refused => ErrorKind::ArchiveRefused,
        FaultKind::Archive => ErrorKind::Archive,
        FaultKind::Corrupt => ErrorKind::Corrupt,
        FaultKind::Invalid => ErrorKind::Invalid,
        FaultKind::Other => ErrorKind::FileSystem,
    }
}

/// What the system said of a file of this machine.
pub(super) fn here(path: &Path, error: &io::Error) -> Problem {
    let code = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NoSuchFile,
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::FileSystem,
    };
    Problem::new(code, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_sandbox_is_named_with_its_file_and_the_remedy() {
        let place = Place {
            folder: b"/tmp".to_vec(),
            name: b"new".to_vec(),
        };
        let fault = |path: &str| {
            FilesError::Fault(FileFault {
                path: path.to_owned(),
                kind: FaultKind::NoSpace,
                reason: "No space left on device".to_owned(),
            })
        };
        let full = into_sandbox(fault("new/sub/a"), Path::new("src"), &place);
        assert_eq!(full.code, ErrorKind::NoSpace);
        assert_eq!(full.message, "/tmp/new/sub/a: No space left on device");
        assert!(full.hint.unwrap().contains("--overlay-size"));
        // Not one of the archive's.
        let other = into_sandbox(fault("newer"), Path::new("src"), &place);
        assert_eq!(other.message, "newer: No space left on device");
    }
}
