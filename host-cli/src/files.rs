//! Files copied into sandboxes, out of them and between them.
//!
//! Where a copy goes is what `docker cp` has taught everybody: into a folder that is there, else as
//! what the destination is called; `FOLDER/.` is what is in the folder. The work is done by
//! [`Files`], which [`Sandbox::files`](crate::Sandbox::files) and
//! [`Detached::files`](crate::detached::Detached::files) give: one operation each.

mod place;
mod problem;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use agent_client::{Files, FilesError};
pub use agent_protocol::files::{
    ChangeKind, FaultKind, FileChange, FileEntry, FileFault, FileKind, Transfer,
};

use self::place::{Origin, There};
pub use self::problem::fault_kind;
use self::problem::{here, into_sandbox, of_archive, onto_host};
use crate::error::{ErrorKind, Problem};

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
    let place = origin.place(path, there(sandbox, path)?)?;
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
    let there = There::on_host(target)?;
    let place = origin.place(target.as_os_str().as_bytes(), there)?;
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
    let place = origin.place(target, there(to, target)?)?;
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
        Ok(outcome(packed, unpacked)?)
    })
}

/// What came of a copy whose two sides ended so.
fn outcome(
    packed: Result<Transfer, FilesError>,
    unpacked: Result<Transfer, FilesError>,
) -> Result<Transfer, FilesError> {
    match (packed, unpacked) {
        (Ok(packed), Ok(unpacked)) => Ok(Transfer {
            skipped: packed.skipped,
            vanished: packed.vanished,
            ..unpacked
        }),
        // The side that takes has given up first, and knows why.
        (Err(packed), Err(error)) if packed.is_broken_pipe() => Err(error),
        (Err(error), _) | (Ok(_), Err(error)) => Err(error),
    }
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
    let unpacked = sandbox.files()?.unpack_from(path, None, input);
    unpacked.map_err(of_archive)
}

/// What is at a path of a sandbox.
fn there(sandbox: &dyn FileSource, path: &[u8]) -> Result<There, Problem> {
    match sandbox.files()?.stat(path, true) {
        Ok(entry) => Ok(entry.kind.into()),
        Err(FilesError::Fault(fault)) if fault.kind == FaultKind::NotFound => Ok(There::Nothing),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use agent_client::ClientError;

    use super::*;

    fn lost() -> FilesError {
        ClientError::Disconnected("reading").into()
    }

    fn failed(source: io::ErrorKind) -> FilesError {
        FilesError::Io {
            doing: "passing on",
            source: source.into(),
        }
    }

    #[test]
    fn the_side_that_failed_first_tells_why() {
        let pipe = || Err(failed(io::ErrorKind::BrokenPipe));
        let error = outcome(pipe(), Err(lost())).unwrap_err();
        assert!(matches!(error, FilesError::Client(_)), "{error}");
        let corrupt = || FilesError::Corrupt {
            path: String::new(),
        };
        let error = outcome(pipe(), Err(corrupt())).unwrap_err();
        assert!(matches!(error, FilesError::Corrupt { .. }), "{error}");
        // Without its source, the other side finds the archive cut off.
        let cut = failed(io::ErrorKind::UnexpectedEof);
        let error = outcome(Err(lost()), Err(cut)).unwrap_err();
        assert!(matches!(error, FilesError::Client(_)), "{error}");
    }
}
