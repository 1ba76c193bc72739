//! Free space, asked for before work that would fill a disk.

use std::path::{Path, PathBuf};

/// A disk has not enough room.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not enough space in {path}: {needed} bytes needed, {available} available",
    path = path.display()
)]
pub struct NoSpace {
    /// Where.
    pub path: PathBuf,
    /// How much the work takes.
    pub needed: u64,
    /// How much there is.
    pub available: u64,
}

/// Refuses work that needs more bytes than are free where `path` is, or will be.
///
/// # Errors
/// [`NoSpace`].
pub fn check(path: &Path, needed: u64) -> Result<(), NoSpace> {
    match available(path) {
        Some(available) if available < needed => Err(NoSpace {
            path: path.to_owned(),
            needed,
            available,
        }),
        _ => Ok(()),
    }
}

/// How much the file system that holds `path`, or will, still takes from us.
pub(crate) fn available(path: &Path) -> Option<u64> {
    let stat = path.ancestors().find_map(|p| rustix::fs::statvfs(p).ok())?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_is_refused_with_numbers() {
        let error = check(Path::new("/"), u64::MAX).unwrap_err();
        assert!(error.to_string().contains(&u64::MAX.to_string()));
        assert!(check(Path::new("/"), 0).is_ok());
    }

    #[test]
    fn folder_that_is_not_there_yet_is_asked_for_by_its_parent() {
        assert!(available(Path::new("/nonexistent/a/b")).is_some());
    }
}
