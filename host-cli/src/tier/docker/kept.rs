//! What is written in a container of a sandbox that stays: volumes of the daemon's, one for each place
//! that can be written to.
//!
//! Each life of the sandbox is another container with the same volumes. That there are any is noted in
//! the sandbox's state folder before they are made, and they are removed before the folder is. What is
//! forgotten nevertheless, because the folder was removed by other means, is told by its labels.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use bollard::models::{Volume, VolumeCreateRequest};
use bollard::query_parameters::{
    ListVolumesOptionsBuilder, RemoveVolumeOptionsBuilder, UploadToContainerOptionsBuilder,
};
use bytes::Bytes;

use super::container::UID;
use super::daemon::Daemon;
use super::delivery::{self, Header};
use super::error::DockerError;
use super::{Patience, ask};
use crate::error::ErrorKind;
use crate::owner;
use crate::tier::Tier;
use crate::tier::facts::Unavailable;

/// The label with the sandbox's id, with its state folder, and with where that folder's path means it.
const LABEL_KEPT: &str = "sovereign.kept";
const LABEL_FOLDER: &str = "sovereign.folder";
const LABEL_HERE: &str = "sovereign.here";
/// How long a daemon may take to remove the volumes of one sandbox.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a container may hold its volumes after its end.
const LETTING_GO: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// A place that can be written to, and its mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: String,
    pub(super) mode: u32,
}

/// The volumes of one sandbox.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept<'a> {
    folder: &'a Path,
}

impl<'a> Kept<'a> {
    /// Of the sandbox whose state is in this folder, which is called by its id.
    pub(super) const fn of(folder: &'a Path) -> Self {
        Self { folder }
    }

    /// The name of the volume for a place.
    pub(super) fn volume(&self, place: &str) -> String {
        // No two places have one name: what a name may not have is written as its number.
        let written = |byte: u8| match byte {
            b'/' => ".".to_owned(),
            b'-' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => char::from(byte).to_string(),
            _ => format!("_{byte:02x}"),
        };
        let place: String = place.bytes().map(written).collect();
        format!("sovereign-{}{place}", id_of(self.folder))
    }

    /// Sees to it that there are these volumes.
    pub(super) async fn ensure(
        &self,
        daemon: &Daemon,
        places: &[Place],
    ) -> Result<(), DockerError> {
        let note = self.folder.join(note(daemon.tier));
        File::create(&note).map_err(|source| DockerError::Note { path: note, source })?;
        let labels = HashMap::from([
            (LABEL_KEPT.to_owned(), id_of(self.folder)),
            (LABEL_FOLDER.to_owned(), self.folder.display().to_string()),
            (LABEL_HERE.to_owned(), owner::here().unwrap_or_default()),
        ]);
        for place in places {
            let volume = VolumeCreateRequest {
                name: Some(self.volume(&place.path)),
                labels: Some(labels.clone()),
                ..VolumeCreateRequest::default()
            };
            let made = daemon.api.create_volume(volume).await;
            made.map_err(DockerError::api("making the volumes of what is kept"))?;
        }
        Ok(())
    }

    /// Gives the places in a container that was not started yet to its user: an image need not have
    /// them, and then they are root's.
    pub(super) async fn give(
        &self,
        daemon: &Daemon,
        container: &str,
        places: &[Place],
    ) -> Result<(), DockerError> {
        for place in places {
            let options = UploadToContainerOptionsBuilder::default()
                .path(&place.path)
                .build();
            let folder = Header {
                name: b"./",
                kind: b'5',
                mode: place.mode,
                owner: UID,
                size: 0,
            };
            let archive = bollard::body_full(Bytes::from(delivery::archive(&folder, &[])));
            let api = &daemon.api;
            let given = api.upload_to_container(container, Some(options), archive);
            given
                .await
                .map_err(DockerError::api("giving a volume to the sandbox's user"))?;
        }
        Ok(())
    }
}

