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
//!  <cache>/<kind>-work/<key>/     a builder's own scratch folder, under the same lock
//!  <cache>/held.lock              shared by those who use entries
//! ```
//!
//! Everything here can be made again, so superseded entries are removed ([`Cache::prune`]).

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::digest::{Digest, Hasher};
use crate::lock::{Lock, LockError, Sharing};
use crate::progress::Step;

/// How long a build waits for another one that makes the same thing.
const PATIENCE: Duration = Duration::from_secs(3600);

/// How many entries of a kind are kept: the one in use, and the one before it, for those who go back
/// and forth between two versions.
const KEPT: usize = 2;

/// How the names of things end: folders with scratch folders, entries being made, locks.
const WORK: &str = "-work";
const PARTIAL: &str = ".partial";
const LOCK: &str = ".lock";

/// The file that is locked by whoever uses entries.
const HELD: &str = "held.lock";

/// Tells backup programs, and [`Cache::prune`], that a folder is a cache (Cache Directory Tagging
/// Specification).
const TAG_FILE: &str = "CACHEDIR.TAG";
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # Sovereign keeps here what it built. All of it can be built again.\n";

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
        // Its time says when it was last of use. What cannot be changed (a read-only cache) can
        // still be used.
        let folder = File::open(&entry).ok()?;
        let _ = folder.set_modified(SystemTime::now());
        Some(entry)
    }

    /// A builder's own scratch folder for an entry. Whoever holds the entry's lock may use it.
    #[must_use]
    pub fn work(&self, kind: &str, key: &Key) -> PathBuf {
        self.root.join(format!("{kind}{WORK}")).join(&key.0)
    }

    /// Keeps every entry from being [pruned](Cache::prune) for as long as the result is held: what
    /// was found is not taken away from whoever has yet to read it.
    ///
    /// # Errors
    /// If the cache cannot be used, or is being pruned for too long.
    pub fn hold(&self) -> Result<Lock, CacheError> {
        let path = self.root.join(HELD);
        let purpose = "using the build cache";
        Ok(Lock::acquire(
            &path,
            Sharing::Shared,
            purpose,
            PATIENCE,
            &mut |_| {},
        )?)
    }

    /// Removes entries that newer ones of their kind have superseded, and what killed builds left.
    /// Spares what is being made, and everything while somebody [holds](Cache::hold) the cache.
    /// Returns the bytes freed.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn prune(&self) -> Result<u64, CacheError> {
        // A folder that is not tagged as ours may be anything.
        if fs::read_to_string(self.root.join(TAG_FILE)).ok().as_deref() != Some(TAG) {
            return Ok(0);
        }
        let path = self.root.join(HELD);
        let alone = Lock::acquire(
            &path,
            Sharing::Exclusive,
            "pruning",
            Duration::ZERO,
            &mut |_| {},
        );
        let _alone = match alone {
            Err(LockError::Held { .. }) => return Ok(0),
            alone => alone?,
        };
        let mut freed = 0;
        for (_, name) in dated_folders(&self.root)? {
            freed += match name.strip_suffix(WORK) {
                Some(kind) => self.prune_work(kind)?,
                None => self.prune_kind(&name)?,
            };
        }
        Ok(freed)
    }

    fn prune_kind(&self, kind: &str) -> Result<u64, CacheError> {
        let folder = self.root.join(kind);
        let mut freed = 0;
        let mut kept = 0;
        for (_, name) in dated_folders(&folder)?.iter().rev() {
            let (key, partial) = match name.strip_suffix(PARTIAL) {
                Some(key) => (key, true),
                None => (name.as_str(), false),
            };
            if !partial && kept < KEPT {
                kept += 1;
            } else {
                freed += self.remove_unused(kind, key, &folder.join(name));
            }
        }
        Ok(freed)
    }

    /// A scratch folder whose entry is there is a leftover. One without may be where a killed build
    /// wants to go on; only the newest of these is worth its space.
    fn prune_work(&self, kind: &str) -> Result<u64, CacheError> {
        let folder = self.root.join(format!("{kind}{WORK}"));
        let folders = dated_folders(&folder)?;
        let complete = |key: &str| self.root.join(kind).join(key).is_dir();
        let newest = folders.iter().rposition(|(_, key)| !complete(key));
        let mut freed = 0;
        for (place, (_, key)) in folders.iter().enumerate() {
            if newest != Some(place) {
                freed += self.remove_unused(kind, key, &folder.join(key));
            }
        }
        Ok(freed)
    }

    /// Removes a folder that belongs to a key, unless someone works on that key. Returns its size.
    fn remove_unused(&self, kind: &str, key: &str, path: &Path) -> u64 {
        if Digest::from_hex(key).is_none() {
            return 0;
        }
        let lock = self.root.join(kind).join(format!("{key}{LOCK}"));
        let lock = Lock::acquire(
            &lock,
            Sharing::Exclusive,
            "pruning",
            Duration::ZERO,
            &mut |_| {},
        );
        let size = folder_bytes(path);
        // What cannot be removed (a tree of another user's files) was not freed.
        match lock.is_ok() && fs::remove_dir_all(path).is_ok() {
            true => size,
            false => 0,
        }
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
        match self.find(kind, key) {
            Some(entry) => Ok(entry),
            None => self.fill(kind, key, make),
        }
    }

    /// Makes an entry in any case; one that is there is replaced when the new one is complete.
    ///
    /// # Errors
    /// As [`Cache::find_or_make`]; the old entry stays then.
    pub fn make_anew<E: From<CacheError>>(
        &self,
        kind: &str,
        key: &Key,
        step: &Step<'_>,
        make: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let _lock = self.lock(kind, key, step)?;
        self.fill(kind, key, make)
    }

    /// Makes an entry. The caller holds its lock.
    fn fill<E: From<CacheError>>(
        &self,
        kind: &str,
        key: &Key,
        make: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let entry = self.entry(kind, key);
        let partial = self.beside(kind, key, PARTIAL);
        remove_folder(&partial)?;
        fs::create_dir_all(&partial).map_err(failed("create", &partial))?;
        self.tag()?;
        if let Err(error) = make(&partial) {
            // The error that matters is the caller's; what stays here the next attempt removes.
            let _ = fs::remove_dir_all(&partial);
            return Err(error);
        }
        remove_folder(&entry)?;
        fs::rename(&partial, &entry).map_err(failed("publish", &entry))?;
        Ok(entry)
    }

    fn tag(&self) -> Result<(), CacheError> {
        let path = self.root.join(TAG_FILE);
        if path.exists() {
            return Ok(());
        }
        fs::write(&path, TAG).map_err(failed("write", &path))
    }

    fn lock(&self, kind: &str, key: &Key, step: &Step<'_>) -> Result<Lock, CacheError> {
        let lock = Lock::acquire(
            &self.beside(kind, key, LOCK),
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
        self.root.join(kind).join(format!("{}{suffix}", key.0))
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

/// The folders in a folder, the one changed last at the end.
fn dated_folders(folder: &Path) -> Result<Vec<(SystemTime, String)>, CacheError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", folder)(error)),
    };
    let mut folders: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let meta = entry.metadata().ok().filter(fs::Metadata::is_dir)?;
            Some((meta.modified().ok()?, entry.file_name().into_string().ok()?))
        })
        .collect();
    folders.sort_unstable();
    Ok(folders)
}

