//! Whole trees, as tar streams.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use agent_archive::digest::TrailedReader;
use agent_archive::{ArchiveError, Links, UnpackOptions};
use agent_protocol::files::{FileFault, Transfer};
use rustix::fs::{Mode, OFlags};

use super::{In, Out, fault, sent};

/// The sandbox's user may give its own files any mode.
const MODES: u32 = 0o7777;

/// Sends a tree.
pub(crate) fn pack(
    path: &Path,
    name: &[u8],
    follow: bool,
    mut out: Out,
) -> Result<Transfer, FileFault> {
    let metadata = match follow {
        true => path.metadata(),
        false => path.symlink_metadata(),
    };
    metadata.map_err(|error| fault::of(path, error))?;
    let packed = agent_archive::pack(path, name, follow, &mut out);
    let packed = packed.map_err(|error| as_asked(fault::archive(error), path, name))?;
    Ok(Transfer {
        entries: packed.entries,
        skipped: packed.skipped,
        vanished: packed.vanished,
        ..sent(out)?
    })
}

/// Unpacks a tree in a folder.
pub(crate) fn unpack(
    path: &Path,
    root: Option<&[u8]>,
    owners: bool,
    input: In,
) -> Result<Transfer, FileFault> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty());
    let folder = folder.map_err(|error| fault::of(path, error))?;
    let options = UnpackOptions {
        root,
        links: Links::StayBeneath,
        modes: MODES,
        owners,
    };
    let mut input = TrailedReader::new(input);
    let unpacked = agent_archive::unpack(&mut input, folder.as_fd(), options);
    let is_cut = |error: &ArchiveError| match error {
        ArchiveError::Stream(error) => error.kind() == io::ErrorKind::UnexpectedEof,
        _ => false,
    };
    let unpacked = match unpacked {
        // It is the archive that ends too early, unless its stream did.
        Err(error) if is_cut(&error) => {
            let (bytes, _) = input.finish().map_err(|error| fault::stream(&error))?;
            return Err(fault::archive(match bytes {
                0 => ArchiveError::Foreign("it is empty"),
                1..512 => ArchiveError::Foreign("it is shorter than any"),
                _ => ArchiveError::Malformed("it ends too early"),
            }));
        }
        unpacked => unpacked.map_err(fault::archive)?,
    };
    let (bytes, xxh3) = input.finish().map_err(|error| fault::stream(&error))?;
    Ok(Transfer {
        bytes,
        xxh3,
        entries: unpacked.entries,
        ..Transfer::default()
    })
}

/// Names a file as the request did, and not as the archive does.
fn as_asked(fault: FileFault, path: &Path, name: &[u8]) -> FileFault {
    let name = String::from_utf8_lossy(name);
    let below = fault.path.strip_prefix(name.as_ref());
    let below = below.filter(|below| below.is_empty() || below.starts_with('/'));
    match below {
        Some(below) => FileFault {
            path: format!("{}{below}", path.display()),
            ..fault
        },
        None => fault,
    }
}

#[cfg(test)]
mod tests {
    use agent_protocol::files::FaultKind;

    use super::*;

    #[test]
    fn files_are_named_as_they_were_asked_for() {
        let named = |told: &str, name: &[u8]| {
            let fault = FileFault {
                path: told.to_owned(),
                kind: FaultKind::Other,
                reason: String::new(),
            };
            as_asked(fault, Path::new("/srv/data"), name).path
        };
        assert_eq!(named("copy", b"copy"), "/srv/data");
        assert_eq!(named("copy/a/b", b"copy"), "/srv/data/a/b");
        assert_eq!(named("./a", b"."), "/srv/data/a");
        assert_eq!(named("copyright", b"copy"), "copyright");
    }
}
