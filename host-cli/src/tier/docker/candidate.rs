//! What becomes of an image that was imported to be examined.

use std::env;
use std::time::Duration;

use bollard::query_parameters::{RemoveImageOptionsBuilder, TagImageOptionsBuilder};
use tokio::time::timeout;

use super::daemon::Daemon;
use super::image::{REPOSITORY, tag_of};
use super::{endpoint, with_runtime};
use crate::tier::Tier;

/// How long a daemon may take. What it does not do in this time is done by the next import.
const PATIENCE: Duration = Duration::from_secs(20);

/// Gives the candidate its final name, if it has one, or forgets it. Nothing depends on it: an image
/// is taken for what it holds, whatever it is called, and imported when it is not there.
pub(crate) fn settle(tier: Tier, candidate: &str, name: Option<&str>) {
    let Ok(endpoints) = endpoint::of(tier, |name| env::var_os(name)) else {
        return;
    };
    let settling = async {
        if let Ok(daemon) = Daemon::find(tier, &endpoints, PATIENCE).await {
            settle_with(&daemon, candidate, name).await;
        }
    };
    // Too late is as good as not at all.
    let _ = with_runtime(|runtime| {
        runtime.block_on(async { timeout(PATIENCE, settling).await.is_ok() })
    });
}

async fn settle_with(daemon: &Daemon, candidate: &str, name: Option<&str>) {
    let candidate = format!("{REPOSITORY}:{}", tag_of(candidate));
    let Ok(new) = daemon.api.inspect_image(&candidate).await else {
        return;
    };
    let mut superseded = None;
    if let Some(name) = name {
        let tag = tag_of(name);
        let old = daemon
            .api
            .inspect_image(&format!("{REPOSITORY}:{tag}"))
            .await;
        superseded = old.ok().filter(|old| old.id != new.id);
        let options = TagImageOptionsBuilder::default()
            .repo(REPOSITORY)
            .tag(&tag)
            .build();
        if daemon
            .api
            .tag_image(&candidate, Some(options))
            .await
            .is_err()
        {
            superseded = None;
        }
    }
    let old = superseded.and_then(|image| image.id);
    for image in [Some(candidate), old].into_iter().flatten() {
        // One that a container still uses stays.
        let options = RemoveImageOptionsBuilder::default().build();
        let _ = daemon.api.remove_image(&image, Some(options), None).await;
    }
}
