//! One sandbox of the registry.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::error::failed;
use super::output::OutputReader;
use super::record::{FORMAT, Record, Status};
use super::{Id, Name, Registry, RegistryError, file, sweep};
use crate::lock::lock;

/// The file with a sandbox's record.
const RECORD: &str = "record.json";

/// How much longer than the record of a sandbox that runs that of its end may be: it may tell a problem,
/// with what a monitor had to say.
const ENDING_ROOM: u64 = 8 << 10;

/// Whoever only looks whether a lock is held has it for a moment, which is no reason to give up.
const LOCK_PATIENCE: Duration = Duration::from_millis(60);

/// A sandbox of the registry. It may be gone at any moment.
#[derive(Debug, Clone)]
pub struct Entry {
    registry: Registry,
    id: Id,
}

/// The right to change a sandbox's folder. Let go of when dropped.
#[derive(Debug)]
pub struct Held {
    entry: Entry,
    lock: File,
}

/// How it is with a sandbox, by its record and by its supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It was never started.
    Created,
    /// It is being started.
    Starting,
    /// It runs.
    Running,
    /// It has ended.
    Exited,
    /// It did not start.
    Failed,
    /// Its supervisor was killed, and it ended with that.
    Dead,
}

impl State {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Failed => "failed",
            Self::Dead => "dead",
        }
    }

    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Created,
        Self::Starting,
        Self::Running,
        Self::Exited,
        Self::Failed,
        Self::Dead,
    ];
}

impl Entry {
    pub(super) const fn new(registry: Registry, id: Id) -> Self {
        Self { registry, id }
    }

    /// Who it is.
    #[must_use]
    pub const fn id(&self) -> &Id {
        &self.id
    }

    /// The registry that it is in.
    #[must_use]
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.registry.sandboxes().join(self.id.as_str())
    }

    /// What is known of it.
    ///
    /// # Errors
    ///
    /// If it is gone, or its record cannot be read.
    pub fn read(&self) -> Result<Record, RegistryError> {
        let path = self.record_path();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(RegistryError::NoSuchSandbox {
                    wanted: self.id.to_string(),
                    similar: None,
                });
            }
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let damaged = |reason: String| RegistryError::Damaged {
            id: self.id.clone(),
            reason,
        };
        let value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if value["format"] != FORMAT {
            return Err(damaged(format!("its format is {}", value["format"])));
        }
        serde_json::from_value(value).map_err(|error| damaged(error.to_string()))
    }

    /// How it is with it, given its record.
    #[must_use]
    pub fn state(&self, record: &Record) -> State {
        match (&record.status, self.is_held()) {
            (Status::Running { .. }, true) => State::Running,
            (Status::Running { .. }, false) => State::Dead,
            (_, true) => State::Starting,
            (Status::Created, false) => State::Created,
            (Status::Ended { .. }, false) => State::Exited,
            (Status::Failed { .. }, false) => State::Failed,
        }
    }

    /// Enters it: makes it whole in a folder that nobody sees, and then has it seen, with its name.
    /// Whoever is killed in the middle leaves nothing that counts.
    pub(super) fn enter(&self, unfinished: &Path, record: &Record) -> Result<Held, RegistryError> {
        let held = self.hold_in(unfinished)?;
        held.write_in(unfinished, record)?;
        let names = self.registry.lock_names()?;
        names.claim(&record.name, &self.id)?;
        let folder = self.folder();
        fs::rename(unfinished, &folder).map_err(|error| {
            names.release(&record.name, &self.id);
            failed("make the folder", &folder)(error)
        })?;
        Ok(held)
    }

    /// What a command wrote that its supervisor held.
    ///
    /// # Errors
    ///
    /// If there is none, or it cannot be read.
    pub fn output(&self, command: u32) -> Result<OutputReader, RegistryError> {
        let path = self.output_path(command);
        OutputReader::open(&path).map_err(failed("read", &path))
    }

    /// Takes the right to change it.
    ///
    /// # Errors
    ///
    /// If somebody else has it, or the sandbox is gone.
    pub fn hold(&self) -> Result<Held, RegistryError> {
        self.hold_in(&self.folder())
    }

    fn hold_in(&self, folder: &Path) -> Result<Held, RegistryError> {
        let path = folder.join("lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| self.gone_or("open", error))?;
        lock(&file, LOCK_PATIENCE).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => RegistryError::Busy {
                id: self.id.clone(),
            },
            _ => failed("lock", &path)(error),
        })?;
        // It may have been removed between the two.
        let ours = file.metadata().map(|metadata| metadata.ino());
        let there = fs::metadata(&path).map(|metadata| metadata.ino());
        match (ours, there) {
            (Ok(ours), Ok(there)) if ours == there => Ok(Held {
                entry: self.clone(),
                lock: file,
            }),
            _ => Err(self.gone_or("lock", ErrorKind::NotFound.into())),
        }
    }

    /// Whether somebody holds it.
    fn is_held(&self) -> bool {
        let Ok(file) = File::open(self.folder().join("lock")) else {
            return false;
        };
        flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
    }

    pub(crate) fn door_path(&self) -> PathBuf {
        self.folder().join("door")
    }

    /// What the supervisor had to say.
    pub(crate) fn words_path(&self) -> PathBuf {
        self.folder().join("console.log")
    }

    /// What its guest wrote to its console.
    pub(crate) fn console_path(&self) -> PathBuf {
        self.folder().join("output").join("console")
    }

    pub(crate) fn output_path(&self, command: u32) -> PathBuf {
        self.folder().join("output").join(command.to_string())
    }

    fn record_path(&self) -> PathBuf {
        self.folder().join(RECORD)
    }

    fn gone_or(&self, action: &'static str, error: std::io::Error) -> RegistryError {
        if error.kind() == ErrorKind::NotFound {
            RegistryError::NoSuchSandbox {
                wanted: self.id.to_string(),
                similar: None,
            }
        } else {
            failed(action, &self.folder())(error)
        }
    }
}

