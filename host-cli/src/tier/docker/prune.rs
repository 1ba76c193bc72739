//! Removing on request what crashes have left at a container engine.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use super::daemon::Daemon;
use super::{Patience, ask, endpoint, kept, leftovers, meeting};
use crate::tier::Tier;
use crate::tier::facts::Unavailable;

/// How long a daemon may take for all of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Removes the containers whose owners are gone, or just lists them. Returns each one's name, and
/// whether it is (or would be) removed.
///
/// # Errors
///
/// Why the daemon of this tier cannot be asked.
pub(crate) fn containers(tier: Tier, dry_run: bool) -> Result<Vec<(String, bool)>, Unavailable> {
    ask(tier, Patience::with_one(PATIENCE), async |daemon| {
        Ok(prune(&daemon, dry_run).await)
    })
}

/// As [`containers`], the volumes of sandboxes that are no more.
///
/// # Errors
///
/// Why the daemon of this tier cannot be asked.
pub(crate) fn volumes(tier: Tier, dry_run: bool) -> Result<Vec<(String, bool)>, Unavailable> {
    ask(tier, Patience::with_one(PATIENCE), async |daemon| {
        let mut found = Vec::new();
        for name in kept::abandoned(&daemon).await {
            let is_gone = dry_run || kept::remove(&daemon, &name).await.is_ok();
            found.push((name, is_gone));
        }
        Ok(found)
    })
}

async fn prune(daemon: &Daemon, dry_run: bool) -> Vec<(String, bool)> {
    let found = leftovers::list(daemon).await;
    if dry_run {
        return found.into_iter().map(|left| (left.name, true)).collect();
    }
    for left in &found {
        leftovers::remove_one(daemon, &left.id).await;
    }
    let still = leftovers::list(daemon).await;
    let is_gone = |id: &str| still.iter().all(|left| left.id != id);
    found
        .into_iter()
        .map(|left| (left.name, is_gone(&left.id)))
        .collect()
}

/// The folders in which agents and engines that are gone would have met.
pub(crate) fn folders() -> Vec<PathBuf> {
    meeting::leftovers(&endpoint::runtime_folder(|name| env::var_os(name)))
}
