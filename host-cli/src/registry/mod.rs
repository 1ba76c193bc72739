//! The sandboxes of this user that have a name: what is known of each, in a folder of its own.
//!
//! ```text
//!  $XDG_STATE_HOME/sovereign/
//!    names/NAME            a link to ID: who has the name
//!    names.lock            held by whoever changes names
//!    sandboxes/ID/
//!      record.json         what it is, and what has become of it (written whole, by rename)
//!      record.room         while it runs: room on the disk for the record of its end
//!      lock                held by its supervisor for as long as that lives
//!      door                the supervisor's socket
//!      console.log         what the supervisor had to say
//!      output/N            what command N wrote, bounded and rotated
//!      output/console      what its guest wrote to its console, the same way
//!      commands.json       what commands there were, and how they ended
//!      disk                what was written in it: the disk of a virtual machine, or
//!      files/              the folder of a process, or
//!      volumes-docker, volumes-podman
//!                          that such an engine has volumes of it
//!    events                what happened, one JSON object a line
//! ```
//!
//! There is no daemon. While a sandbox runs, its supervisor alone writes its folder; otherwise
//! whoever holds the lock does. A supervisor that was killed leaves a record that says "running" and
//! a lock that nobody holds, which is how everybody sees that the sandbox is dead.

mod entry;
mod error;
pub mod events;
pub(crate) mod file;
mod names;
pub mod output;
pub mod record;
mod sweep;

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::rand::{GetRandomFlags, getrandom};

pub use self::entry::{Entry, Held, State};
pub use self::error::RegistryError;
use self::error::failed;
use self::record::Record;
use crate::name;
pub use crate::name::{Id, Name, NameError};

/// This user's sandboxes.
#[derive(Debug, Clone)]
pub struct Registry {
    root: PathBuf,
}

impl Registry {
    /// Opens the user's registry: `$SOVEREIGN_STATE_DIR`, else `$XDG_STATE_HOME/sovereign`, else
    /// `~/.local/state/sovereign`. Nothing is made before there is a sandbox.
    ///
    /// # Errors
    ///
    /// If none of these is set.
    pub fn open_default() -> Result<Self, RegistryError> {
        Self::by(|name| env::var_os(name))
    }

    fn by(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, RegistryError> {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let root = set("SOVEREIGN_STATE_DIR")
            .map(PathBuf::from)
            .or_else(|| set("XDG_STATE_HOME").map(|home| PathBuf::from(home).join("sovereign")))
            .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".local/state/sovereign")))
            .ok_or(RegistryError::NoPlace)?;
        // Supervisors work elsewhere, and have to find the same.
        let root = std::path::absolute(&root).map_err(failed("find", &root))?;
        Ok(Self::open(root))
    }

    /// Opens the registry in this folder.
    #[must_use]
    pub fn open(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder that it is in.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Enters a new sandbox. The lock is returned held, so that nobody else starts or removes it.
    ///
    /// # Errors
    ///
    /// If its name is taken, or it cannot be written.
    pub fn enter(&self, record: &Record) -> Result<(Entry, Held), RegistryError> {
        for folder in [&self.root, &self.names(), &self.sandboxes()] {
            make_folder(folder)?;
        }
        for path in self.half_done() {
            // The next one tries again.
            let _ = sweep::remove_all(&path);
        }
        let entry = Entry::new(self.clone(), record.id.clone());
        let unfinished = sweep::unfinished(&entry.folder());
        let entered = make_folder(&unfinished).and_then(|()| entry.enter(&unfinished, record));
        match entered {
            Ok(held) => Ok((entry, held)),
            Err(error) => {
                // Nobody knows it yet, and the error is what counts.
                let _ = fs::remove_dir_all(&unfinished);
                Err(error)
            }
        }
    }

    /// Finds a sandbox by its whole id, its name, or as much of the id as is like no other.
    ///
    /// # Errors
    ///
    /// If there is none, or more than one.
    pub fn find(&self, wanted: &str) -> Result<Entry, RegistryError> {
        // A whole id, as scripts and supervisors have it, is nobody else's, whatever others are called.
        if let Ok(id) = wanted.parse::<Id>()
            && self.has(&id)
        {
            return Ok(Entry::new(self.clone(), id));
        }
        if let Some(id) = self.owner_of(wanted) {
            return Ok(Entry::new(self.clone(), id));
        }
        let mut alike: Vec<_> = self
            .ids()?
            .into_iter()
            .filter(|id| !wanted.is_empty() && id.as_str().starts_with(wanted))
            .collect();
        match (alike.pop(), alike.len()) {
            (Some(id), 0) => Ok(Entry::new(self.clone(), id)),
            (Some(_), more) => Err(RegistryError::Ambiguous {
                wanted: wanted.to_owned(),
                count: more + 1,
            }),
            (None, _) => Err(RegistryError::NoSuchSandbox {
                wanted: wanted.to_owned(),
                similar: self.similar(wanted),
            }),
        }
    }

    /// Every sandbox, in no order. One that is just being removed may be among them.
    ///
    /// # Errors
    ///
    /// If the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>, RegistryError> {
        let ids = self.ids()?.into_iter();
        Ok(ids.map(|id| Entry::new(self.clone(), id)).collect())
    }

    /// An id that no sandbox has.
    ///
    /// # Errors
    ///
    /// If the system has no random bytes.
    pub fn new_id(&self) -> Result<Id, RegistryError> {
        let mut bytes = [0; 6];
        getrandom(&mut bytes, GetRandomFlags::empty())
            .map_err(|error| failed("get random bytes for", &self.root)(error.into()))?;
        Ok(Id::of(bytes))
    }

    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    /// Whether there is a sandbox with this id.
    fn has(&self, id: &Id) -> bool {
        self.sandboxes().join(id.as_str()).is_dir()
    }

    fn ids(&self) -> Result<Vec<Id>, RegistryError> {
        let folder = self.sandboxes();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("read", &folder)(error)),
        };
        Ok(entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect())
    }

    /// The name that was probably meant.
    fn similar(&self, wanted: &str) -> Option<String> {
        name::similar(wanted, self.known_names())
    }
}