/// Removes the volumes of the sandbox whose state is in this folder, if it has any.
///
/// # Errors
///
/// Why they cannot be removed. They are noted still.
pub(crate) fn forget(folder: &Path) -> Result<(), Unavailable> {
    for tier in [Tier::Docker, Tier::Podman] {
        let note = folder.join(note(tier));
        if !note.exists() {
            continue;
        }
        let wanted = (LABEL_KEPT, id_of(folder));
        ask(tier, Patience::with_one(PATIENCE), async |daemon| {
            for volume in list(&daemon, &format!("{}={}", wanted.0, wanted.1)).await? {
                remove(&daemon, &volume.name).await?;
            }
            Ok(())
        })?;
        // Without it nobody looks again; the folder is removed next anyway.
        let _ = fs::remove_file(note);
    }
    Ok(())
}

/// The volumes of sandboxes that are no more, though the folder that all of them are in is there.
pub(super) async fn abandoned(daemon: &Daemon) -> Vec<String> {
    let Some(here) = owner::here() else {
        return Vec::new();
    };
    let known = list(daemon, &format!("{LABEL_HERE}={here}")).await;
    let known = known.unwrap_or_default().into_iter();
    known
        .filter(|volume| {
            volume
                .labels
                .get(LABEL_FOLDER)
                .is_some_and(|folder| is_gone(folder))
        })
        .map(|volume| volume.name)
        .collect()
}

fn is_gone(folder: &str) -> bool {
    let folder = Path::new(folder);
    let is_missing = |path: &Path| {
        fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    let above = folder.parent();
    folder.is_absolute() && is_missing(folder) && above.is_some_and(Path::is_dir)
}

async fn list(daemon: &Daemon, label: &str) -> Result<Vec<Volume>, Unavailable> {
    let options = ListVolumesOptionsBuilder::default()
        .filters(&HashMap::from([("label", vec![label])]))
        .build();
    let known = daemon.api.list_volumes(Some(options)).await;
    let known = known.map_err(|error| refused("list", "volumes", &error))?;
    Ok(known.volumes.unwrap_or_default())
}

/// Removes a volume; one that is not there is removed. The container that had it may just be ending.
pub(super) async fn remove(daemon: &Daemon, volume: &str) -> Result<(), Unavailable> {
    const MISSING: u16 = 404;
    const IN_USE: u16 = 409;
    let deadline = tokio::time::Instant::now() + LETTING_GO;
    loop {
        let options = RemoveVolumeOptionsBuilder::default().force(false).build();
        let removed = daemon.api.remove_volume(volume, Some(options)).await;
        let code = match &removed {
            Err(bollard::errors::Error::DockerResponseServerError { status_code, .. }) => {
                *status_code
            }
            Ok(()) | Err(_) => 0,
        };
        match removed {
            Err(_) if code == IN_USE && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) if code != MISSING => return Err(refused("remove", volume, &error)),
            _ => return Ok(()),
        }
    }
}

fn refused(doing: &str, what: &str, error: &bollard::errors::Error) -> Unavailable {
    Unavailable {
        code: ErrorKind::Daemon,
        cause: format!("the daemon did not {doing} {what}: {error}"),
        remedy: None,
    }
}

/// The file that notes that a sandbox has volumes at this tier's daemon.
const fn note(tier: Tier) -> &'static str {
    match tier {
        Tier::Podman => "volumes-podman",
        _ => "volumes-docker",
    }
}

fn id_of(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_called_by_sandbox_and_place() {
        let kept = Kept::of(Path::new("/state/sandboxes/0123456789ab"));
        assert_eq!(
            kept.volume("/home/sandbox"),
            "sovereign-0123456789ab.home.sandbox"
        );
        assert_eq!(kept.volume("/a b/ä"), "sovereign-0123456789ab.a_20b._c3_a4");
        assert_ne!(kept.volume("/a.b"), kept.volume("/a_b"));
        assert_ne!(kept.volume("/a.b"), kept.volume("/a/b"));
    }

    #[test]
    fn only_what_is_known_to_be_gone_is_abandoned() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::create_dir(path("there")).unwrap();
        assert!(is_gone(&path("gone")));
        assert!(!is_gone(&path("there")));
        // Where nothing is mounted now.
        assert!(!is_gone(&path("nothing/gone")));
        assert!(!is_gone("gone") && !is_gone(""));
    }

    #[test]
    fn a_sandbox_without_volumes_needs_no_daemon() {
        let folder = tempfile::tempdir().unwrap();
        forget(folder.path()).unwrap();
    }
}
