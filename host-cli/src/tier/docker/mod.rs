//! Tiers `docker` and `podman`: a container, through the Docker Engine API.
//!
//! ```text
//!  engine                      daemon                    container
//!    listens in a private folder
//!    create, attach, start ───▶ image, limits ──────────▶ sovereign-agent, PID 1, user 1000
//!        ◀═══════════ control socket, in the folder ═════ connects
//!    removes the folder
//!    a stream for each session ─────────────────────────▶ commands
//! ```
//!
//! It is the control socket of the local tier from there on. When it closes, for whatever reason, the
//! agent ends, with it as the first process all others of the container, and the daemon removes what
//! is left. The daemon is spoken to for the start and the end only, so that a command costs no more
//! than in any other tier.

mod container;
mod daemon;
mod endpoint;
pub mod error;
pub(crate) mod image;
mod leftovers;
mod meeting;
mod owner;
mod readiness;

use std::collections::HashMap;
use std::env;
use std::future::Future;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use agent_client::{Exec, Session, SessionOptions};
use agent_protocol::local::STREAM;
use agent_protocol::message::ExecRequest;
use bollard::container::AttachContainerResults;
use bollard::models::ContainerState;
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, InspectContainerOptions,
    StartContainerOptions, WaitContainerOptionsBuilder,
};
use futures_util::StreamExt;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use self::container::{LABEL_BOOT, LABEL_ID, LABEL_OWNER, Plan, UID};
use self::daemon::Daemon;
use self::error::DockerError;
use self::image::Source;
use self::meeting::Meeting;
use self::owner::Owner;
use self::readiness::readable;
use super::facts::Unavailable;
use super::{Tier, packets};
use crate::installation::Program;
use crate::spec::{Launch, SandboxSpec, Unsupported};
use crate::timeline::{AGENT_HEARD, Timeline};

/// How long a daemon may take to remove a container that has ended, before it is told to.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(5);
/// The most that is kept of what an agent writes to its standard error.
const MAX_WORDS: usize = 4096;

/// What the probe has found, and the start needs.
#[derive(Debug)]
pub(crate) struct Ready {
    daemon: Daemon,
    image: Source,
    agent: PathBuf,
}

/// Finds out whether this tier's daemon can run a container of this image.
pub(crate) fn probe(
    tier: Tier,
    image: &str,
    patience: Duration,
    timeline: &mut Timeline,
) -> Result<Ready, Unavailable> {
    let endpoints = endpoint::of(tier, |name| env::var_os(name))?;
    let runtime = runtime().map_err(|error| Unavailable {
        code: error.code(),
        cause: crate::error::chain(&error),
        remedy: None,
    })?;
    let (daemon, image) = runtime.block_on(async {
        let looking = async {
            let daemon = Daemon::find(tier, &endpoints).await?;
            let image = image::find(&daemon, image).await?;
            Ok((daemon, image))
        };
        let found = timeout(patience, looking).await;
        found.unwrap_or_else(|_| Err(endpoints.too_slow(patience)))
    })?;
    let agent = Program::Agent.find()?;
    timeline.mark("probe");
    Ok(Ready {
        daemon,
        image,
        agent,
    })
}

/// What of this spec a container cannot honour, if there is anything.
pub(crate) fn refusal(tier: Tier, spec: &SandboxSpec) -> Option<Unsupported> {
    let overrides = &spec.image.overrides;
    let asked = [
        (
            overrides.kernel.is_some(),
            "--kernel",
            "containers share this machine's kernel",
        ),
        (
            overrides.initramfs.is_some(),
            "--initramfs",
            "containers share this machine's kernel",
        ),
        (
            overrides.rootfs.is_some(),
            "--rootfs",
            "its daemon runs images only",
        ),
    ];
    let (_, flag, reason) = asked.into_iter().find(|(asked, _, _)| *asked)?;
    Some(Unsupported { tier, flag, reason })
}

/// Whether a request asks for a user that no process of a container can be.
pub(crate) fn refuses_user(tier: Tier, request: &ExecRequest) -> Option<Unsupported> {
    let user = request.user.as_deref()?;
    let name = user.split(':').next().unwrap_or_default();
    let other = match name.parse::<u32>() {
        Ok(number) => number != UID,
        Err(_) => name == "root",
    };
    other.then_some(Unsupported {
        tier,
        flag: "--user",
        reason: "all its processes are of user 1000, without any privilege",
    })
}

