//! Results of long work, kept outside the checkout and found again by what they were made from.
//!
//! An entry is a folder, named by the SHA-256 of everything that went into it ([`Key`]). It is made
//! under another name and renamed when it is complete, so a half-made entry is never seen. One lock
//! a key: of two builds that want the same thing, one does the work and the other waits for it.
//!
//! ```text
//!  <cache>/<kind>/<key>/          a complete entry
//!  <cache>/<kind>/<key>.partial/  being made, or left by a build that was killed
//!  <cache>/<kind>/<key>.lock
//! ```

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::digest::{Digest, Hasher};
use crate::lock::{Lock, LockError, Sharing};
use crate::progress::Step;

/// How long a build waits for another one that makes the same thing.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The cache could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Nothing says where it is to be.
    #[error("no place for the build cache: set SOVEREIGN_CACHE_DIR, XDG_CACHE_HOME or HOME")]
    NoPlace,
    /// An entry is being made by another process.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file could not be read, written, renamed or removed.
    #[error("cannot {action} {path}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// The folder with all entries.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The user's cache: `$SOVEREIGN_CACHE_DIR`, else `$XDG_CACHE_HOME/sovereign`, else
    /// `~/.cache/sovereign`.
    ///
    /// # Errors
    /// [`CacheError::NoPlace`] if none of these variables is set.
    pub fn open_default() -> Result<Self, CacheError> {
        let set = |name| env::var_os(name).filter(|value: &OsString| !value.is_empty());
        let root = set("SOVEREIGN_CACHE_DIR")
            .map(PathBuf::from)
            .or_else(|| set("XDG_CACHE_HOME").map(|home| PathBuf::from(home).join("sovereign")))
            .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".cache/sovereign")))
            .ok_or(CacheError::NoPlace)?;
        Ok(Self::open(root))
    }

    /// A cache in a folder of one's own. The folder is made when the first entry is.
    #[must_use]
    pub fn open(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The complete entry of this kind and key, if there is one.
    #[must_use]
    pub fn find(&self, kind: &str, key: &Key) -> Option<PathBuf> {
        let entry = self.entry(kind, key);
        entry.is_dir().then_some(entry)
    }

    /// Finds an entry, or makes it: `make` gets an empty folder to fill. `step` is told what is
    /// waited for.
    ///
    /// # Errors
    /// What `make` says (nothing is kept then), or why the cache cannot be used.
    pub fn find_or_make<E: From<CacheError>>(
        &self,
        kind: &str,
        key: &Key,
        step: &Step<'_>,
        make: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        if let Some(entry) = self.find(kind, key) {
            return Ok(entry);
        }
        let _lock = self.lock(kind, key, step)?;
        if let Some(entry) = self.find(kind, key) {
            return Ok(entry);
        }
        let entry = self.entry(kind, key);
        let partial = self.beside(kind, key, "partial");
        remove_folder(&partial)?;
        fs::create_dir_all(&partial).map_err(failed("create", &partial))?;
        if let Err(error) = make(&partial) {
            // The error that matters is the caller's; what stays here the next attempt removes.
            let _ = fs::remove_dir_all(&partial);
            return Err(error);
        }
        fs::rename(&partial, &entry).map_err(failed("publish", &entry))?;
        Ok(entry)
    }

    /// Removes an entry, as when it turned out to be damaged.
    ///
    /// # Errors
    /// If it is being made, or cannot be removed.
    pub fn remove(&self, kind: &str, key: &Key, step: &Step<'_>) -> Result<(), CacheError> {
        let _lock = self.lock(kind, key, step)?;
        remove_folder(&self.entry(kind, key))
    }

    fn lock(&self, kind: &str, key: &Key, step: &Step<'_>) -> Result<Lock, CacheError> {
        let lock = Lock::acquire(
            &self.beside(kind, key, "lock"),
            Sharing::Exclusive,
            kind,
            PATIENCE,
            &mut |holder| step.log(&format!("waiting for {holder}")),
        )?;
        Ok(lock)
    }

    fn entry(&self, kind: &str, key: &Key) -> PathBuf {
        self.root.join(kind).join(&key.0)
    }

    fn beside(&self, kind: &str, key: &Key, suffix: &str) -> PathBuf {
        self.root.join(kind).join(format!("{}.{suffix}", key.0))
    }
}

/// The name of an entry: the SHA-256 of everything it is made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(String);

impl Key {
    /// Collects the inputs of an entry.
    #[must_use]
    pub fn builder() -> KeyBuilder {
        KeyBuilder(Hasher::default())
    }

    /// The key in hexadecimal.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Collects what goes into an entry. The order counts.
pub struct KeyBuilder(Hasher);

impl KeyBuilder {
    /// Adds an input: a version, an option, the text of a recipe.
    #[must_use]
    pub fn input(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.part(name.as_bytes());
        self.part(value.as_ref());
        self
    }

    /// Adds the content of a file.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn file(self, name: &str, path: &Path) -> Result<Self, CacheError> {
        let digest = Digest::of_file(path).map_err(failed("read", path))?;
        Ok(self.input(name, digest.to_hex()))
    }

    /// The key.
    #[must_use]
    pub fn finish(self) -> Key {
        Key(self.0.finish().0.to_hex())
    }

    /// Lengths keep `("a", "bc")` and `("ab", "c")` apart.
    fn part(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}

fn remove_folder(path: &Path) -> Result<(), CacheError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CacheError {
    move |source| CacheError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;
    use crate::progress::Silent;

    fn key(text: &str) -> Key {
        Key::builder().input("text", text).finish()
    }

    #[test]
    fn entry_is_made_once_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path().to_owned());
        let made = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let step = Step::begin(&Silent, "making");
                    let entry = cache
                        .find_or_make("thing", &key("a"), &step, |folder| {
                            made.fetch_add(1, Ordering::SeqCst);
                            fs::write(folder.join("file"), "whole").map_err(failed("write", folder))
                        })
                        .unwrap();
                    assert_eq!(fs::read(entry.join("file")).unwrap(), b"whole");
                });
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn failed_entry_leaves_nothing_to_be_found() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path().to_owned());
        let step = Step::begin(&Silent, "making");
        let result = cache.find_or_make("thing", &key("a"), &step, |folder| {
            fs::write(folder.join("half"), "half").unwrap();
            Err(CacheError::NoPlace)
        });
        assert!(result.is_err());
        assert_eq!(cache.find("thing", &key("a")), None);
        assert!(!cache.beside("thing", &key("a"), "partial").exists());
    }

    #[test]
    fn leftovers_of_a_killed_build_do_not_reach_the_entry() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path().to_owned());
        let partial = cache.beside("thing", &key("a"), "partial");
        fs::create_dir_all(&partial).unwrap();
        fs::write(partial.join("stale"), "half").unwrap();
        let step = Step::begin(&Silent, "making");
        let entry = cache
            .find_or_make("thing", &key("a"), &step, |_| Ok::<_, CacheError>(()))
            .unwrap();
        assert!(!entry.join("stale").exists());
    }

    #[test]
    fn inputs_cannot_run_into_each_other() {
        let one = Key::builder().input("a", "bc").finish();
        let other = Key::builder().input("ab", "c").finish();
        assert_ne!(one, other);
    }
}
