//! Containers whose owner has ended.
//!
//! A container ends with its owner, and its daemon removes it then. What can be left is one that was
//! never started, or that a daemon did not remove because it was stopped itself.

use std::collections::HashMap;

use bollard::models::ContainerSummary;
use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder};

use super::container::{LABEL_BOOT, LABEL_ID};
use super::daemon::Daemon;
use crate::owner::{self, Owner};

/// Removes them. What cannot be removed now is tried again at the next start.
pub(super) async fn remove(daemon: &Daemon) {
    for left in list(daemon).await {
        remove_one(daemon, &left.id).await;
    }
}

/// A container whose owner has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Abandoned {
    pub(super) id: String,
    pub(super) name: String,
}

/// Lists them.
pub(super) async fn list(daemon: &Daemon) -> Vec<Abandoned> {
    let Some(boot) = owner::boot() else {
        return Vec::new();
    };
    let ours = vec![LABEL_ID.to_owned(), format!("{LABEL_BOOT}={boot}")];
    let options = ListContainersOptionsBuilder::default()
        .all(true)
        .filters(&HashMap::from([("label".to_owned(), ours)]))
        .build();
    let known = daemon.api.list_containers(Some(options)).await;
    let known = known.unwrap_or_default();
    known.iter().filter_map(abandoned).collect()
}

/// Ends and removes a container.
pub(super) async fn remove_one(daemon: &Daemon, id: &str) {
    let options = RemoveContainerOptionsBuilder::default()
        .force(true)
        .v(true)
        .build();
    // It may be gone already, or its daemon may be.
    let _ = daemon.api.remove_container(id, Some(options)).await;
}

/// A container, if its owner is gone.
fn abandoned(container: &ContainerSummary) -> Option<Abandoned> {
    let sandbox = container.labels.as_ref()?.get(LABEL_ID)?;
    if !Owner::of_id(sandbox)?.is_gone() {
        return None;
    }
    let id = container.id.clone()?;
    let names = container.names.iter().flatten();
    let name = names.map(|name| name.trim_start_matches('/')).next();
    Some(Abandoned {
        name: name.unwrap_or(&id).to_owned(),
        id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(sandbox: &str) -> ContainerSummary {
        ContainerSummary {
            id: Some("c".to_owned()),
            labels: Some(HashMap::from([(LABEL_ID.to_owned(), sandbox.to_owned())])),
            ..ContainerSummary::default()
        }
    }

    #[test]
    fn only_what_has_lost_its_owner_is_abandoned() {
        let owner = Owner::this().unwrap().to_string();
        assert_eq!(abandoned(&container(&format!("{owner}-0"))), None);
        let (_, rest) = owner.split_once('-').unwrap();
        let gone = container(&format!("4194305-{rest}-0"));
        assert_eq!(abandoned(&gone).map(|left| left.id).as_deref(), Some("c"));
        assert_eq!(abandoned(&container("somebody's")), None);
        assert_eq!(abandoned(&ContainerSummary::default()), None);
    }
}