/// A running container.
///
/// Dropped, it is ended, and nothing of it is left.
#[derive(Debug)]
pub(crate) struct Container {
    daemon: Daemon,
    name: String,
    /// Our end of the control socket; closing it ends the agent.
    control: Option<OwnedFd>,
    /// Whether the agent has come, so that its end is the container's.
    is_up: bool,
}

impl Container {
    /// Starts a container, and waits until its agent has come.
    ///
    /// # Errors
    ///
    /// If it does not come up in time, or the caller gives up before it does.
    pub(crate) fn start(
        ready: Ready,
        launch: Launch,
        timeline: &mut Timeline,
    ) -> Result<(Self, Option<Exec>), DockerError> {
        let Ready {
            daemon,
            image,
            agent,
        } = ready;
        let runtime = runtime()?;
        let loading = unless_cancelled(launch.cancel, image::load(&daemon, image));
        let image = runtime.block_on(loading)?;
        timeline.mark("image loaded");
        let below = endpoint::runtime_folder(|name| env::var_os(name));
        let owner = Owner::this().ok_or(DockerError::NoProc)?;
        let meeting = Meeting::new(&below, &owner).map_err(|source| DockerError::Meeting {
            folder: below.clone(),
            source,
        })?;
        let plan = Plan {
            tier: daemon.tier,
            spec: launch.spec,
            image: &image,
            agent: &agent,
            meeting: &meeting.shared_folder(),
            cpus: daemon.cpus,
            labels: labels(&meeting.id, &owner),
        };
        let request = plan.request();
        let mut container = Self {
            daemon,
            name: format!("sovereign-{}", meeting.id),
            control: None,
            is_up: false,
        };
        let waited = launch.spec.boot_timeout;
        let coming = container.begin(request, &meeting);
        let control = runtime.block_on(unless_cancelled(launch.cancel, async {
            let came = timeout(waited, coming).await;
            came.unwrap_or(Err(DockerError::Silent { waited }))
        }))?;
        container.control = Some(control);
        container.is_up = true;
        timeline.mark(AGENT_HEARD);
        drop(meeting);
        meeting::remove_leftovers(&below);
        let exec = launch.request.map(|request| container.exec(request));
        Ok((container, exec.transpose()?))
    }

    /// Has the daemon make and start the container. Returns the control socket.
    async fn begin(
        &self,
        request: bollard::models::ContainerCreateBody,
        meeting: &Meeting,
    ) -> Result<OwnedFd, DockerError> {
        let api = &self.daemon.api;
        let options = CreateContainerOptionsBuilder::default()
            .name(&self.name)
            .build();
        let (created, ()) = tokio::join!(
            api.create_container(Some(options), request),
            leftovers::remove(&self.daemon)
        );
        created.map_err(DockerError::api("making the container"))?;
        let options = AttachContainerOptionsBuilder::default()
            .stderr(true)
            .stream(true)
            .build();
        let attached = api
            .attach_container(&self.name, Some(options))
            .await
            .map_err(DockerError::api("attaching to the container"))?;
        api.start_container(&self.name, None::<StartContainerOptions>)
            .await
            .map_err(DockerError::api("starting the container"))?;
        tokio::select! {
            biased;
            control = meeting.wait() => control.map_err(DockerError::Sockets),
            words = last_words(attached) => Err(DockerError::Died { words }),
        }
    }

    fn exec(&mut self, request: &ExecRequest) -> Result<Exec, DockerError> {
        let session = Session::new(self.connect()?, SessionOptions::default());
        Ok(session.exec(request.clone())?)
    }

    /// A stream to the agent, for one session.
    ///
    /// # Errors
    ///
    /// If the container has ended.
    pub(crate) fn connect(&mut self) -> Result<UnixStream, DockerError> {
        let (stream, passed) = UnixStream::pair().map_err(DockerError::Sockets)?;
        let sent = self
            .control
            .as_ref()
            .map(|control| packets::send(control, &[STREAM], Some(passed.as_fd())));
        match sent {
            Some(Ok(())) => Ok(stream),
            Some(Err(_)) | None => Err(self.why_gone()),
        }
    }