impl Held {
    /// The sandbox.
    #[must_use]
    pub const fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Whether somebody has removed it who did not have the right to. Another place for the folder, or
    /// none for a while, is no removal.
    pub(crate) fn was_removed(&self) -> bool {
        self.lock
            .metadata()
            .is_ok_and(|metadata| metadata.nlink() == 0)
    }

    /// Writes its record.
    ///
    /// # Errors
    ///
    /// If it cannot be written; the old one is still there then.
    pub fn write(&self, record: &Record) -> Result<(), RegistryError> {
        self.write_in(&self.entry.folder(), record)
    }

    fn write_in(&self, folder: &Path, record: &Record) -> Result<(), RegistryError> {
        let path = folder.join(RECORD);
        let text = to_text(record, &path)?;
        file::replace(&path, &text).map_err(failed("write", &path))
    }

    /// Takes room on the disk for the record of its end, beside the one that was just written: a disk that
    /// is full then must not cost what has become of it.
    pub(crate) fn make_room_for_the_end(&self, record: &Record) {
        let path = self.entry.record_path();
        let length = serde_json::to_vec_pretty(record).map_or(0, |text| text.len());
        let bytes = u64::try_from(length).unwrap_or_default() + ENDING_ROOM;
        // Where none can be taken, the end is written as everything else is.
        let _ = file::make_room(&path, bytes);
    }

