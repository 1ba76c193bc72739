//! Whole trees, as tar streams.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use agent_archive::digest::TrailedReader;
use agent_archive::{Links, UnpackOptions};
use agent_protocol::files::{FileFault, Transfer};
use rustix::fs::{Mode, OFlags};

use super::{Out, fault, sent};

/// The sandbox's user may give its own files any mode.
const MODES: u32 = 0o7777;

/// Sends a tree.
pub(crate) fn pack(
    path: &Path,
    name: &[u8],
    follow: bool,
    mut out: Out,
) -> Result<Transfer, FileFault> {
    // Within the tree, an error names its files as the archive does; here, as the request did.
    let metadata = match follow {
        true => path.metadata(),
        false => path.symlink_metadata(),
    };
    metadata.map_err(|error| fault::of(path, error))?;
    let packed = agent_archive::pack(path, name, follow, &mut out).map_err(fault::archive)?;
    Ok(Transfer {
        entries: packed.entries,
        skipped: packed.skipped,
        ..sent(out)
    })
}

/// Unpacks a tree in a folder.
pub(crate) fn unpack(path: &Path, root: Option<&[u8]>, input: File) -> Result<Transfer, FileFault> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty());
    let folder = folder.map_err(|error| fault::of(path, error))?;
    let options = UnpackOptions {
        root,
        links: Links::StayBeneath,
        modes: MODES,
    };
    let mut input = TrailedReader::new(input);
    let unpacked =
        agent_archive::unpack(&mut input, folder.as_fd(), options).map_err(fault::archive)?;
    let (bytes, sha256) = input.finish().map_err(|error| fault::stream(&error))?;
    Ok(Transfer {
        bytes,
        sha256,
        entries: unpacked.entries,
        skipped: 0,
    })
}
