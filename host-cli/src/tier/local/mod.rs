//! Tier `local`: a process of this machine, confined as far as its kernel allows.
//!
//! ```text
//!  engine                              sovereign-agent
//!    socket pair, spawn ──────────────▶ fd 3
//!    Setup{size, name} ───────────────▶ namespaces, root, no privileges, Landlock, filter
//!        ◀──────────────────── Standing  confined, or plain and why
//!    (choice: is that enough?)
//!    a stream for each session ───────▶ commands
//! ```
//!
//! The probe starts the agent: nothing less shows what a kernel, its settings and a container around
//! it allow together. A start takes over the agent that the probe has found ready. When the control
//! socket closes, for whatever reason, the agent ends, and with it all that it runs.

pub mod error;
pub(crate) mod homes;
mod shortfall;

use std::fs::DirBuilder;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_client::{Exec, Session, SessionOptions};
use agent_protocol::local::{MAX_MESSAGE, STREAM, Setup, Standing, decode, encode};
use rustix::net::{RecvFlags, recv};

use self::error::LocalError;
use super::facts::Unavailable;
use super::process::ChildProcess;
use super::{Isolation, Tier, packets};
use crate::deadline::is_readable;
use crate::error::chain;
use crate::installation::Program;
use crate::launch::Launch;
use crate::spec::{Network, SandboxSpec, Unsupported};
use crate::timeline::{AGENT_HEARD, Timeline};

/// Its name in a sandbox's state folder.
const KEPT: &str = "files";
/// How long an agent may take to end, after the first sign that it does.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long an agent may take to end in order. Its commands get SIGKILL at once.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// What an agent is started for.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// What the sandbox is to be.
    pub(crate) spec: &'a SandboxSpec,
    /// The folder below which what is written is kept.
    pub(crate) keep: Option<&'a Path>,
    /// Python modules for its commands.
    pub(crate) modules: Option<PathBuf>,
}

/// An agent that serves, and how far it is confined.
#[derive(Debug)]
pub(crate) struct Ready {
    local: Local,
    /// What the commands of this agent are kept from.
    pub(crate) isolation: Isolation,
    /// Why that is not more.
    pub(crate) shortfall: Option<Unavailable>,
}

/// Finds out how far this machine can confine a command, by starting an agent that does it.
///
pub(crate) fn probe(
    wanted: Wanted,
    patience: Duration,
    timeline: &mut Timeline,
) -> Result<Ready, Unavailable> {
    let program = Program::Agent.find()?;
    let unusable = |error: LocalError| Unavailable {
        code: error.kind(),
        cause: chain(&error),
        remedy: None,
    };
    let mut local = Local::spawn(&program, wanted).map_err(unusable)?;
    timeline.mark("agent spawned");
    let standing = local.standing(patience).map_err(unusable)?;
    timeline.mark(AGENT_HEARD);
    let (isolation, shortfall) = match standing {
        Standing::Confined { .. } => (Isolation::Process, None),
        Standing::Plain(shortfall) => {
            let read = |path: &str| std::fs::read_to_string(path).ok();
            let shortfall = shortfall::explain(&shortfall, read);
            (Isolation::None, Some(shortfall))
        }
    };
    Ok(Ready {
        local,
        isolation,
        shortfall,
    })
}

/// What of this spec the local tier cannot honour, if there is anything.
pub(crate) fn refusal(spec: &SandboxSpec, isolation: Isolation) -> Option<Unsupported> {
    const MACHINE: &str = "commands run on this machine as it is";
    let unconfined = isolation == Isolation::None;
    let overrides = &spec.image.overrides;
    let asked = [
        (spec.image.is_named, "--image", MACHINE),
        (overrides.kernel.is_some(), "--kernel", MACHINE),
        (overrides.initramfs.is_some(), "--initramfs", MACHINE),
        (overrides.rootfs.is_some(), "--rootfs", MACHINE),
        (spec.cpus.is_some(), "--cpus", "it does not bound CPU time"),
        (
            spec.memory_mib.is_some(),
            "--memory",
            "it does not bound memory",
        ),
        (
            unconfined && spec.overlay_mib.is_some(),
            "--overlay-size",
            MACHINE,
        ),
        (
            spec.disk_mib.is_some(),
            "--disk",
            "it cannot bound what is kept",
        ),
        (unconfined && spec.hostname.is_some(), "--hostname", MACHINE),
        (
            unconfined && spec.processes.is_some(),
            "--pids-limit",
            MACHINE,
        ),
        (unconfined && spec.network.is_some(), "--network", MACHINE),
        (
            spec.network() == Network::Bridge,
            "--network",
            "a confined process reaches no network",
        ),
    ];
    let (_, flag, reason) = asked.into_iter().find(|(asked, _, _)| *asked)?;
    Some(Unsupported {
        tier: Tier::Local,
        flag,
        reason,
    })
}

/// A running agent.
///
/// Dropped, it is ended with all that it runs, and nothing of it is left.
#[derive(Debug)]
pub(crate) struct Local {
    /// Our end of the control socket; closing it ends the agent.
    control: Option<OwnedFd>,
    process: ChildProcess,
}

impl Local {
    /// Takes over the agent that the probe has found ready, and asks it for the first command.
    ///
    /// # Errors
    ///
    /// If it has ended, or the request cannot be made.
    pub(crate) fn start(
        ready: Ready,
        launch: Launch,
        timeline: &mut Timeline,
    ) -> Result<(Self, Option<Exec>), LocalError> {
        let mut local = ready.local;
        let Some(request) = launch.request else {
            return Ok((local, None));
        };
        let session = Session::new(local.connect()?, SessionOptions::default());
        let exec = session.exec(request.clone())?;
        timeline.mark("request sent");
        Ok((local, Some(exec)))
    }

