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
//! It is the control socket of the local tier from there on. A daemon that does not see this
//! machine's files gets the agent in a volume, and the streams go through its API (`bridge`). When
//! the one or the other closes, for whatever reason, the
//! agent ends, with it as the first process all others of the container, and the daemon removes what
//! is left. The daemon is spoken to for the start and the end only, so that a command costs no more
//! than in any other tier.

mod begin;
mod bridge;
pub(crate) mod candidate;
mod container;
mod daemon;
mod delivery;
mod door;
mod endpoint;
pub mod error;
pub(crate) mod image;
pub(crate) mod kept;
mod leftovers;
mod limits;
mod meeting;
pub(crate) mod prune;
mod readiness;

use std::env;
use std::future::Future;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use agent_client::{Exec, Session, SessionOptions};
use agent_protocol::message::ExecRequest;
use bollard::models::ContainerState;
use bollard::query_parameters::{InspectContainerOptions, WaitContainerOptionsBuilder};
use futures_util::StreamExt;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::timeout;

use self::begin::Beginning;
use self::container::UID;
use self::daemon::Daemon;
use self::door::Door;
use self::error::DockerError;
use self::image::Source;
use self::readiness::readable;
use super::Tier;
use super::facts::Unavailable;
use crate::installation::Program;
use crate::launch::Launch;
use crate::owner::Owner;
use crate::spec::{SandboxSpec, Unsupported};
use crate::timeline::{AGENT_HEARD, Timeline};

/// How long a daemon may take to remove a container that has ended, before it is told to.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a daemon is waited for, unless the caller gives up first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience<'a> {
    /// For its first word, for which it has nothing to look up.
    first_word: Duration,
    /// For all that it is asked.
    whole: Duration,
    /// The caller gives up when this becomes readable.
    cancel: Option<BorrowedFd<'a>>,
}

impl<'a> Patience<'a> {
    /// How long a daemon may say nothing while another as strong could take its place.
    const FIRST_WORD: Duration = Duration::from_millis(400);
    /// How long before something weaker does: one that its socket starts needs half a second for it.
    const FIRST_WORD_BEFORE_WEAKER: Duration = Duration::from_secs(3);
    /// How long it may where none could: one that has much to do has been seen to take a second.
    const FIRST_WORD_ALONE: Duration = Duration::from_secs(10);

    /// Of who has nobody else to ask.
    pub(crate) fn with_one(whole: Duration) -> Self {
        Self::new(whole.min(Self::FIRST_WORD_ALONE), whole)
    }

    /// Of who looks for a tier: a daemon that says nothing is passed over soon.
    pub(crate) const fn among_others(whole: Duration) -> Self {
        Self::new(Self::FIRST_WORD, whole)
    }

    /// Of who has found nothing as strong.
    pub(crate) fn before_weaker(whole: Duration) -> Self {
        Self::new(whole.min(Self::FIRST_WORD_BEFORE_WEAKER), whole)
    }

    const fn new(first_word: Duration, whole: Duration) -> Self {
        Self {
            first_word,
            whole,
            cancel: None,
        }
    }

    /// The same, of a caller who may give up.
    pub(crate) const fn unless(self, cancel: Option<BorrowedFd<'a>>) -> Self {
        Self { cancel, ..self }
    }
}

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
    patience: Patience,
    timeline: &mut Timeline,
) -> Result<Ready, Unavailable> {
    let (daemon, image) = ask(tier, patience, async |daemon| {
        let image = image::find(&daemon, image).await?;
        Ok((daemon, image))
    })?;
    let agent = Program::Agent.find()?;
    timeline.mark("probe");
    Ok(Ready {
        daemon,
        image,
        agent,
    })
}

/// Asks this tier's daemon for something that has to be there within this time.
fn ask<T: Send>(
    tier: Tier,
    patience: Patience,
    act: impl AsyncFnOnce(Daemon) -> Result<T, Unavailable> + Send,
) -> Result<T, Unavailable> {
    let endpoints = endpoint::of(tier, |name| env::var_os(name))?;
    let answer = with_runtime(|runtime| {
        let answer = runtime.block_on(async {
            let asking =
                async { act(Daemon::find(tier, &endpoints, patience.first_word).await?).await };
            let asking = timeout(patience.whole, asking);
            match before_cancel(patience.cancel, asking).await {
                Some(answer) => answer.unwrap_or_else(|_| Err(endpoints.too_slow(patience.whole))),
                None => Err(unavailable(&DockerError::Interrupted)),
            }
        });
        // A name that is still being looked up holds nothing up.
        runtime.shutdown_background();
        answer
    });
    answer.unwrap_or_else(|error| Err(unavailable(&error)))
}