fn make_folder(path: &Path) -> Result<(), RegistryError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("make the folder", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::record::tests::record;

    fn registry() -> (tempfile::TempDir, Registry) {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path().join("state"));
        (folder, registry)
    }

    #[test]
    fn a_sandbox_is_found_by_name_by_id_and_by_the_ids_beginning() {
        let (_folder, registry) = registry();
        let record = record("web");
        registry.enter(&record).unwrap();
        for wanted in ["web", record.id.as_str(), &record.id.as_str()[..4]] {
            assert_eq!(registry.find(wanted).unwrap().id(), &record.id, "{wanted}");
        }
        let error = registry.find("wep").unwrap_err();
        assert!(
            error.to_string().contains("did you mean \"web\""),
            "{error}"
        );
        assert!(registry.find("").is_err());
    }

    #[test]
    fn no_name_stands_for_the_id_of_another() {
        let (_folder, registry) = registry();
        let (entry, held) = registry.enter(&record("web")).unwrap();
        let id = entry.id().as_str();
        let error = registry.enter(&record(id)).unwrap_err();
        assert!(error.to_string().contains("form of an id"), "{error}");
        let mut known = entry.read().unwrap();
        let taken = held.rename(&mut known, "0123456789ab".parse().unwrap());
        assert!(matches!(taken, Err(RegistryError::NameLikeId { .. })));
        registry.enter(&record("0123456789ax")).unwrap();
        // One that an earlier release has let pass.
        let (other, _held) = registry.enter(&record("db")).unwrap();
        std::os::unix::fs::symlink(other.id().as_str(), registry.names().join(id)).unwrap();
        assert_eq!(registry.find(id).unwrap().id(), entry.id());
    }

    #[test]
    fn its_folder_is_the_same_from_wherever_it_is_looked_for() {
        let here = env::current_dir().unwrap();
        for (variable, expected) in [
            ("SOVEREIGN_STATE_DIR", "rel"),
            ("XDG_STATE_HOME", "rel/sovereign"),
            ("HOME", "rel/.local/state/sovereign"),
        ] {
            let set = |name: &str| (name == variable).then(|| OsString::from("rel"));
            assert_eq!(Registry::by(set).unwrap().root(), here.join(expected));
        }
        let none = Registry::by(|_| Some(OsString::new()));
        assert!(matches!(none, Err(RegistryError::NoPlace)));
    }

    #[test]
    fn a_name_belongs_to_one() {
        let (_folder, registry) = registry();
        let (first, held) = registry.enter(&record("web")).unwrap();
        let error = registry.enter(&record("web")).unwrap_err();
        assert!(matches!(error, RegistryError::NameTaken { .. }), "{error}");
        assert_eq!(registry.list().unwrap().len(), 1);
        held.remove().unwrap();
        assert!(first.read().is_err());
        registry.enter(&record("web")).unwrap();
    }

    #[test]
    fn the_name_of_one_that_is_gone_is_free() {
        let (_folder, registry) = registry();
        let (entry, held) = registry.enter(&record("web")).unwrap();
        fs::remove_dir_all(entry.folder()).unwrap();
        drop(held);
        registry.enter(&record("web")).unwrap();
    }

    #[test]
    fn a_registry_that_was_never_used_is_empty() {
        let (_folder, registry) = registry();
        assert!(registry.list().unwrap().is_empty());
        assert!(registry.known_names().is_empty());
        assert!(!registry.root().exists());
    }
}