    /// Writes the record of its end, in the room that was taken for it if there is no other.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub(crate) fn write_end(&self, record: &Record) -> Result<(), RegistryError> {
        let path = self.entry.record_path();
        let text = to_text(record, &path)?;
        let written = file::replace(&path, &text)
            .or_else(|full| file::replace_in_room(&path, &text).map_err(|_| full));
        file::give_room_back(&path);
        written.map_err(failed("write", &path))
    }

    /// Gives it another name.
    ///
    /// # Errors
    ///
    /// If another one has it, or it cannot be written.
    pub fn rename(&self, record: &mut Record, name: Name) -> Result<(), RegistryError> {
        if record.name == name {
            return Ok(());
        }
        let names = self.entry.registry.lock_names()?;
        names.claim(&name, &record.id)?;
        let old = std::mem::replace(&mut record.name, name);
        match self.write(record) {
            Ok(()) => {
                names.release(&old, &record.id);
                Ok(())
            }
            Err(error) => {
                names.release(&record.name, &record.id);
                record.name = old;
                Err(error)
            }
        }
    }

    /// Removes it with all that is known of it.
    ///
    /// # Errors
    ///
    /// If it cannot be removed.
    pub fn remove(self) -> Result<(), RegistryError> {
        let folder = self.entry.folder();
        let name = self.entry.read().map(|record| record.name);
        // Out of sight at once, so that nobody finds half of it.
        let hidden = sweep::removed(&folder);
        fs::rename(&folder, &hidden).map_err(failed("remove", &folder))?;
        // A name that stays is free, as its owner is gone.
        if let (Ok(name), Ok(names)) = (name, self.entry.registry.lock_names()) {
            names.release(&name, &self.entry.id);
        }
        sweep::remove_all(&hidden).map_err(failed("remove", &hidden))
    }
}

fn to_text(record: &Record, path: &Path) -> Result<Vec<u8>, RegistryError> {
    serde_json::to_vec_pretty(record).map_err(|error| failed("write", path)(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::record::Timestamp;
    use crate::registry::record::tests::record;

    fn entered() -> (tempfile::TempDir, Entry, Held) {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path());
        let (entry, held) = registry.enter(&record("x")).unwrap();
        (folder, entry, held)
    }

    #[test]
    fn one_at_a_time_may_change_it() {
        let (_folder, entry, held) = entered();
        assert!(matches!(entry.hold(), Err(RegistryError::Busy { .. })));
        drop(held);
        entry.hold().unwrap();
    }

    #[test]
    fn a_folder_that_was_removed_is_none_that_is_elsewhere() {
        let (folder, entry, held) = entered();
        let elsewhere = folder.path().join("elsewhere");
        fs::rename(entry.folder(), &elsewhere).unwrap();
        assert!(!held.was_removed());
        fs::remove_dir_all(&elsewhere).unwrap();
        assert!(held.was_removed());
    }

    #[test]
    fn what_says_running_and_is_not_held_is_dead() {
        let (_folder, entry, held) = entered();
        let mut record = entry.read().unwrap();
        assert_eq!(entry.state(&record), State::Starting);
        record.status = Status::Running {
            since: Timestamp::now(),
            supervisor: 1,
            process: 2,
        };
        held.write(&record).unwrap();
        assert_eq!(entry.state(&record), State::Running);
        drop(held);
        assert_eq!(entry.state(&record), State::Dead);
    }

    #[test]
    fn it_gets_another_name_and_the_old_one_is_free() {
        let (_folder, entry, held) = entered();
        let mut known = entry.read().unwrap();
        held.rename(&mut known, "y".parse().unwrap()).unwrap();
        assert_eq!(entry.read().unwrap().name.as_str(), "y");
        assert!(entry.registry().find("x").is_err());
        entry.registry().enter(&record("x")).unwrap();
        assert!(held.rename(&mut known, "x".parse().unwrap()).is_err());
        assert_eq!(known.name.as_str(), "y");
    }

    #[test]
    fn a_record_of_another_release_is_told_and_can_be_removed() {
        let (_folder, entry, held) = entered();
        fs::write(entry.folder().join("record.json"), "{\"format\": 99}").unwrap();
        let error = entry.read().unwrap_err().to_string();
        assert!(error.contains("99") && error.contains("rm -f"), "{error}");
        held.remove().unwrap();
        assert!(!entry.folder().exists());
    }

    #[test]
    fn nobody_holds_what_was_removed() {
        let (_folder, entry, held) = entered();
        held.remove().unwrap();
        assert!(matches!(
            entry.hold(),
            Err(RegistryError::NoSuchSandbox { .. })
        ));
        assert!(entry.registry().known_names().is_empty());
    }
}
