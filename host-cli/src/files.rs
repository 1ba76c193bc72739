//! Files copied into sandboxes, out of them and between them.
//!
//! Where a copy goes is what `docker cp` has taught everybody: into a folder that is there, else as
//! what the destination is called; `FOLDER/.` is what is in the folder. The work is done by
//! [`Files`], which [`Sandbox::files`](crate::Sandbox::files) and
//! [`Detached::files`](crate::detached::Detached::files) give: one operation each.

use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use agent_client::{Files, FilesError};
pub use agent_protocol::files::{
    ChangeKind, FaultKind, FileChange, FileEntry, FileFault, FileKind, Transfer,
};

use crate::error::{ErrorKind, Problem, chain};
use crate::sandbox::client_kind;

/// What to do about a sandbox that has no room.
const SANDBOX_FULL: &str = "what a sandbox may write is bounded: remove something in it, or make one with a \
                            larger `--disk` or `--overlay-size`";

/// Where sessions for files come from.
pub trait FileSource: Sync {
    /// A session for one operation.
    ///
    /// # Errors
    ///
    /// If the sandbox cannot be reached.
    fn files(&self) -> Result<Files, Problem>;
}

impl<F: Fn() -> Result<Files, Problem> + Sync> FileSource for F {
    fn files(&self) -> Result<Files, Problem> {
        self()
    }
}

impl From<FilesError> for Problem {
    fn from(error: FilesError) -> Self {
        let code = match &error {
            FilesError::Client(error) => client_kind(error),
            FilesError::Fault(fault) => fault_kind(fault.kind),
            FilesError::Archive(_) => system_kind(&error).unwrap_or(ErrorKind::Archive),
            FilesError::Corrupt { .. } => ErrorKind::Corrupt,
            FilesError::Nonsense { .. } => ErrorKind::Protocol,
            FilesError::Io { .. } => system_kind(&error).unwrap_or(ErrorKind::System),
        };
        let is_full =
            matches!(&error, FilesError::Fault(fault) if fault.kind == FaultKind::NoSpace);
        Self {
            hint: is_full.then(|| SANDBOX_FULL.to_owned()),
            ..Self::of(code, &error)
        }
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

/// The same error of a copy into a folder of a sandbox. The archive's names become the user's.
fn into_sandbox(error: FilesError, source: &Path, place: &Place) -> Problem {
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
            Some((path, _)) if is_part(path) => {
                let below = path.get(place.name.len()..).unwrap_or_default();
                let asked = format!("{}{below}", source.display());
                named(&error, path, &asked)
            }
            _ => error.into(),
        },
    }
}

/// The same error of a copy into a folder of this machine. The archive's names become the user's.
fn onto_host(error: FilesError, place: &Place) -> Problem {
    let problem = match error.file() {
        Some((path, _)) => named(&error, path, &place.below(path)),
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
    let code = system_kind(error).unwrap_or(ErrorKind::Archive);
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
        FaultKind::Corrupt => ErrorKind::Corrupt,
        FaultKind::Invalid => ErrorKind::Invalid,
        FaultKind::Other => ErrorKind::FileSystem,
    }
}

/// Copies a file or folder of this machine into a sandbox. With `follow`, what a link leads to.
///
/// # Errors
///
/// If there is no such file, no such place, or it cannot be read or written.
pub fn copy_in(
    source: &Path,
    sandbox: &dyn FileSource,
    path: &[u8],
    follow: bool,
) -> Result<Transfer, Problem> {
    let metadata = match follow {
        true => source.metadata(),
        false => source.symlink_metadata(),
    };
    let metadata = metadata.map_err(|error| here(source, &error))?;
    let origin = Origin::new(source.as_os_str().as_bytes(), metadata.is_dir());
    let place = origin.place(path, sandbox_kind(sandbox, path)?)?;
    let files = sandbox.files()?;
    files
        .copy_in(source, &place.folder, &place.name, follow)
        .map_err(|error| into_sandbox(error, source, &place))
}

