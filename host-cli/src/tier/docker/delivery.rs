//! The agent's program for a daemon that does not see this machine's files: a volume of its own,
//! filled once through the API, and mounted read-only by every container.
//!
//! The volume is called by the program's digest. It is looked at before each start, for whoever was
//! to fill it may have been stopped in the middle.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType, VolumeCreateRequest};
use bollard::query_parameters::{
    ContainerArchiveInfoOptionsBuilder, CreateContainerOptionsBuilder, ListVolumesOptionsBuilder,
    RemoveVolumeOptions, UploadToContainerOptionsBuilder,
};
use bytes::Bytes;
use sandbox_image::digest::Digest;

use super::container::{AGENT, AGENT_FOLDER, AGENT_NAME};
use super::daemon::Daemon;
use super::error::DockerError;
use super::image::Loaded;
use super::leftovers;

/// The label of a volume with the agent's program.
const LABEL: &str = "sovereign.agent";
/// How many digits of the digest tell programs apart.
const DIGITS: usize = 16;
/// POSIX.1-2017, pax, "ustar Interchange Format": everything comes in blocks.
const BLOCK: usize = 512;

/// A program that a daemon is to have.
#[derive(Debug)]
pub(super) struct Delivery<'a> {
    daemon: &'a Daemon,
    program: Vec<u8>,
    /// The volume that it is in.
    pub(super) volume: String,
}

impl<'a> Delivery<'a> {
    pub(super) fn new(daemon: &'a Daemon, program: Vec<u8>) -> Self {
        let digest = Digest::of(&program).to_hex();
        let digits = digest.get(..DIGITS).unwrap_or_default();
        Self {
            daemon,
            program,
            volume: format!("sovereign-agent-{digits}"),
        }
    }

    /// Sees to it that this container, which has the volume and was not started yet, has the whole
    /// program in it.
    pub(super) async fn ensure(
        &self,
        container: &str,
        image: &Loaded,
        labels: HashMap<String, String>,
    ) -> Result<(), DockerError> {
        if self.is_in(container).await {
            return Ok(());
        }
        let carrier = format!("{container}-carrier");
        let filled = self.fill(&carrier, image, labels).await;
        leftovers::remove_one(self.daemon, &carrier).await;
        filled?;
        self.remove_others().await;
        if self.is_in(container).await {
            Ok(())
        } else {
            Err(DockerError::NotDelivered)
        }
    }

    /// Whether a container has the program.
    async fn is_in(&self, container: &str) -> bool {
        let options = ContainerArchiveInfoOptionsBuilder::default()
            .path(AGENT)
            .build();
        let api = &self.daemon.api;
        let found = api
            .get_container_archive_info(container, Some(options))
            .await;
        found.is_ok_and(|file| usize::try_from(file.size) == Ok(self.program.len()))
    }

    /// Fills the volume, by a container that is never started.
    async fn fill(
        &self,
        carrier: &str,
        image: &Loaded,
        labels: HashMap<String, String>,
    ) -> Result<(), DockerError> {
        let failed = DockerError::api("sending the agent");
        let api = &self.daemon.api;
        let volume = VolumeCreateRequest {
            name: Some(self.volume.clone()),
            labels: Some(HashMap::from([(LABEL.to_owned(), "1".to_owned())])),
            ..VolumeCreateRequest::default()
        };
        api.create_volume(volume).await.map_err(failed)?;
        let mount = Mount {
            typ: Some(MountType::VOLUME),
            source: Some(self.volume.clone()),
            target: Some(AGENT_FOLDER.to_owned()),
            ..Mount::default()
        };
        let request = ContainerCreateBody {
            image: Some(image.id.clone()),
            entrypoint: Some(vec![AGENT.to_owned()]),
            network_disabled: Some(true),
            labels: Some(labels),
            host_config: Some(HostConfig {
                mounts: Some(vec![mount]),
                network_mode: Some("none".to_owned()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default()
            .name(carrier)
            .build();
        api.create_container(Some(options), request)
            .await
            .map_err(failed)?;
        let options = UploadToContainerOptionsBuilder::default()
            .path(AGENT_FOLDER)
            .build();
        let archive = bollard::body_full(Bytes::from(program_archive(&self.program)));
        api.upload_to_container(carrier, Some(options), archive)
            .await
            .map_err(failed)
    }

    /// Removes the volumes of other versions. One that a container has stays.
    async fn remove_others(&self) {
        let options = ListVolumesOptionsBuilder::default()
            .filters(&HashMap::from([("label", vec![LABEL])]))
            .build();
        let api = &self.daemon.api;
        let Ok(known) = api.list_volumes(Some(options)).await else {
            return;
        };
        for volume in known.volumes.unwrap_or_default() {
            if volume.name != self.volume {
                let _ = api
                    .remove_volume(&volume.name, None::<RemoveVolumeOptions>)
                    .await;
            }
        }
    }
}

/// What an archive says of the one thing in it.
pub(super) struct Header<'a> {
    pub(super) name: &'a [u8],
    /// The type flag.
    pub(super) kind: u8,
    pub(super) mode: u32,
    /// User and group.
    pub(super) owner: u32,
    pub(super) size: usize,
}

/// A tar archive with one thing and nothing else.
pub(super) fn archive(about: &Header<'_>, content: &[u8]) -> Vec<u8> {
    let mut header = [b' '; BLOCK];
    let mut put = |at: usize, length: usize, value: &[u8]| {
        if let Some(field) = header.get_mut(at..at + length) {
            field.fill(0);
            field
                .iter_mut()
                .zip(value)
                .for_each(|(to, from)| *to = *from);
        }
    };
    let octal = |number: u32| format!("{number:07o}").into_bytes();
    // The fields and their places, by pax, table "ustar Header Block".
    put(0, 100, about.name);
    put(100, 8, &octal(about.mode));
    put(108, 8, &octal(about.owner));
    put(116, 8, &octal(about.owner));
    put(124, 12, format!("{:011o}", about.size).as_bytes());
    put(136, 12, b"00000000000");
    put(156, 1, &[about.kind]);
    put(157, 100, b"");
    put(257, 6, b"ustar");
    put(263, 2, b"00");
    put(265, BLOCK - 265, b"");
    // The sum is that of the header with spaces in its own place.
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    let sum = format!("{sum:06o}\0 ");
    if let Some(field) = header.get_mut(148..156) {
        field.copy_from_slice(sum.as_bytes());
    }
    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    // To a whole block, and two empty ones.
    archive.resize(archive.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
    archive
}

/// The agent's program.
fn program_archive(program: &[u8]) -> Vec<u8> {
    let header = Header {
        name: AGENT_NAME.as_bytes(),
        kind: b'0',
        mode: 0o755,
        owner: 0,
        size: program.len(),
    };
    archive(&header, program)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn tar_understands_the_archive() {
        let program: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let folder = tempfile::tempdir().unwrap();
        let mut tar = Command::new("tar")
            .args(["-x", "-f", "-", "-C"])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = tar.stdin.take().unwrap();
        input.write_all(&program_archive(&program)).unwrap();
        drop(input);
        assert!(tar.wait().unwrap().success());
        let path = folder.path().join(AGENT_NAME);
        assert_eq!(std::fs::read(path).unwrap(), program);
    }
}