    fn spawn(program: &Path, wanted: Wanted) -> Result<Self, LocalError> {
        let Wanted {
            spec,
            keep,
            modules,
        } = wanted;
        let keep = keep.map(kept_folder).transpose()?;
        let bytes = |path: PathBuf| path.into_os_string().into_vec();
        let (control, theirs) = packets::pair().map_err(LocalError::Sockets)?;
        let setup = Setup {
            writable_mib: spec.overlay_mib(),
            keep: keep.map(bytes),
            hostname: spec.hostname().to_owned(),
            modules: modules.map(bytes),
            processes: spec.processes(),
        };
        packets::send(&control, &encode(&setup), None).map_err(LocalError::Sockets)?;
        let arguments = [c"sovereign-agent", c"--local", c"3"];
        let process = ChildProcess::start(program, &arguments, theirs).map_err(|source| {
            LocalError::Spawn {
                program: program.to_owned(),
                source,
            }
        })?;
        Ok(Self {
            control: Some(control),
            process,
        })
    }

    /// Waits until the agent says what has become of it.
    fn standing(&mut self, patience: Duration) -> Result<Standing, LocalError> {
        let deadline = Instant::now() + patience;
        let Some(control) = &self.control else {
            return Err(self.why_gone());
        };
        // What there is to read by then is what counts.
        let _ = is_readable(control, None, Some(deadline));
        let mut packet = [0; MAX_MESSAGE];
        match recv(control, &mut packet[..], RecvFlags::DONTWAIT) {
            Ok((length @ 1.., _)) => Ok(decode(packet.get(..length).unwrap_or_default())?),
            Err(rustix::io::Errno::AGAIN) => Err(LocalError::Silent { waited: patience }),
            Ok((0, _)) | Err(_) => Err(self.why_gone()),
        }
    }

    /// A stream to the agent, for one session.
    ///
    /// # Errors
    ///
    /// If the agent has ended.
    pub(crate) fn connect(&mut self) -> Result<UnixStream, LocalError> {
        let (stream, passed) = UnixStream::pair().map_err(LocalError::Sockets)?;
        let sent = self
            .control
            .as_ref()
            .map(|control| packets::send(control, &[STREAM], Some(passed.as_fd())));
        match sent {
            Some(Ok(())) => Ok(stream),
            Some(Err(_)) | None => Err(self.why_gone()),
        }
    }

    /// Why the agent is gone, after a stream to it has ended unexpectedly.
    pub(crate) fn why_gone(&mut self) -> LocalError {
        match self.process.wait(Instant::now() + LAST_WORDS) {
            Some(ending) => LocalError::died(ending, self.process.last_words()),
            None => LocalError::SessionKilled,
        }
    }

    /// Has the agent end, with all that it runs.
    pub(crate) fn begin_end(&mut self) {
        self.control = None;
    }

    /// The id of the agent's process.
    pub(crate) fn process_id(&self) -> i32 {
        self.process.id()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.begin_end();
        // Killed, it could not clean up after itself.
        self.process.wait(Instant::now() + END_TIMEOUT);
    }
}

/// The folder in a sandbox's state that has what is written; it is made if there is none.
fn kept_folder(below: &Path) -> Result<PathBuf, LocalError> {
    let path = below.join(KEPT);
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(LocalError::Keep { path, source })
        }
        _ => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(
        change: impl FnOnce(&mut SandboxSpec),
        isolation: Isolation,
    ) -> Option<&'static str> {
        let mut spec = SandboxSpec::default();
        change(&mut spec);
        refusal(&spec, isolation).map(|refusal| refusal.flag)
    }

    #[test]
    fn what_nobody_asked_for_is_not_refused() {
        assert_eq!(refused(|_| (), Isolation::None), None);
        assert_eq!(refused(|_| (), Isolation::Process), None);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_its_flag() {
        let process = Isolation::Process;
        assert_eq!(refused(|spec| spec.cpus = Some(1), process), Some("--cpus"));
        assert_eq!(
            refused(|spec| spec.memory_mib = Some(512), process),
            Some("--memory")
        );
        assert_eq!(
            refused(|spec| spec.image.is_named = true, process),
            Some("--image")
        );
        let kernel = |spec: &mut SandboxSpec| spec.image.overrides.kernel = Some("/k".into());
        assert_eq!(refused(kernel, process), Some("--kernel"));
    }

    #[test]
    fn a_confined_process_has_a_name_and_a_size_and_a_plain_one_has_not() {
        let name = |spec: &mut SandboxSpec| spec.hostname = Some("box".to_owned());
        let size = |spec: &mut SandboxSpec| spec.overlay_mib = Some(64);
        assert_eq!(refused(name, Isolation::Process), None);
        assert_eq!(refused(size, Isolation::Process), None);
        assert_eq!(refused(name, Isolation::None), Some("--hostname"));
        assert_eq!(refused(size, Isolation::None), Some("--overlay-size"));
    }

    #[test]
    fn only_a_confined_process_is_kept_from_the_network() {
        let network = |mode| move |spec: &mut SandboxSpec| spec.network = Some(mode);
        let flag = Some("--network");
        assert_eq!(refused(network(Network::None), Isolation::Process), None);
        assert_eq!(refused(network(Network::None), Isolation::None), flag);
        assert_eq!(refused(network(Network::Bridge), Isolation::Process), flag);
        assert_eq!(refused(network(Network::Bridge), Isolation::None), flag);
    }
}
