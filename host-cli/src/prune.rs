//! Removing what crashes have left behind: of an engine that was killed, of a machine that lost power.
//!
//! Every tier takes its sandbox along when its engine ends, however that happens, so there is seldom
//! anything. What is removed is ours and nobody's any more: its owner is known to be gone. In doubt
//! it stays.

use std::fs;
use std::io;
use std::path::Path;

use sandbox_image::{Store, StoreError};
use serde::Serialize;

use crate::error::ErrorKind;
use crate::registry::Registry;
use crate::tier::facts::Unavailable;
use crate::tier::{Tier, docker, local};

/// What there was.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Pruned {
    /// Everything that was found.
    pub leftovers: Vec<Leftover>,
    /// Where nobody could look.
    pub unseen: Vec<Unseen>,
}

/// Something that was left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Leftover {
    /// What it is.
    pub kind: Kind,
    /// Its path, or its name.
    pub name: String,
    /// The tier that it is of, if it is of one.
    pub tier: Option<Tier>,
    /// Why it could not be removed, if it was to be.
    pub problem: Option<String>,
}

/// What something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A container of a container engine.
    Container,
    /// What a container kept, of a sandbox that was removed.
    Volume,
    /// The folder in which a container's agent was to meet its engine.
    MeetingFolder,
    /// The folder of the commands of an unconfined sandbox.
    HomeFolder,
    /// What was not finished, or not wholly removed: a file or folder of the image store, or of what is
    /// known of sandboxes.
    Unfinished,
}

impl Kind {
    /// The words for it.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Volume => "volume",
            Self::MeetingFolder | Self::HomeFolder => "folder",
            Self::Unfinished => "unfinished",
        }
    }
}

/// A container engine that could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Unseen {
    /// Its tier.
    pub tier: Tier,
    /// Why not.
    #[serde(flatten)]
    pub reason: Unavailable,
}

/// Removes what was left behind, or just looks for it: in the image store, in what is known of
/// sandboxes if there is a place for that, and wherever tiers put things.
///
/// # Errors
///
/// If the image store cannot be read.
pub fn prune(
    store: &Store,
    registry: Option<&Registry>,
    dry_run: bool,
) -> Result<Pruned, StoreError> {
    let mut pruned = Pruned::default();
    for tier in [Tier::Docker, Tier::Podman] {
        pruned.containers(tier, dry_run);
    }
    for path in docker::prune::folders() {
        let removed = unless(dry_run, || fs::remove_dir_all(&path));
        pruned.note(Kind::MeetingFolder, &path, removed);
    }
    for home in local::homes::abandoned(Path::new(local::homes::PLACE)) {
        let path = home.path.clone();
        let removed = unless(dry_run, || home.remove());
        pruned.note(Kind::HomeFolder, &path, removed);
    }
    for (path, removed) in registry.into_iter().flat_map(|it| it.sweep(dry_run)) {
        pruned.note(Kind::Unfinished, &path, removed);
    }
    for left in store.remove_unfinished(dry_run)? {
        let removed = left.problem.map_or(Ok(()), Err);
        pruned.note(Kind::Unfinished, &left.path, removed);
    }
    Ok(pruned)
}

impl Pruned {
    /// Whether everything that was found is gone, or would be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.leftovers.iter().all(|left| left.problem.is_none())
    }

    fn containers(&mut self, tier: Tier, dry_run: bool) {
        let containers = docker::prune::containers(tier, dry_run);
        // They hold their volumes; and an engine that did not answer is not asked again.
        if self.note_of_engine(tier, Kind::Container, containers) {
            let volumes = docker::prune::volumes(tier, dry_run);
            self.note_of_engine(tier, Kind::Volume, volumes);
        }
    }

    /// Notes what an engine had, by name, and whether it is gone. `false` if it could not be asked.
    fn note_of_engine(
        &mut self,
        tier: Tier,
        kind: Kind,
        found: Result<Vec<(String, bool)>, Unavailable>,
    ) -> bool {
        match found {
            Ok(found) => {
                let leftovers = found.into_iter().map(|(name, is_gone)| Leftover {
                    kind,
                    name,
                    tier: Some(tier),
                    problem: (!is_gone).then(|| "its engine did not remove it".to_owned()),
                });
                self.leftovers.extend(leftovers);
                return true;
            }
            // An engine that is not installed has nothing of ours.
            Err(reason) if reason.code == ErrorKind::NoDaemon => {}
            Err(reason) => self.unseen.push(Unseen { tier, reason }),
        }
        false
    }

    fn note(&mut self, kind: Kind, path: &Path, removed: io::Result<()>) {
        let tier = match kind {
            Kind::HomeFolder => Some(Tier::Local),
            Kind::Container | Kind::Volume | Kind::MeetingFolder | Kind::Unfinished => None,
        };
        self.leftovers.push(Leftover {
            kind,
            name: path.display().to_string(),
            tier,
            problem: removed.err().map(|error| error.to_string()),
        });
    }
}

fn unless(dry_run: bool, remove: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if dry_run { Ok(()) } else { remove() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_goes_away_halfway_does_not_hide_what_was_removed() {
        let mut pruned = Pruned::default();
        let container = ("sovereign-1".to_owned(), true);
        assert!(pruned.note_of_engine(Tier::Docker, Kind::Container, Ok(vec![container])));
        let gone = Unavailable {
            code: ErrorKind::DaemonBroken,
            cause: "it went away".to_owned(),
            remedy: None,
        };
        assert!(!pruned.note_of_engine(Tier::Docker, Kind::Volume, Err(gone)));
        assert_eq!((pruned.leftovers.len(), pruned.unseen.len()), (1, 1));
    }

    #[test]
    fn what_could_not_be_removed_is_told_with_its_reason() {
        let mut pruned = Pruned::default();
        assert!(pruned.is_clean());
        pruned.note(Kind::HomeFolder, Path::new("/tmp/a"), Ok(()));
        assert!(pruned.is_clean());
        let denied = Err(io::ErrorKind::PermissionDenied.into());
        pruned.note(Kind::Unfinished, Path::new("/tmp/b"), denied);
        assert!(!pruned.is_clean());
        let json = serde_json::to_value(&pruned.leftovers).unwrap();
        assert_eq!(json[0]["kind"], "home-folder");
        assert_eq!(json[0]["tier"], "local");
        assert!(json[1]["problem"].as_str().unwrap().contains("denied"));
    }
}