/// Copies a file or folder of a sandbox to this machine. With `follow`, what a link leads to. Whatever
/// the sandbox sends, nothing but the destination is written to.
///
/// # Errors
///
/// As [`copy_in`].
pub fn copy_out(
    sandbox: &dyn FileSource,
    path: &[u8],
    target: &Path,
    follow: bool,
) -> Result<Transfer, Problem> {
    let entry = sandbox
        .files()?
        .stat(path, follow || path.ends_with(b"/"))?;
    let origin = Origin::new(path, entry.kind == FileKind::Directory);
    let kind = match target.metadata() {
        Ok(metadata) => Some(metadata.is_dir()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(here(target, &error)),
    };
    let place = origin.place(target.as_os_str().as_bytes(), kind)?;
    let folder = PathBuf::from(std::ffi::OsStr::from_bytes(&place.folder));
    let opened = File::open(&folder).map_err(|error| here(&folder, &error))?;
    let files = sandbox.files()?;
    files
        .copy_out(path, opened.as_fd(), &place.name, follow)
        .map_err(|error| onto_host(error, &place))
}

/// Copies a file or folder of one sandbox into another, or into the same.
///
/// # Errors
///
/// As [`copy_in`].
pub fn copy_between(
    from: &dyn FileSource,
    path: &[u8],
    to: &dyn FileSource,
    target: &[u8],
    follow: bool,
) -> Result<Transfer, Problem> {
    let entry = from.files()?.stat(path, follow || path.ends_with(b"/"))?;
    let origin = Origin::new(path, entry.kind == FileKind::Directory);
    let place = origin.place(target, sandbox_kind(to, target)?)?;
    let root = (place.name != b".").then_some(place.name.as_slice());
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| Problem::of(ErrorKind::System, &error))?;
    let (mut read, mut write) = (File::from(read), File::from(write));
    let (sender, receiver) = (from.files()?, to.files()?);
    std::thread::scope(|scope| {
        let name = &place.name;
        let packing = scope.spawn(move || sender.pack(path, name, follow, &mut write));
        let unpacked = receiver.unpack(&place.folder, root, &mut read);
        drop(read);
        let packed = packing.join().map_err(|_| {
            Problem::new(
                ErrorKind::System,
                "a thread that moved files gave up".to_owned(),
            )
        })?;
        match (unpacked, packed) {
            (Ok(unpacked), Ok(packed)) => Ok(Transfer {
                skipped: packed.skipped,
                ..unpacked
            }),
            // The side that takes may have given up first, and then knows why.
            (Err(error @ FilesError::Fault(_)), Err(FilesError::Io { .. })) => Err(error.into()),
            (_, Err(error)) | (Err(error), Ok(_)) => Err(error.into()),
        }
    })
}

/// Writes a file or folder of a sandbox to `out`, as a tar stream.
///
/// # Errors
///
/// If it cannot be read, or `out` takes no more.
pub fn pack(
    sandbox: &dyn FileSource,
    path: &[u8],
    follow: bool,
    out: &mut (dyn Write + Send),
) -> Result<Transfer, Problem> {
    let name = Origin::new(path, true).name;
    Ok(sandbox.files()?.pack(path, &name, follow, out)?)
}

/// Unpacks a tar stream in a folder of a sandbox.
///
/// # Errors
///
/// If an entry would leave the folder, or it cannot be read or written.
pub fn unpack(
    input: BorrowedFd<'_>,
    sandbox: &dyn FileSource,
    path: &[u8],
) -> Result<Transfer, Problem> {
    Ok(sandbox.files()?.unpack_from(path, None, input)?)
}

/// Whether a path of a sandbox is a folder; `None` if there is nothing.
fn sandbox_kind(sandbox: &dyn FileSource, path: &[u8]) -> Result<Option<bool>, Problem> {
    match sandbox.files()?.stat(path, true) {
        Ok(entry) => Ok(Some(entry.kind == FileKind::Directory)),
        Err(FilesError::Fault(fault)) if fault.kind == FaultKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn here(path: &Path, error: &io::Error) -> Problem {
    let code = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NoSuchFile,
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::FileSystem,
    };
    Problem::new(code, format!("{}: {error}", path.display()))
}

/// What is copied.
#[derive(Debug)]
struct Origin {
    /// What it is called; `.` for what is in a folder.
    name: Vec<u8>,
    is_folder: bool,
}

/// Where a copy goes.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    folder: Vec<u8>,
    name: Vec<u8>,
}