fn unavailable(error: &DockerError) -> Unavailable {
    Unavailable {
        code: error.kind(),
        cause: crate::error::chain(error),
        remedy: None,
    }
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
        (
            spec.disk_mib.is_some(),
            "--disk",
            "its daemon cannot bound a volume",
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
    /// The way to its agent; closing it ends the agent.
    door: Option<Door>,
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
        with_runtime(|runtime| Self::start_with(runtime, ready, launch, timeline))?
    }

    fn start_with(
        runtime: Runtime,
        ready: Ready,
        launch: Launch,
        timeline: &mut Timeline,
    ) -> Result<(Self, Option<Exec>), DockerError> {
        let Ready {
            daemon,
            image,
            agent,
        } = ready;
        let loading = unless_cancelled(launch.cancel, image::load(&daemon, image, launch.progress));
        let image = runtime.block_on(loading)?;
        timeline.mark("image loaded");
        let owner = Owner::this().ok_or(DockerError::NoProc)?;
        let id = owner.new_id().map_err(DockerError::Sockets)?;
        let mut container = Self {
            daemon,
            name: format!("sovereign-{id}"),
            door: None,
            is_up: false,
        };
        let beginning = Beginning {
            daemon: &container.daemon,
            name: &container.name,
            id: &id,
            owner: &owner,
            launch,
            image: &image,
            agent: &agent,
        };
        container.door = Some(beginning.run(runtime)?);
        container.is_up = true;
        timeline.mark(AGENT_HEARD);
        let exec = launch.request.map(|request| container.exec(request));
        Ok((container, exec.transpose()?))
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
        let door = self.door.as_ref();
        let stream = door.map(Door::stream).transpose();
        let stream = stream.map_err(DockerError::Sockets)?.flatten();
        stream.ok_or_else(|| self.why_gone())
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
        self.door = None;
    }

    /// The id of the agent's process on this machine, as the daemon knows it; 0 if it does not, or
    /// is elsewhere.
    pub(crate) fn process_id(&self) -> i32 {
        if !self.daemon.sees_our_files {
            return 0;
        }
        let id = self.state().and_then(|state| state.pid);
        id.and_then(|id| i32::try_from(id).ok()).unwrap_or_default()
    }

    fn state(&self) -> Option<ContainerState> {
        let options = None::<InspectContainerOptions>;
        let asking = self.daemon.api.inspect_container(&self.name, options);
        let known = with_runtime(|runtime| {
            runtime.block_on(async {
                let known = timeout(REMOVAL_TIMEOUT, asking).await;
                known.ok()?.ok()
            })
        });
        known.ok()??.state
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
        // Without one, the daemon removes what its agent's end leaves all the same.
        let _ = with_runtime(|runtime| runtime.block_on(self.wait_for_removal()));
    }
}

/// Talks with a daemon on a runtime that is made for one call. A thread that is itself driven by a
/// runtime may not block in another one: its talk is had on a thread beside it.
fn with_runtime<T: Send>(talk: impl FnOnce(Runtime) -> T + Send) -> Result<T, DockerError> {
    let talk = || {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.map(talk).map_err(DockerError::Runtime)
    };
    if Handle::try_current().is_err() {
        return talk();
    }
    thread::scope(|scope| {
        let beside = thread::Builder::new()
            .name("docker-talk".to_owned())
            .spawn_scoped(scope, talk)
            .map_err(DockerError::Runtime)?;
        beside.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// The result of `work`, unless the caller gives up first.
async fn unless_cancelled<T>(
    cancel: Option<BorrowedFd<'_>>,
    work: impl Future<Output = Result<T, DockerError>>,
) -> Result<T, DockerError> {
    let done = before_cancel(cancel, work).await;
    done.unwrap_or(Err(DockerError::Interrupted))
}

/// What `work` comes to; nothing if the caller gives up first.
async fn before_cancel<T>(
    cancel: Option<BorrowedFd<'_>>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let Some(cancel) = cancel else {
        return Some(work.await);
    };
    tokio::select! {
        done = work => Some(done),
        _ = readable(cancel) => None,
    }
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

    /// What is dropped in a future, because that failed or was dropped, ends there.
    #[test]
    fn a_daemon_can_be_spoken_to_on_a_thread_that_a_runtime_drives() {
        let talk = || with_runtime(|runtime| runtime.block_on(async { thread::current().id() }));
        let here = thread::current().id();
        assert_eq!(talk().unwrap(), here);
        let outer = Builder::new_current_thread().build().unwrap();
        let inner = outer.block_on(async { talk() });
        assert_ne!(inner.unwrap(), here);
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
