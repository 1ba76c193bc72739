//! A file's data, to the host and from it.
//!
//! What is written is a [`NewFile`] until it is whole: whatever kills this process, the old file stays
//! as it is. The new one has its owner, as far as this user may give files away, and its mode.

use std::fs::{File, Metadata};
use std::io::{self, BufRead, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use agent_archive::NewFile;
use agent_archive::digest::TrailedReader;
use agent_archive::room::{self, CopyError};
use agent_protocol::files::{FileFault, Transfer};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::{In, Out, fault, sent};

/// The mode of new files that are given none.
const FILE_MODE: u32 = 0o644;
const MODE_BITS: u32 = 0o7777;
const SET_ID_BITS: u32 = 0o6000;

/// Sends a file's data.
pub(crate) fn read(
    path: &Path,
    offset: u64,
    length: Option<u64>,
    mut out: Out,
) -> Result<Transfer, FileFault> {
    let failed = |error: io::Error| fault::of(path, error);
    let mut file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(fault::of(path, Errno::ISDIR));
    }
    if offset > 0 {
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    }
    let limit = length.unwrap_or(u64::MAX);
    room::pass_on(&mut out, limit, &mut file).map_err(|error| match error {
        CopyError::Reading(error) => failed(error),
        CopyError::Writing(error) => fault::stream(&error),
    })?;
    sent(out)
}

/// Puts what comes in the place of the file at `path`, or of what a link there leads to.
pub(crate) fn write(path: &Path, mode: Option<u32>, input: In) -> Result<Transfer, FileFault> {
    let failed = |error: io::Error| fault::of(path, error);
    let (place, old) = match path.canonicalize() {
        Ok(real) => {
            let metadata = real.metadata().map_err(failed)?;
            if metadata.is_dir() {
                return Err(fault::of(path, Errno::ISDIR));
            }
            if !metadata.is_file() {
                return Err(fault::invalid(path, "it is not a regular file"));
            }
            // A file that its owner has protected is not replaced behind its back.
            File::options().write(true).open(&real).map_err(failed)?;
            (real, Some(metadata))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (path.to_path_buf(), None),
        Err(error) => return Err(failed(error)),
    };
    let name = place.file_name().filter(|_| !ends_with_slash(path));
    let Some(name) = name else {
        return Err(fault::of(path, Errno::ISDIR));
    };
    let folder = match place.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(folder, flags, Mode::empty());
    let opened = opened.map_err(|error| fault::of(path, error))?;
    let mut new = NewFile::create(opened.as_fd()).map_err(failed)?;
    let mut input = TrailedReader::new(input);
    copy(&mut input, new.file(), path)?;
    let (bytes, xxh3) = input.finish().map_err(|error| fault::stream(&error))?;
    let inherited = match &old {
        Some(old) => inherit(new.file(), old).map_err(failed)?,
        None => FILE_MODE,
    };
    let mode = Mode::from_raw_mode(mode.unwrap_or(inherited) & MODE_BITS);
    rustix::fs::fchmod(new.file(), mode).map_err(|error| fault::of(path, error))?;
    new.file().sync_all().map_err(failed)?;
    new.place(name.as_bytes()).map_err(failed)?;
    if let Ok(folder) = File::open(folder) {
        // The name lasts, too, where the file system can promise it.
        let _ = folder.sync_all();
    }
    Ok(Transfer {
        bytes,
        xxh3,
        ..Transfer::default()
    })
}

/// Gives a file the owner of an old one, if that may be, and returns the mode that it should have: a program
/// must not run as another user than the one who made it so.
fn inherit(new: &File, old: &Metadata) -> io::Result<u32> {
    let (user, group) = (Uid::from_raw(old.uid()), Gid::from_raw(old.gid()));
    let given = rustix::fs::fchown(new, Some(user), Some(group));
    let given = match given {
        // A user may still give it to a group of theirs.
        Err(Errno::PERM) => rustix::fs::fchown(new, None, Some(group)),
        given => given,
    };
    match given {
        // Nor can it be given to whom this user namespace does not know.
        Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let now = new.metadata()?;
    let is_same = (now.uid(), now.gid()) == (old.uid(), old.gid());
    Ok(match is_same {
        true => old.mode(),
        false => old.mode() & !SET_ID_BITS,
    })
}

fn copy(input: &mut impl BufRead, file: &mut File, path: &Path) -> Result<(), FileFault> {
    loop {
        let count = match input.fill_buf() {
            Ok([]) => return Ok(()),
            Ok(data) => {
                file.write_all(data)
                    .map_err(|error| fault::of(path, error))?;
                data.len()
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(fault::stream(&error)),
        };
        input.consume(count);
    }
}

fn ends_with_slash(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(b"/")
}