impl Place {
    /// The path of what an archive calls this.
    fn below(&self, path: &str) -> String {
        let folder = String::from_utf8_lossy(&self.folder);
        match folder.as_ref() {
            "." => path.to_owned(),
            folder => format!("{}/{path}", folder.trim_end_matches('/')),
        }
    }
}

impl Origin {
    fn new(path: &[u8], is_folder: bool) -> Self {
        let (_, name) = split(path);
        let is_nameless = matches!(name, b"" | b"." | b"..");
        Self {
            name: if is_nameless {
                b".".to_vec()
            } else {
                name.to_vec()
            },
            is_folder,
        }
    }

    /// Where it goes, if the destination is (`Some(true)`) a folder, is something else, or is not
    /// there.
    fn place(&self, target: &[u8], is_folder: Option<bool>) -> Result<Place, Problem> {
        let shown = || String::from_utf8_lossy(target).into_owned();
        let problem = |code, text: &str| Problem::new(code, format!("{}: {text}", shown()));
        match is_folder {
            Some(true) => Ok(Place {
                folder: target.to_vec(),
                name: self.name.clone(),
            }),
            Some(false) if self.is_folder => Err(problem(
                ErrorKind::NotADirectory,
                "a folder cannot be copied over a file",
            )),
            None if target.ends_with(b"/") && !self.is_folder => {
                Err(problem(ErrorKind::NoSuchFile, "there is no such folder"))
            }
            Some(false) | None => {
                let (folder, name) = split(target);
                if matches!(name, b"" | b"." | b"..") {
                    return Err(problem(ErrorKind::NoSuchFile, "there is no such folder"));
                }
                Ok(Place {
                    folder: folder.to_vec(),
                    name: name.to_vec(),
                })
            }
        }
    }
}

/// A path's folder, and its last part.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path
        .iter()
        .rposition(|byte| *byte != b'/')
        .map_or(0, |last| last + 1);
    let (path, _) = path.split_at(end);
    match path.iter().rposition(|byte| *byte == b'/') {
        None => (b".", path),
        Some(0) => (b"/", path.get(1..).unwrap_or_default()),
        Some(at) => (
            path.get(..at).unwrap_or_default(),
            path.get(at + 1..).unwrap_or_default(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn goes(source: &str, is_folder: bool, target: &str, there: Option<bool>) -> String {
        match Origin::new(source.as_bytes(), is_folder).place(target.as_bytes(), there) {
            Ok(Place { folder, name }) => {
                let [folder, name] = [folder, name].map(|part| String::from_utf8(part).unwrap());
                format!("{folder} as {name}")
            }
            Err(problem) => problem.code.to_string(),
        }
    }

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

    #[test]
    fn copies_go_where_docker_puts_them() {
        assert_eq!(goes("a/file", false, "/dir", Some(true)), "/dir as file");
        assert_eq!(goes("a/file", false, "/dir/new", None), "/dir as new");
        assert_eq!(goes("file", false, "old", Some(false)), ". as old");
        assert_eq!(goes("file", false, "/new", None), "/ as new");
        assert_eq!(goes("file", false, "/new/", None), "no-such-file");
        assert_eq!(goes("a/dir/", true, "/new/", None), "/ as new");
        assert_eq!(goes("a/dir", true, "/old", Some(true)), "/old as dir");
        assert_eq!(goes("a/dir/.", true, "/old", Some(true)), "/old as .");
        assert_eq!(goes("a/dir/.", true, "/new", None), "/ as new");
        assert_eq!(goes("/", true, "/old/", Some(true)), "/old/ as .");
        assert_eq!(goes("..", true, "x", Some(true)), "x as .");
        assert_eq!(goes("dir", true, "file", Some(false)), "not-a-directory");
        assert_eq!(goes("file", false, "..", None), "no-such-file");
    }
}