/// The length of all files below a folder, as far as they can be seen.
fn folder_bytes(folder: &Path) -> u64 {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok())
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
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
        assert!(!cache.beside("thing", &key("a"), PARTIAL).exists());
    }

    #[test]
    fn entry_made_anew_replaces_the_old_one_only_if_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path().to_owned());
        let step = Step::begin(&Silent, "making");
        let write = |text: &'static str| {
            move |folder: &Path| {
                fs::write(folder.join("file"), text).map_err(failed("write", folder))
            }
        };
        let entry = cache
            .find_or_make("thing", &key("a"), &step, write("old"))
            .unwrap();
        let broken = cache.make_anew("thing", &key("a"), &step, |_| Err(CacheError::NoPlace));
        assert!(broken.is_err());
        assert_eq!(fs::read(entry.join("file")).unwrap(), b"old");
        cache
            .make_anew("thing", &key("a"), &step, write("new"))
            .unwrap();
        assert_eq!(fs::read(entry.join("file")).unwrap(), b"new");
    }

    #[test]
    fn leftovers_of_a_killed_build_do_not_reach_the_entry() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path().to_owned());
        let partial = cache.beside("thing", &key("a"), PARTIAL);
        fs::create_dir_all(&partial).unwrap();
        fs::write(partial.join("stale"), "half").unwrap();
        let step = Step::begin(&Silent, "making");
        let entry = cache
            .find_or_make("thing", &key("a"), &step, |_| Ok::<_, CacheError>(()))
            .unwrap();
        assert!(!entry.join("stale").exists());
    }

    #[test]
    fn prune_keeps_the_entries_used_last_and_what_is_being_made() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path().to_owned());
        let step = Step::begin(&Silent, "making");
        for name in ["a", "b", "c"] {
            cache
                .find_or_make("thing", &key(name), &step, |folder| {
                    fs::write(folder.join("file"), "four").map_err(failed("write", folder))
                })
                .unwrap();
            thread::sleep(Duration::from_millis(20));
        }
        // Found again, the first one is of use again.
        cache.find("thing", &key("a")).unwrap();
        let half = cache.beside("thing", &key("d"), PARTIAL);
        fs::create_dir_all(&half).unwrap();
        let made = cache.lock("thing", &key("d"), &step).unwrap();
        assert_eq!(cache.prune().unwrap(), 4);
        assert!(cache.find("thing", &key("a")).is_some());
        assert!(cache.find("thing", &key("b")).is_none());
        assert!(cache.find("thing", &key("c")).is_some());
        assert!(half.exists());
        drop(made);
        cache.prune().unwrap();
        assert!(!half.exists());
    }

    #[test]
    fn prune_keeps_the_scratch_folder_that_a_build_may_go_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path().to_owned());
        let step = Step::begin(&Silent, "making");
        let make = |_: &Path| Ok::<_, CacheError>(());
        cache
            .find_or_make("thing", &key("done"), &step, make)
            .unwrap();
        let work = |name: &str| folder.path().join("thing-work").join(key(name).as_str());
        for name in ["old", "new", "done"] {
            fs::create_dir_all(work(name)).unwrap();
            thread::sleep(Duration::from_millis(20));
        }
        cache.prune().unwrap();
        assert!(!work("done").exists());
        assert!(!work("old").exists());
        assert!(work("new").exists());
    }

    #[test]
    fn prune_touches_no_folder_that_is_not_tagged() {
        let folder = tempfile::tempdir().unwrap();
        let entries = ["a", "b", "c"].map(|name| folder.path().join("kind").join(key(name).0));
        for entry in &entries {
            fs::create_dir_all(entry).unwrap();
        }
        let cache = Cache::open(folder.path().to_owned());
        assert_eq!(cache.prune().unwrap(), 0);
        assert!(entries.iter().all(|entry| entry.exists()));
    }

    #[test]
    fn inputs_cannot_run_into_each_other() {
        let one = Key::builder().input("a", "bc").finish();
        let other = Key::builder().input("ab", "c").finish();
        assert_ne!(one, other);
    }

    #[test]
    fn what_somebody_uses_is_not_pruned() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path().to_owned());
        let step = Step::begin(&Silent, "making");
        for name in ["a", "b", "c"] {
            cache
                .find_or_make("thing", &key(name), &step, |folder| {
                    fs::write(folder.join("file"), "12345").map_err(failed("write", folder))
                })
                .unwrap();
        }
        let held = cache.hold().unwrap();
        assert_eq!(cache.prune().unwrap(), 0);
        drop(held);
        assert_eq!(cache.prune().unwrap(), 5);
    }
}
