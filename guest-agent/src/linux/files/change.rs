//! Folders made, names changed, files removed.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use agent_protocol::files::{FileFault, Transfer};

use super::fault;

/// The mode of folders that are given none.
const FOLDER_MODE: u32 = 0o755;

pub(crate) fn make_directory(
    path: &Path,
    parents: bool,
    mode: Option<u32>,
) -> Result<Transfer, FileFault> {
    let existed = path.is_dir();
    let mut builder = DirBuilder::new();
    builder.recursive(parents).mode(FOLDER_MODE);
    builder
        .create(path)
        .map_err(|error| fault::of(path, error))?;
    if let Some(mode) = mode.filter(|_| !existed) {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, permissions).map_err(|error| fault::of(path, error))?;
    }
    Ok(Transfer::default())
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<Transfer, FileFault> {
    std::fs::rename(from, to).map_err(|error| {
        // Which of the two it is about, the system does not say.
        let about = match from.symlink_metadata() {
            Ok(_) => to,
            Err(_) => from,
        };
        fault::of(about, error)
    })?;
    Ok(Transfer::default())
}

pub(crate) fn remove(path: &Path, recursive: bool) -> Result<Transfer, FileFault> {
    let metadata = path.symlink_metadata();
    let metadata = metadata.map_err(|error| fault::of(path, error))?;
    let removed = match (metadata.is_dir(), recursive) {
        (true, true) => std::fs::remove_dir_all(path),
        (true, false) => Err(rustix::io::Errno::ISDIR.into()),
        (false, _) => std::fs::remove_file(path),
    };
    removed.map_err(|error| fault::of(path, error))?;
    Ok(Transfer::default())
}
