//! Tier `microvm`: a virtual machine of our own, in a VMM process of its own.
//!
//! ```text
//!  engine                          sovereign-vmm                     guest
//!    socket pair, spawn ──────────▶ fd 3
//!    Start{config} ───────────────▶ memory, kernel, devices
//!    Accept{1024} + stream ───────▶
//!        ◀──────────── Started      runs the vCPUs ────────────────▶ kernel, agent
//!        ◀═══════════════ stream ═══ vsock ◀═══════════════════════ connects to port 1024
//! ```
//!
//! Nothing of this is in the file system. When the control socket closes, for whatever reason, the
//! VMM ends.

mod boot;
mod console;
mod control;
mod cpu;
mod disk;
pub mod error;
mod first;
pub mod kvm;
mod machine;

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use agent_client::{Exec, Session, SessionOptions};
use agent_protocol::frame::AGENT_PORT;
use sandbox_image::{Image, Store};
use vmm::config::MachineConfig;
use vmm::control::Command;

use self::boot::Owned;
use self::control::{Control, ControlError};
use self::error::MicrovmError;
use self::first::First;
use self::kvm::Depth;
use super::Tier;
use super::facts::Unavailable;
use super::process::ChildProcess;
use crate::installation::Program;
use crate::launch::Launch;
use crate::spec::{Network, SandboxSpec, Unsupported};
use crate::timeline::{AGENT_HEARD, Actor, Timeline};

/// What the probe has found, and the start needs.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    vmm: PathBuf,
    image: Image,
}

/// Finds out whether this machine can run a microVM with this image.
pub(crate) fn probe(
    image: &str,
    depth: Depth,
    timeline: &mut Timeline,
) -> Result<Ready, Unavailable> {
    kvm::check(depth)?;
    let vmm = Program::Vmm.find()?;
    timeline.mark("probe");
    let image = Store::open_default().and_then(|store| store.find(image))?;
    timeline.mark("image");
    Ok(Ready { vmm, image })
}

/// What of this spec a machine cannot honour, if there is anything.
pub(crate) fn refusal(spec: &SandboxSpec) -> Option<Unsupported> {
    let asked = [
        (
            spec.network() == Network::Bridge,
            "--network",
            "its machines have no network device",
        ),
        (
            spec.processes.is_some(),
            "--pids-limit",
            "its processes are bounded by the machine's memory only",
        ),
    ];
    let (_, flag, reason) = asked.into_iter().find(|(asked, _, _)| *asked)?;
    Some(Unsupported {
        tier: Tier::Microvm,
        flag,
        reason,
    })
}

/// A running machine.
///
/// Dropped, it is ended, and nothing of it is left.
#[derive(Debug)]
pub(crate) struct Microvm {
    owned: Owned,
    /// The stream that the agent opened by itself, if nothing was said on it yet.
    first: Option<First>,
    /// Whether it has a disk for what is written in it.
    keeps: bool,
}

impl Microvm {
    /// Starts a machine, and waits until its agent has said its first word.
    ///
    /// # Errors
    ///
    /// If it does not come up in time, or the caller gives up before it does.
    pub(crate) fn start(
        ready: Ready,
        launch: Launch,
        timeline: &mut Timeline,
    ) -> Result<(Self, Option<Exec>), MicrovmError> {
        let Launch {
            spec,
            request,
            cancel,
            console,
            ..
        } = launch;
        let deadline = Instant::now() + spec.boot_timeout;
        let Ready { vmm, image } = ready;
        let config = Box::new(machine::describe(&launch, image)?);
        let (control, theirs) = Control::pair().map_err(MicrovmError::Sockets)?;
        let process = ChildProcess::start(&vmm, &[c"sovereign-vmm"], theirs).map_err(|source| {
            MicrovmError::Spawn {
                program: vmm,
                source,
            }
        })?;
        timeline.mark("VMM spawned");
        let mut owned = Owned { control, process };
        let stream = owned.begin(config, console)?;
        let watched = stream.try_clone().map_err(MicrovmError::Sockets)?;
        let (first, exec) = match request {
            Some(request) => {
                let options = SessionOptions {
                    answer_timeout: spec.boot_timeout,
                    ..Default::default()
                };
                (
                    None,
                    Some(Session::new(stream, options).exec(request.clone())?),
                )
            }
            None => (Some(stream), None),
        };
        timeline.mark("request sent");
        let trace = owned.wait_until_ready(&watched, deadline, cancel)?;
        for point in trace {
            timeline.add(Actor::Vmm, &point.name, point.monotonic_ns);
        }
        timeline.mark(AGENT_HEARD);
        let keeps = launch.keep().is_some();
        Ok((
            Self {
                owned,
                first: first.map(First::new),
                keeps,
            },
            exec,
        ))
    }

    /// A stream to the agent, for one session.
    ///
    /// # Errors
    ///
    /// If the machine has ended.
    pub(crate) fn connect(&mut self) -> Result<UnixStream, MicrovmError> {
        if let Some(first) = self.first.take().and_then(First::still_good) {
            return Ok(first);
        }
        let (stream, passed) = UnixStream::pair().map_err(MicrovmError::Sockets)?;
        let connect = Command::Connect { port: AGENT_PORT };
        match self.owned.control.send(&connect, Some(passed.as_fd())) {
            Ok(()) => Ok(stream),
            Err(_) => Err(self.owned.why_gone()),
        }
    }

    /// Why the machine is gone, after a stream to it has ended unexpectedly.
    pub(crate) fn why_gone(&mut self) -> MicrovmError {
        self.owned.why_gone()
    }

    /// Ends the machine at once, without waiting until the kernel has taken it apart.
    pub(crate) fn kill_in_background(&self) {
        self.owned.process.kill_in_background();
    }

    /// Switches a machine off that has a disk of its own, so that all is on it. What takes too long is
    /// left to the file system's journal.
    pub(crate) fn settle(&mut self, patience: Duration) {
        if !self.keeps {
            return;
        }
        let deadline = Instant::now() + patience;
        let Ok(stream) = self.connect() else { return };
        let options = SessionOptions {
            answer_timeout: patience,
            ..SessionOptions::default()
        };
        if Session::new(stream, options).power_off().is_ok() {
            self.owned.process.wait(deadline);
        }
    }

    /// The id of the VMM process.
    pub(crate) fn vmm_id(&self) -> i32 {
        self.owned.process.id()
    }
}

impl Owned {
    /// Tells the VMM what to run, and gives it our end of the connection that the agent will make, and
    /// of a pipe for the console if somebody reads one.
    fn begin(
        &mut self,
        config: Box<MachineConfig>,
        console: Option<BorrowedFd>,
    ) -> Result<UnixStream, MicrovmError> {
        let (stream, passed) = UnixStream::pair().map_err(MicrovmError::Sockets)?;
        let accept = Command::Accept { port: AGENT_PORT };
        let sent = self
            .control
            .send(&Command::Start { config }, None)
            .and_then(|()| self.control.send(&accept, Some(passed.as_fd())))
            .and_then(|()| match console {
                Some(pipe) => self.control.send(&Command::Console, Some(pipe)),
                None => Ok(()),
            });
        match sent {
            Ok(()) => Ok(stream),
            // A VMM that hangs up at once has a better reason than "broken pipe".
            Err(ControlError::Socket(_)) => Err(self.why_gone()),
            Err(error) => Err(error.into()),
        }
    }
}
