//! What processes that were killed have left unfinished in a store.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::apts::environment;
use crate::lock::{Lock, Sharing};

use super::candidate::{LOCK as CANDIDATE_LOCK, is_candidate};
use super::{LOCK, Store, StoreError, folder_names};

/// A file or a folder that nobody goes on with.
#[derive(Debug)]
pub struct Unfinished {
    /// Where it is, or was.
    pub path: PathBuf,
    /// Why it is still there, if it was to be removed.
    pub problem: Option<io::Error>,
}

impl Store {
    /// Removes files being written, candidates, and T-APTS environments being made whose makers are
    /// gone, or just lists them. Images are not touched. While somebody works on the store nothing of
    /// it is looked at.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn remove_unfinished(&self, dry_run: bool) -> Result<Vec<Unfinished>, StoreError> {
        let mut found = environment::unfinished(self);
        let mut has_candidates = false;
        let locks = [CANDIDATE_LOCK, LOCK].map(|name| self.try_lock(name));
        if let [Some(_), Some(_)] = &locks {
            let names = folder_names(&self.tmp())?;
            found.extend(names.iter().map(|name| self.tmp().join(name)));
            let names = self.names()?.into_iter();
            let candidates: Vec<_> = names.filter(|name| is_candidate(name)).collect();
            has_candidates = !candidates.is_empty();
            found.extend(candidates.iter().map(|name| self.manifest_path(name)));
        }
        let handle = |path: PathBuf| Unfinished {
            problem: (!dry_run).then(|| remove(&path).err()).flatten(),
            path,
        };
        let found = found.into_iter().map(handle).collect();
        if has_candidates && !dry_run {
            // Their files, unless an image is so damaged that it cannot be told what it needs: then
            // `prune` and `remove` say so.
            let _ = self.collect();
        }
        Ok(found)
    }

    /// A lock of the store, if it is there and free.
    fn try_lock(&self, name: &str) -> Option<Lock> {
        if !self.images().is_dir() {
            return None;
        }
        let path = self.root.join(name);
        let nobody = &mut |_: &str| {};
        Lock::acquire(&path, Sharing::Exclusive, "pruning", Duration::ZERO, nobody).ok()
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let gone = if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match gone {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
