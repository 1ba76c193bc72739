//! What a killed process left half made or half removed.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Registry;
use crate::owner::Owner;

/// How the names end of folders that are being made, and removed, before the process that does it.
const NEW: &str = "new-";
const REMOVED: &str = "removed-";

/// Where this process makes a sandbox's folder, out of sight until it is whole.
pub(super) fn unfinished(folder: &Path) -> PathBuf {
    beside(folder, NEW)
}

/// Where this process puts a sandbox's folder to remove it.
pub(super) fn removed(folder: &Path) -> PathBuf {
    beside(folder, REMOVED)
}

fn beside(folder: &Path, what: &str) -> PathBuf {
    // Without /proc nobody is known, and what such a process leaves stays.
    let owner = Owner::this().map(|owner| owner.to_string());
    folder.with_extension(format!("{what}{}", owner.unwrap_or_default()))
}

impl Registry {
    /// Removes what processes that are gone have left half done, or just looks for it. Returns each
    /// one's path, and what came of it.
    #[must_use]
    pub fn sweep(&self, dry_run: bool) -> Vec<(PathBuf, io::Result<()>)> {
        let mut left = self.half_done();
        // Where there never was a sandbox, nothing is made to look. Sandboxes whose folder is not there
        // just now are not gone.
        let has_names = self.names().is_dir() && self.sandboxes().is_dir();
        // Held until all is removed.
        let names = has_names.then(|| self.lock_names()).transpose();
        if let Ok(Some(names)) = &names {
            left.extend(names.dangling());
        }
        let remove = |path: PathBuf| {
            let removed = if dry_run { Ok(()) } else { remove_all(&path) };
            (path, removed)
        };
        let mut swept: Vec<_> = left.into_iter().map(remove).collect();
        if let Err(error) = names {
            swept.push((self.names(), Err(io::Error::other(error))));
        }
        swept
    }

    /// The folders of which processes that are gone were the owners.
    pub(super) fn half_done(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.sandboxes())
            .into_iter()
            .flatten()
            .flatten();
        let paths = entries.map(|entry| entry.path());
        paths.filter(|path| is_left(path)).collect()
    }
}

/// Removes a folder, also one in which a sandbox has closed folders to its user; of a link, the link.
/// Somebody else may remove it at the same time.
pub(super) fn remove_all(folder: &Path) -> io::Result<()> {
    let removed = match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(folder);
            fs::remove_dir_all(folder)
        }
        result => result,
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Lets this user into all folders below one; links are not followed. What is not this user's stays as
/// it is, and its removal says so.
fn open_up(folder: &Path) {
    let _ = fs::set_permissions(folder, Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

fn is_left(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    let owner = ending.and_then(|ending| {
        let owner = ending
            .strip_prefix(NEW)
            .or_else(|| ending.strip_prefix(REMOVED))?;
        Owner::of_id(owner)
    });
    owner.is_some_and(Owner::is_gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_belongs_to_nobody_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path());
        let sandbox = registry.sandboxes().join("0123456789ab");
        let this = Owner::this().unwrap().to_string();
        let (_, rest) = this.split_once('-').unwrap();
        let gone = |ending| sandbox.with_extension(format!("{ending}4194305-{rest}"));
        // A process of another namespace cannot be seen from here.
        let elsewhere = sandbox.with_extension(format!("{NEW}4194305-1-1"));
        let kept = [
            sandbox.clone(),
            unfinished(&sandbox),
            removed(&sandbox),
            elsewhere,
        ];
        for path in kept.iter().chain(&[gone(NEW), gone(REMOVED)]) {
            fs::create_dir_all(path).unwrap();
        }
        assert_eq!(registry.sweep(true).len(), 2);
        assert!(gone(NEW).exists() && gone(REMOVED).exists());
        assert_eq!(registry.sweep(false).len(), 2);
        assert!(!gone(NEW).exists() && !gone(REMOVED).exists());
        assert!(kept.iter().all(|path| path.exists()));
    }
}
