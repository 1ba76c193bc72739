//! Candidates: images that are in the store and have not passed their checks yet.
//!
//! ```text
//!  publish as NAME.candidate ─▶ examine ─┬─ accepted ─▶ renamed to NAME, in one step
//!                                        └─ refused ──▶ removed; what NAME was before stays
//! ```
//!
//! A candidate is found by its whole name, so that sandboxes can be started from it, and is on no
//! list. One that a killed build has left is replaced by the next build, or pruned.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::image::Image;
use crate::lock::{Lock, Sharing};
use crate::progress::Step;

use super::error::write_failed;
use super::publish::sync_folder;
use super::{Parts, Store, StoreError, check_name};

/// How a candidate's name ends.
pub const CANDIDATE: &str = ".candidate";

/// The lock of whoever examines one.
pub(super) const LOCK: &str = "candidate.lock";

/// How long a build waits for another one's candidate: an examination starts sandboxes.
const PATIENCE: Duration = Duration::from_secs(900);

impl Store {
    /// Stores files like [`Store::publish`], but gives the image its name only when `examine`, which
    /// gets the candidate, accepts it. Until then, and if it is refused, the name stands for what it
    /// stood for before.
    ///
    /// # Errors
    /// What `examine` says, and as [`Store::publish`].
    pub fn publish_if<E: From<StoreError>>(
        &self,
        name: &str,
        parts: &Parts<'_>,
        step: Step<'_>,
        examine: impl FnOnce(&Image) -> Result<(), E>,
    ) -> Result<Image, E> {
        check_name(name)?;
        if is_candidate(name) {
            return Err(StoreError::BadName {
                name: name.to_owned(),
            }
            .into());
        }
        let _lock = self.lock_candidates(name, PATIENCE, &step)?;
        let candidate = self.publish(&candidate_of(name), parts, &step)?;
        step.done();
        if let Err(refusal) = examine(&candidate) {
            // What matters is why; a candidate that cannot be removed is removed by a prune.
            let _ = self.remove(&candidate.name);
            return Err(refusal);
        }
        Ok(self.promote(&candidate, name)?)
    }

    /// Gives a candidate its name.
    fn promote(&self, candidate: &Image, name: &str) -> Result<Image, StoreError> {
        let silent = Step::begin(&crate::progress::Silent, "naming an image");
        let _lock = self.lock(&format!("storing image `{name}`"), &silent)?;
        let rename = |from: PathBuf, to: PathBuf| {
            fs::rename(from, &to).map_err(|error| write_failed(&to, 0)(error))
        };
        let candidate = &candidate.name;
        rename(self.manifest_path(candidate), self.manifest_path(name))?;
        // The record says of the files that they were hashed. It may not be there: it only saves work.
        let _ = rename(self.record_path(candidate), self.record_path(name));
        sync_folder(&self.images())?;
        self.verify_changed(name)
    }

    /// Removes candidates that no build examines. The caller holds the store's lock.
    pub(super) fn clear_candidates(&self) -> Result<(), StoreError> {
        let silent = Step::begin(&crate::progress::Silent, "pruning images");
        let Ok(_lock) = self.lock_candidates("pruning", Duration::ZERO, &silent) else {
            return Ok(());
        };
        for name in self.names()?.iter().filter(|name| is_candidate(name)) {
            super::collect::remove_file(&self.manifest_path(name))?;
        }
        Ok(())
    }

    /// One build at a time has a candidate. Always taken before the store's lock, but for pruning,
    /// which does not wait for it.
    fn lock_candidates(
        &self,
        name: &str,
        patience: Duration,
        step: &Step<'_>,
    ) -> Result<Lock, StoreError> {
        self.make_folders()?;
        let lock = Lock::acquire(
            &self.root.join(LOCK),
            Sharing::Exclusive,
            &format!("examining image `{name}`"),
            patience,
            &mut |holder| step.log(&format!("waiting for {holder}")),
        )?;
        Ok(lock)
    }
}

/// The name under which an image is examined.
fn candidate_of(name: &str) -> String {
    format!("{name}{CANDIDATE}")
}

/// Whether a name is a candidate's.
pub(super) fn is_candidate(name: &str) -> bool {
    name.ends_with(CANDIDATE)
}
