//! Folders that a killed process left half made or half removed.

use std::fs;
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
    /// Removes what processes that are gone have left half done. Returns how much that was.
    pub fn sweep(&self) -> usize {
        let entries = fs::read_dir(self.sandboxes())
            .into_iter()
            .flatten()
            .flatten();
        let left = entries
            .map(|entry| entry.path())
            .filter(|path| is_left(path));
        // Another one may sweep at the same time.
        left.filter(|path| fs::remove_dir_all(path).is_ok()).count()
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
        assert_eq!(registry.sweep(), 2);
        assert!(kept.iter().all(|path| path.exists()));
    }
}
