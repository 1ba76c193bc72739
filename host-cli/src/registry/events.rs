//! What happened to sandboxes: one JSON object a line, in the order in which it happened.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::record::Timestamp;
use super::{Id, Name, Registry};

/// The file is put aside when it has grown to this, and the one that was put aside before is lost.
const MAX_BYTES: u64 = 4 << 20;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Event {
    /// When.
    pub time: Timestamp,
    /// What.
    pub event: Happening,
    /// To which sandbox.
    pub id: Id,
    /// What it was called then.
    pub name: Name,
    /// The exit code, of something that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    /// The number of the command, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<u32>,
}

/// What can happen to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Happening {
    /// It was entered.
    Created,
    /// It runs.
    Started,
    /// It did not start.
    StartFailed,
    /// A command of it was taken over by its supervisor.
    CommandStarted,
    /// That command ended.
    CommandEnded,
    /// It ended.
    Ended,
    /// It has another name.
    Renamed,
    /// It was removed.
    Removed,
}

impl Registry {
    /// Where the events are.
    #[must_use]
    pub fn events_path(&self) -> PathBuf {
        self.root().join("events")
    }

    /// Notes an event. One that cannot be noted is lost: nothing else is held up by it.
    pub fn note(&self, event: &Event) {
        let path = self.events_path();
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > MAX_BYTES) {
            // Of two who do this at once, the second puts a short file aside.
            let _ = fs::rename(&path, path.with_extension("old"));
        }
        let Ok(mut line) = serde_json::to_vec(event) else {
            return;
        };
        line.push(b'\n');
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path);
        // One write of one line: lines of several writers do not mix (O_APPEND).
        let _ = file.and_then(|mut file| file.write_all(&line));
    }
}

impl Event {
    /// An event of this moment.
    #[must_use]
    pub fn now(event: Happening, id: &Id, name: &Name) -> Self {
        Self {
            time: Timestamp::now(),
            event,
            id: id.clone(),
            name: name.clone(),
            exit_code: None,
            command: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_kept_in_order_and_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path());
        let (id, name) = (Id::of([1, 2, 3, 4, 5, 6]), "x".parse().unwrap());
        let event = |happening| Event::now(happening, &id, &name);
        registry.note(&event(Happening::Created));
        registry.note(&event(Happening::Ended));
        let text = fs::read_to_string(registry.events_path()).unwrap();
        let read: Vec<Event> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let kinds: Vec<_> = read.iter().map(|event| event.event).collect();
        assert_eq!(kinds, [Happening::Created, Happening::Ended]);

        let grown = usize::try_from(MAX_BYTES).unwrap() + 1;
        fs::write(registry.events_path(), vec![b'\n'; grown]).unwrap();
        registry.note(&event(Happening::Removed));
        assert!(fs::metadata(registry.events_path()).unwrap().len() < 1000);
    }
}
