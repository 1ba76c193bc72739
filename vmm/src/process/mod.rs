//! The `sovereign-vmm` process: one machine, commanded over the socket that it is started with.
//!
//! ```text
//!   take the socket ─▶ Start ─▶ build ─▶ give up privileges ─▶ threads, each with its filter
//!     ─▶ commands sent behind Start ─▶ filter of this thread ─▶ Started ─▶ guest runs ─▶ Stopped
//! ```
//!
//! The process ends when its machine does or when its owner's end of the socket closes, whichever is
//! first.

mod channel;
mod controller;

use std::error::Error;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::MachineConfig;
use crate::confine::{self, ConfineError, Filters, PathSockets, Strength};
use crate::control::{Command, Event};
use crate::machine::{Machine, MachineError, ThreadRole, Trace};
use channel::{Channel, ChannelError, Received};
use controller::{Controller, Ending};

/// Exit status when the process was not started as its owner should.
const BAD_USE: u8 = 2;

/// How much of the console goes with [`Event::Stopped`].
const CONSOLE_TAIL: usize = 16 * 1024;

/// The machine cannot be had, or was lost.
#[derive(Debug, thiserror::Error)]
enum ProcessError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the first command was not to start a machine")]
    NotStarted,
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("confining the VMM")]
    Confine(#[from] ConfineError),
    #[error("listening to the owner")]
    Subscribe(#[source] event_manager::Error),
}

/// The process's whole life.
#[must_use]
pub fn main() -> ExitCode {
    let mut channel = match Channel::inherited() {
        Ok(channel) => channel,
        Err(error) => {
            eprintln!(
                "sovereign-vmm: {error}\nThis program runs one virtual machine for `sovereign`, \
                 which starts it and talks to it over descriptor 3. Run `sovereign run` instead."
            );
            return ExitCode::from(BAD_USE);
        }
    };
    let mut trace = Trace::default();
    trace.mark("vmm-started");
    let config = match first_command(&mut channel) {
        Ok(Some(config)) => config,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => return fail(&channel, &error),
    };
    trace.mark("config-received");
    match prepare(&config, &mut trace) {
        Ok(prepared) => run(prepared, channel, trace),
        Err(error) => fail(&channel, &error),
    }
}

/// Waits for the configuration; `None` if the owner has gone.
fn first_command(channel: &mut Channel) -> Result<Option<MachineConfig>, ProcessError> {
    match channel.receive()? {
        Received::Command(Command::Start { config }, _) => Ok(Some(*config)),
        Received::Command(..) | Received::Nothing => Err(ProcessError::NotStarted),
        Received::Closed => Ok(None),
    }
}

/// A machine whose threads stand ready, and this thread's filter.
struct Prepared {
    running: crate::machine::Running,
    filters: Filters,
}

/// Builds the machine and confines everything but this thread's system calls.
fn prepare(config: &MachineConfig, trace: &mut Trace) -> Result<Prepared, ProcessError> {
    let machine = Machine::build(config, trace)?;
    let socket_path = config
        .vsock
        .as_ref()
        .and_then(|vsock| vsock.uds_path.as_deref());
    let sockets = if socket_path.is_some() {
        PathSockets::Yes
    } else {
        PathSockets::No
    };
    let mut roles = vec![ThreadRole::Vcpu, ThreadRole::Io];
    if !config.disks.is_empty() {
        roles.push(ThreadRole::Disk);
    }
    let filters = Filters::compile(&roles, sockets).map_err(ConfineError::from)?;
    let strength = confine::confine_process(socket_path)?;
    trace.mark(match strength {
        Strength::Full => "confined",
        Strength::NoLandlock => "confined-without-landlock",
    });
    let running = machine.start({
        let filters = filters.clone();
        move |role| filters.enter(role)
    })?;
    trace.mark("threads-started");
    Ok(Prepared { running, filters })
}

/// Runs the guest to its end, and tells the owner.
fn run(prepared: Prepared, channel: Channel, trace: Trace) -> ExitCode {
    let Prepared {
        mut running,
        filters,
    } = prepared;
    let controller = Arc::new(Mutex::new(Controller::new(channel, running.handle())));
    let lock = || controller.lock().unwrap_or_else(PoisonError::into_inner);
    // Streams that the guest will ask for have been sent right behind the configuration.
    lock().take_commands();
    if let Err(error) = Controller::subscribe(&controller, running.events()) {
        return fail(&lock().channel, &ProcessError::Subscribe(error));
    }
    filters.enter(ThreadRole::Io);
    let _ = lock().channel.send(&Event::Started {
        trace: trace.into_points(),
    });
    let outcome = running.wait();
    running.handle().finish_console();
    let mut controller = lock();
    match (controller.ending.take(), outcome) {
        (Some(Ending::OwnerGone), _) => ExitCode::SUCCESS,
        (Some(Ending::Broken(error)), _) => fail(&controller.channel, &error.into()),
        (None, Err(error)) => fail(&controller.channel, &error.into()),
        (None, Ok(reason)) => {
            let console = printable(&running.handle().console_tail(CONSOLE_TAIL));
            let _ = controller.channel.send(&Event::Stopped { reason, console });
            ExitCode::SUCCESS
        }
    }
}

/// Tells the owner why there is no machine.
fn fail(channel: &Channel, error: &ProcessError) -> ExitCode {
    let hint = match error {
        ProcessError::Machine(error) => error.hint(),
        _ => None,
    };
    // An owner that has gone does not need to know.
    let _ = channel.send(&Event::Failed {
        message: chain(error),
        hint,
    });
    ExitCode::FAILURE
}

/// An error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// What the guest wrote, without what would command a terminal.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .filter(|c| *c != '\r')
        .map(|c| {
            if c.is_control() && c != '\n' && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{MAX_MESSAGE, StopReason};

    #[test]
    fn console_cannot_command_a_terminal() {
        assert_eq!(
            printable(b"ok\r\n\x1b[2J\xff\ttab\0"),
            "ok\n\u{fffd}[2J\u{fffd}\ttab\u{fffd}"
        );
    }

    #[test]
    fn worst_console_fits_into_a_message() {
        for worst in [b'\x1b', b'"', b'\n', 0xff, b'a'] {
            let console = printable(&vec![worst; CONSOLE_TAIL]);
            let event = Event::Stopped {
                reason: StopReason::PowerOff,
                console,
            };
            assert!(serde_json::to_vec(&event).unwrap().len() <= MAX_MESSAGE);
        }
    }

    #[test]
    fn failure_is_one_line_with_its_causes() {
        let error = ProcessError::Machine(MachineError::Kvm(crate::kvm::KvmError::Denied));
        assert_eq!(
            chain(&error),
            "using KVM: /dev/kvm may not be opened by this user"
        );
    }
}