    /// Why the container is gone, after a stream to it has ended unexpectedly.
    pub(crate) fn why_gone(&self) -> DockerError {
        let how = match self.state() {
            Some(ContainerState {
                oom_killed: Some(true),
                ..
            }) => "ran out of memory".to_owned(),
            Some(ContainerState {
                running: Some(true),
                ..
            }) => "hung up".to_owned(),
            Some(ContainerState {
                exit_code: Some(code),
                ..
            }) => format!("exited with code {code}"),
            Some(_) | None => "is gone".to_owned(),
        };
        DockerError::Ended { how }
    }

    /// Has the container end, without waiting until its daemon has removed it.
    pub(crate) fn begin_end(&mut self) {
        self.control = None;
    }

    /// The id of the agent's process on this machine, as the daemon knows it; 0 if it does not.
    pub(crate) fn process_id(&self) -> i32 {
        let id = self.state().and_then(|state| state.pid);
        id.and_then(|id| i32::try_from(id).ok()).unwrap_or_default()
    }

    fn state(&self) -> Option<ContainerState> {
        let options = None::<InspectContainerOptions>;
        let asking = self.daemon.api.inspect_container(&self.name, options);
        let known = runtime().ok()?.block_on(async {
            let known = timeout(REMOVAL_TIMEOUT, asking).await;
            known.ok()?.ok()
        });
        known?.state
    }

    /// Waits until the daemon has removed the container; has it removed if that takes long.
    async fn wait_for_removal(&self) {
        let removed = async {
            let options = WaitContainerOptionsBuilder::default()
                .condition("removed")
                .build();
            let waiting = self.daemon.api.wait_container(&self.name, Some(options));
            // Its result is an error too if the container is gone already.
            let _ = std::pin::pin!(waiting).next().await;
        };
        if !self.is_up || timeout(REMOVAL_TIMEOUT, removed).await.is_err() {
            let removing = leftovers::remove_one(&self.daemon, &self.name);
            let _ = timeout(REMOVAL_TIMEOUT, removing).await;
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.begin_end();
        if let Ok(runtime) = runtime() {
            runtime.block_on(self.wait_for_removal());
        }
    }
}

/// What drives the talk with a daemon: made for one call, by the tier that makes it.
fn runtime() -> Result<Runtime, DockerError> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DockerError::Runtime)
}

/// The result of `work`, unless the caller gives up first.
async fn unless_cancelled<T>(
    cancel: Option<BorrowedFd<'_>>,
    work: impl Future<Output = Result<T, DockerError>>,
) -> Result<T, DockerError> {
    let Some(cancel) = cancel else {
        return work.await;
    };
    tokio::select! {
        result = work => result,
        _ = readable(cancel) => Err(DockerError::Interrupted),
    }
}

fn labels(id: &str, owner: &Owner) -> HashMap<String, String> {
    let boot = owner::boot().unwrap_or_default();
    [
        (LABEL_ID, id.to_owned()),
        (LABEL_OWNER, owner.to_string()),
        (LABEL_BOOT, boot),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// What the container writes to its standard error until it ends.
async fn last_words(mut attached: AttachContainerResults) -> String {
    let mut words = Vec::new();
    while let Some(Ok(piece)) = attached.output.next().await {
        if words.len() < MAX_WORDS {
            words.extend_from_slice(&piece.into_bytes());
        }
    }
    words.truncate(MAX_WORDS);
    String::from_utf8_lossy(&words).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_users_are_refused_by_flag_and_tier() {
        let refused = |user: Option<&str>| {
            let request = ExecRequest {
                user: user.map(str::to_owned),
                ..ExecRequest::new(["true"])
            };
            refuses_user(Tier::Podman, &request)
        };
        for user in ["root", "0", "0:0", "root:root", "1001"] {
            let refusal = refused(Some(user)).unwrap();
            assert_eq!((refusal.tier, refusal.flag), (Tier::Podman, "--user"));
        }
        for user in [None, Some("1000"), Some("sandbox"), Some("1000:1000")] {
            assert_eq!(refused(user), None, "{user:?}");
        }
    }

    #[test]
    fn files_of_a_machine_are_refused() {
        let mut spec = SandboxSpec::default();
        assert_eq!(refusal(Tier::Docker, &spec), None);
        spec.image.overrides.rootfs = Some("/r".into());
        assert_eq!(refusal(Tier::Docker, &spec).unwrap().flag, "--rootfs");
        spec.image.overrides.kernel = Some("/k".into());
        assert_eq!(refusal(Tier::Docker, &spec).unwrap().flag, "--kernel");
    }
}
