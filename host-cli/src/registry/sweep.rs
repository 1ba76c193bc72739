//! Folders that a killed process left half made or half removed.

use std::fs;
use std::path::{Path, PathBuf};

use super::Registry;

/// How the names end of folders that are being made, and removed, by the process of that number.
const NEW: &str = "new-";
const REMOVED: &str = "removed-";

/// Where this process makes a sandbox's folder, out of sight until it is whole.
pub(super) fn unfinished(folder: &Path) -> PathBuf {
    folder.with_extension(format!("{NEW}{}", std::process::id()))
}

/// Where this process puts a sandbox's folder to remove it.
pub(super) fn removed(folder: &Path) -> PathBuf {
    folder.with_extension(format!("{REMOVED}{}", std::process::id()))
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
    let process = ending.and_then(|ending| {
        let number = ending
            .strip_prefix(NEW)
            .or_else(|| ending.strip_prefix(REMOVED))?;
        number.parse::<u32>().ok()
    });
    process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_belongs_to_nobody_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path());
        let sandbox = registry.sandboxes().join("0123456789ab");
        let gone = |ending| sandbox.with_extension(format!("{ending}4194305"));
        let kept = [sandbox.clone(), unfinished(&sandbox), removed(&sandbox)];
        for path in kept.iter().chain(&[gone(NEW), gone(REMOVED)]) {
            fs::create_dir_all(path).unwrap();
        }
        assert_eq!(registry.sweep(), 2);
        assert!(kept.iter().all(|path| path.exists()));
    }
}
