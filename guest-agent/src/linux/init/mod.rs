//! The guest's first process, from kernel entry to serving.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use agent_protocol::boot::{BootError, BootParameters};
use agent_protocol::message::{Hello, TracePoint};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::linux::listen::Listener;
use crate::linux::reason::reason;
use crate::linux::serve::{Origin, Server};
use crate::linux::session::Agent;
use crate::linux::sys;

mod modules;
mod mounts;
mod power;

/// The clock may be this far behind the host's message before it is set.
const TOLERANCE: Duration = Duration::from_millis(5);
/// The clock is only set back if it is this far ahead: the message may have waited for the boot.
const FAR_AHEAD: Duration = Duration::from_secs(3600);
/// Soft and hard limit of open files, as on common distributions.
const OPEN_FILES: (u64, u64) = (1024, 1024 * 1024);

/// Sets the guest up and serves. When that ends, for whatever reason, so does the machine.
pub(crate) fn run() -> ExitCode {
    match boot() {
        Ok(()) => power::off(),
        Err(error) => {
            eprintln!("sovereign-agent: {error}");
            power::reset()
        }
    }
}

/// Why a guest cannot be set up. One line for its console.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    /// Something could not be mounted.
    #[error("mounting {what}: {reason}")]
    Mount {
        /// Source, type and place.
        what: String,
        /// The system's reason.
        reason: String,
    },
    /// The kernel command line makes no sense.
    #[error(transparent)]
    Parameters(#[from] BootError),
    /// A module could not be loaded.
    #[error("loading kernel module {name}: {reason}")]
    Module {
        /// Its file.
        name: String,
        /// The system's reason.
        reason: String,
    },
    /// Anything else.
    #[error("{doing}: {reason}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// The system's reason.
        reason: String,
    },
}

impl InitError {
    fn system(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::System {
            doing,
            reason: reason(error),
        }
    }
}

fn boot() -> Result<(), InitError> {
    let mut trace = Trace(Vec::new());
    trace.note("agent started");
    let parameters = mounts::early()?;
    if let Some(directory) = &parameters.modules {
        modules::load(directory)?;
        trace.note("modules loaded");
    }
    // The host may connect from here on; it is answered when all is ready.
    let listener = Listener::vsock().map_err(InitError::system("listening on vsock"))?;
    mounts::root(&parameters)?;
    trace.note("root mounted");
    mounts::late(&parameters);
    // The kernel's log is root's. Kernels that have none keep it from nobody.
    let _ = std::fs::write("/proc/sys/kernel/dmesg_restrict", "1");
    name_host(&parameters)?;
    raise_limits();
    // A set-id bit gives a command nothing, whoever puts it on a file.
    rustix::thread::set_no_new_privs(true)
        .map_err(|error| InitError::system("giving up new privileges")(error.into()))?;
    bring_loopback_up()?;
    trace.note("set up");
    let trace = if parameters.trace {
        trace.0
    } else {
        Vec::new()
    };
    let agent = Agent {
        is_init: true,
        trace,
        lanes: parameters.lanes,
        ..Agent::default()
    };
    let mut server =
        Server::new(listener, agent).map_err(InitError::system("starting to serve"))?;
    if parameters.ready_port != 0 {
        server.start_session(Origin::HostPort(parameters.ready_port));
    }
    server.run().map_err(InitError::system("serving"))
}

fn name_host(parameters: &BootParameters) -> Result<(), InitError> {
    let name = parameters.hostname.as_deref().unwrap_or("sandbox");
    rustix::system::sethostname(name.as_bytes())
        .map_err(|error| InitError::system("setting the host name")(error.into()))
}

/// The kernel starts init with limits of another age.
fn raise_limits() {
    let (soft, hard) = OPEN_FILES;
    let limit = Rlimit {
        current: Some(soft),
        maximum: Some(hard),
    };
    // Where the kernel's own ceiling is lower, its limit stays.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// A kernel without IPv4 has no loopback to bring up.
fn bring_loopback_up() -> Result<(), InitError> {
    let failed = InitError::system("bringing the loopback interface up");
    match rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None) {
        Ok(socket) => sys::loopback_up(std::os::fd::AsFd::as_fd(&socket)).map_err(failed),
        Err(rustix::io::Errno::AFNOSUPPORT) => Ok(()),
        Err(error) => Err(failed(error.into())),
    }
}

/// Takes clock and randomness from the host's greeting. A guest whose kernel refuses either runs on
/// with its own; a later session tries again.
pub(crate) fn greet(hello: &Hello) {
    if let Some(time) = hello.realtime_ns.and_then(|host| corrected(host, now_ns())) {
        let _ = clock_settime(ClockId::Realtime, time);
    }
    if let Some(entropy) = &hello.entropy
        && let Ok(random) = rustix::fs::open(
            "/dev/urandom",
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
    {
        let _ = sys::add_entropy(std::os::fd::AsFd::as_fd(&random), entropy);
    }
}

/// What to set the clock to, if it has to be set. The host's time was taken when it wrote its
/// message, so it is the least that it can be now.
fn corrected(host_ns: u64, guest_ns: u64) -> Option<Timespec> {
    let behind = Duration::from_nanos(host_ns.saturating_sub(guest_ns));
    let ahead = Duration::from_nanos(guest_ns.saturating_sub(host_ns));
    let time = Duration::from_nanos(host_ns);
    (behind > TOLERANCE || ahead > FAR_AHEAD)
        .then(|| Timespec::try_from(time).ok())
        .flatten()
}

fn now_ns() -> u64 {
    to_ns(clock_gettime(ClockId::Realtime))
}

fn to_ns(time: Timespec) -> u64 {
    Duration::try_from(time)
        .ok()
        .and_then(|time| u64::try_from(time.as_nanos()).ok())
        .unwrap_or_default()
}

/// The moments of the start.
struct Trace(Vec<TracePoint>);

impl Trace {
    fn note(&mut self, name: &str) {
        let boottime_ns = to_ns(clock_gettime(ClockId::Boottime));
        self.0.push(TracePoint {
            name: name.to_owned(),
            boottime_ns,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000_000_000;

    fn set_to(host_ns: u64, guest_ns: u64) -> Option<u64> {
        corrected(host_ns, guest_ns).map(to_ns)
    }

    #[test]
    fn clock_that_is_behind_is_set() {
        assert_eq!(set_to(NOW, 0), Some(NOW));
        assert_eq!(set_to(NOW, NOW - 6_000_000), Some(NOW));
    }

    #[test]
    fn clock_that_is_right_or_a_boot_ahead_stays() {
        assert_eq!(set_to(NOW, NOW - 1_000_000), None);
        assert_eq!(set_to(NOW, NOW + 45_000_000), None);
        assert_eq!(set_to(NOW, NOW + 20_000_000_000), None);
    }

    #[test]
    fn clock_that_is_far_ahead_is_set_back() {
        assert_eq!(set_to(NOW, NOW + 7_200_000_000_000), Some(NOW));
    }
}
