//! The start of a container, up to the moment at which its agent can be reached.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::future::Future;
use std::path::Path;

use agent_protocol::bridge::READY;
use bollard::container::{AttachContainerResults, LogOutput};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, StartContainerOptions,
};
use futures_util::StreamExt;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::bridge::Bridge;
use super::container::{Entry, LABEL_BOOT, LABEL_ID, LABEL_OWNER, Plan, places};
use super::daemon::Daemon;
use super::delivery::Delivery;
use super::door::Door;
use super::endpoint;
use super::error::DockerError;
use super::image::Loaded;
use super::kept::Kept;
use super::leftovers;
use super::meeting::{self, Meeting};
use super::unless_cancelled;
use crate::launch::Launch;
use crate::owner::{self, Owner};

/// The most that is kept of what an agent writes to its standard error.
const MAX_WORDS: usize = 4096;

/// A container that is to be.
#[derive(Debug)]
pub(super) struct Beginning<'a> {
    pub(super) daemon: &'a Daemon,
    pub(super) name: &'a str,
    /// The sandbox's id, which begins with its owner.
    pub(super) id: &'a str,
    pub(super) owner: &'a Owner,
    pub(super) launch: Launch<'a>,
    pub(super) image: &'a Loaded,
    /// The agent's program on this machine.
    pub(super) agent: &'a Path,
}

impl Beginning<'_> {
    /// Makes the container, starts it, and waits until its agent can be reached.
    pub(super) fn run(&self, runtime: Runtime) -> Result<Door, DockerError> {
        if self.daemon.sees_our_files {
            self.meet(&runtime)
        } else {
            self.build_bridge(runtime)
        }
    }

    /// The agent comes to a socket of this machine.
    fn meet(&self, runtime: &Runtime) -> Result<Door, DockerError> {
        let below = endpoint::runtime_folder(|name| env::var_os(name));
        let meeting = Meeting::new(&below, self.id).map_err(|source| DockerError::Meeting {
            folder: below.clone(),
            source,
        })?;
        let folder = meeting.shared_folder();
        let control = self.in_time(runtime, async {
            let agent = self.agent;
            self.create(Entry::Mounted {
                agent,
                folder: &folder,
            })
            .await?;
            let mut attached = self.attach(false).await?;
            self.start().await?;
            tokio::select! {
                biased;
                control = meeting.wait() => control.map_err(DockerError::Sockets),
                words = last_words(&mut attached) => Err(DockerError::Died { words }),
            }
        })?;
        drop(meeting);
        meeting::remove_leftovers(&below);
        Ok(Door::Control(control))
    }

    /// The agent is joined by programs that the daemon starts beside it.
    fn build_bridge(&self, runtime: Runtime) -> Result<Door, DockerError> {
        let program = fs::read(self.agent).map_err(|source| DockerError::Archive {
            path: self.agent.to_owned(),
            source,
        })?;
        let delivery = Delivery::new(self.daemon, program);
        let attached = self.in_time(&runtime, async {
            self.create(Entry::Volume(&delivery.volume)).await?;
            delivery
                .ensure(self.name, self.image, self.labels())
                .await?;
            let mut attached = self.attach(true).await?;
            self.start().await?;
            wait_until_ready(&mut attached).await?;
            Ok(attached)
        })?;
        let api = self.daemon.api.clone();
        Bridge::new(runtime, api, self.name.to_owned(), attached)
            .map(Door::Bridge)
            .map_err(DockerError::Sockets)
    }

    /// Does it, unless the time for a start is up or the caller gives up before.
    fn in_time<T>(
        &self,
        runtime: &Runtime,
        work: impl Future<Output = Result<T, DockerError>>,
    ) -> Result<T, DockerError> {
        let waited = self.launch.spec.boot_timeout;
        runtime.block_on(unless_cancelled(self.launch.cancel, async {
            let done = timeout(waited, work).await;
            done.unwrap_or(Err(DockerError::Silent { waited }))
        }))
    }

    async fn create(&self, entry: Entry<'_>) -> Result<(), DockerError> {
        let kept = self.launch.keep().map(Kept::of);
        let places = places(self.image);
        if let Some(kept) = kept {
            kept.ensure(self.daemon, &places).await?;
        }
        let plan = Plan {
            tier: self.daemon.tier,
            spec: self.launch.spec,
            image: self.image,
            entry,
            kept,
            cpus: self.daemon.cpus,
            labels: self.labels(),
        };
        let options = CreateContainerOptionsBuilder::default()
            .name(self.name)
            .build();
        let (created, ()) = tokio::join!(
            self.daemon
                .api
                .create_container(Some(options), plan.request()),
            leftovers::remove(self.daemon)
        );
        created.map_err(DockerError::api("making the container"))?;
        match kept {
            Some(kept) => kept.give(self.daemon, self.name, &places).await,
            None => Ok(()),
        }
    }

    /// What the container writes to its standard error; all its streams, if it is to be held by them.
    async fn attach(&self, is_held: bool) -> Result<AttachContainerResults, DockerError> {
        let options = AttachContainerOptionsBuilder::default()
            .stdin(is_held)
            .stdout(is_held)
            .stderr(true)
            .stream(true)
            .build();
        let api = &self.daemon.api;
        api.attach_container(self.name, Some(options))
            .await
            .map_err(DockerError::api("attaching to the container"))
    }

    async fn start(&self) -> Result<(), DockerError> {
        let api = &self.daemon.api;
        api.start_container(self.name, None::<StartContainerOptions>)
            .await
            .map_err(DockerError::api("starting the container"))
    }

    fn labels(&self) -> HashMap<String, String> {
        let boot = owner::boot().unwrap_or_default();
        [
            (LABEL_ID, self.id.to_owned()),
            (LABEL_OWNER, self.owner.to_string()),
            (LABEL_BOOT, boot),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

/// What the container writes to its standard error until it ends.
async fn last_words(attached: &mut AttachContainerResults) -> String {
    let mut words = Vec::new();
    while let Some(Ok(piece)) = attached.output.next().await {
        if words.len() < MAX_WORDS {
            words.extend_from_slice(&piece.into_bytes());
        }
    }
    words.truncate(MAX_WORDS);
    String::from_utf8_lossy(&words).into_owned()
}

/// Waits for the first word of an agent that can be joined.
async fn wait_until_ready(attached: &mut AttachContainerResults) -> Result<(), DockerError> {
    let (mut said, mut words) = (Vec::new(), Vec::new());
    while let Some(Ok(piece)) = attached.output.next().await {
        match piece {
            LogOutput::StdOut { message } => said.extend_from_slice(&message),
            piece => words.extend_from_slice(&piece.into_bytes()),
        }
        if said == READY {
            return Ok(());
        }
        if said.len() + words.len() > MAX_WORDS {
            break;
        }
    }
    words.extend_from_slice(&said);
    let words = String::from_utf8_lossy(&words).into_owned();
    Err(DockerError::Died { words })
}
