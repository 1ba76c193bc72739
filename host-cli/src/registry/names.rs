//! Who has which name: `names/NAME` is a link to a sandbox's id.
//!
//! A link counts only for as long as its sandbox's folder is there: whoever is killed between the two
//! leaves a name that is free. Links are changed under a lock, or two that find the same name free
//! would both have it.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use super::error::failed;
use super::{Id, Name, Registry, RegistryError};
use crate::lock::lock;

/// How long to wait for whoever changes names: it takes that one microseconds, unless it was stopped.
const PATIENCE: Duration = Duration::from_secs(10);

/// The right to change names. Let go of when dropped.
pub(super) struct Names<'a> {
    registry: &'a Registry,
    _lock: File,
}

impl Registry {
    /// Takes the right to change names.
    pub(super) fn lock_names(&self) -> Result<Names<'_>, RegistryError> {
        // A file of its own: NFS locks no folder.
        let path = self.root.join("names.lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        lock(&file, PATIENCE).map_err(failed("lock", &path))?;
        Ok(Names {
            registry: self,
            _lock: file,
        })
    }

    /// The names of all sandboxes.
    #[must_use]
    pub fn known_names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.names()).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    /// Who has a name, or had it.
    pub(super) fn owner_of(&self, name: &str) -> Option<Id> {
        let name: Name = name.parse().ok()?;
        let target = fs::read_link(self.names().join(name.as_str())).ok()?;
        target.to_str()?.parse().ok()
    }

    pub(super) fn names(&self) -> PathBuf {
        self.root.join("names")
    }
}

impl Names<'_> {
    /// Takes a name for a sandbox. The name of one that is gone is free.
    pub(super) fn claim(&self, name: &Name, id: &Id) -> Result<(), RegistryError> {
        if name.as_str().parse::<Id>().is_ok() {
            return Err(RegistryError::NameLikeId { name: name.clone() });
        }
        let path = self.registry.names().join(name.as_str());
        match self.registry.owner_of(name.as_str()) {
            Some(owner) if self.registry.has(&owner) => {
                return Err(RegistryError::NameTaken {
                    name: name.clone(),
                    owner,
                });
            }
            // Left by a process that was killed.
            Some(_) => fs::remove_file(&path).map_err(failed("free the name", &path))?,
            None if path.symlink_metadata().is_ok() => {
                return Err(failed("use", &path)(ErrorKind::InvalidData.into()));
            }
            None => {}
        }
        symlink(id.as_str(), &path).map_err(failed("take the name", &path))
    }

    /// Gives a name back, if it is this sandbox's.
    pub(super) fn release(&self, name: &Name, id: &Id) {
        if self.registry.owner_of(name.as_str()).as_ref() == Some(id) {
            // A name that stays is found to be free by the next who wants it.
            let _ = fs::remove_file(self.registry.names().join(name.as_str()));
        }
    }

    /// The links of sandboxes that are gone.
    pub(super) fn dangling(&self) -> Vec<PathBuf> {
        let mut names = self.registry.known_names();
        names.retain(|name| {
            let owner = self.registry.owner_of(name);
            owner.is_some_and(|owner| !self.registry.has(&owner))
        });
        let folder = self.registry.names();
        names.iter().map(|name| folder.join(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::record::tests::record;
    use rustix::fs::inotify;

    #[test]
    fn a_name_of_one_that_is_gone_is_free_and_swept() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path());
        assert!(registry.sweep(false).is_empty());
        assert!(!folder.path().join("names.lock").exists());
        let (entry, held) = registry.enter(&record("web")).unwrap();
        registry.enter(&record("db")).unwrap();
        fs::rename(entry.folder(), folder.path().join("elsewhere")).unwrap();
        drop(held);
        let link = registry.names().join("web");
        assert_eq!(registry.sweep(true).len(), 1);
        assert!(link.is_symlink());
        assert_eq!(registry.sweep(false).len(), 1);
        assert!(!link.is_symlink());
        assert_eq!(registry.known_names(), ["db"]);
        registry.enter(&record("web")).unwrap();
        assert!(registry.sweep(false).is_empty());
        let elsewhere = folder.path().join("elsewhere too");
        fs::rename(registry.sandboxes(), elsewhere).unwrap();
        assert!(registry.sweep(false).is_empty(), "they may come back");
        assert_eq!(registry.known_names().len(), 2);
    }

    /// Whoever is killed while it finds out that its sandbox's name is taken leaves nothing that looks
    /// like a sandbox: none was ever there.
    #[test]
    fn a_sandbox_without_its_name_is_never_seen() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path());
        registry.enter(&record("web")).unwrap();
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        let made = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&watch, registry.sandboxes(), made).unwrap();
        let late = record("web");
        registry.enter(&late).unwrap_err();
        let mut buffer = [const { std::mem::MaybeUninit::uninit() }; 4096];
        let mut events = inotify::Reader::new(&watch, &mut buffer);
        let mut seen = 0;
        while let Ok(event) = events.next() {
            let name = event.file_name().unwrap().to_str().unwrap();
            assert_ne!(name, late.id.as_str());
            seen += 1;
        }
        assert_eq!(seen, 1, "the folder in which it was made");
        assert_eq!(registry.list().unwrap().len(), 1);
    }

    #[test]
    fn one_of_many_gets_the_name_of_one_that_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path());
        for _ in 0..20 {
            let (entry, held) = registry.enter(&record("web")).unwrap();
            fs::remove_dir_all(entry.folder()).unwrap();
            drop(held);
            let enter = || registry.enter(&record("web")).map(|(entry, _)| entry);
            let entered: Vec<_> = std::thread::scope(|scope| {
                let all = [(); 4].map(|()| scope.spawn(enter));
                let all = all.into_iter().map(|one| one.join().unwrap());
                all.filter_map(Result::ok).collect()
            });
            assert_eq!(entered.len(), 1);
            entered[0].hold().unwrap().remove().unwrap();
        }
    }
}
