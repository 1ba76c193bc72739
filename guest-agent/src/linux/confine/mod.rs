//! The local tier: an agent that is a process of the host, and isolates itself before it serves.
//!
//! ```text
//!  host's process ──spawn──▶ outside                      inside: first process of its namespace
//!                              │──clone, new namespaces──▶   waits
//!                              │  maps users ────────────▶   root of its own, limits, no privileges,
//!                              │                             Landlock, system call filter
//!                              │◀─── nothing, or why not ─   serves the control socket
//!                              waits for its end
//! ```
//!
//! When something of it cannot be had, the inside ends, and the outside serves plainly: the host is
//! told which of the two it talks to before it sends a command. When the host closes the control
//! socket, by whatever end it comes to, everything here ends at once: inside, because the first
//! process of a namespace takes all others along, plainly, because every session kills its tree.

pub(crate) mod control;
mod etc;
pub(crate) mod filter;
mod kept;
mod landlock;
mod modules;
mod mount_attributes;
mod namespaces;
mod plain;
pub(crate) mod privileges;
mod root;
mod users;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{self, ExitCode};

use agent_protocol::local::{ConfineStep, MAX_MESSAGE, Setup, Shortfall, Standing, decode, encode};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use self::control::Control;
use self::kept::Kept;
use self::modules::Modules;
use self::namespaces::Side;
use self::plain::PlainHome;
use self::users::Inner;
use crate::linux::listen::Listener;
use crate::linux::reason::reason;
use crate::linux::serve::Server;
use crate::linux::session::{Agent, Defaults};
use crate::linux::sys;

/// Serves the control socket that is this descriptor.
pub(crate) fn serve(number: i32) -> ExitCode {
    let result = sys::inherited(number)
        .map_err(|error| format!("descriptor {number}: {}", reason(error)))
        .and_then(|socket| begin(Control::new(socket)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("sovereign-agent: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn begin(control: Control) -> Result<(), String> {
    sys::reset_ignored_signals();
    let Some(setup) = control.receive_setup().map_err(reason)? else {
        return Ok(());
    };
    // Inside, its folders may be closed.
    let given = Given {
        modules: setup.modules.as_deref().and_then(Modules::open),
        kept: setup.keep.as_deref().map(Kept::open),
    };
    match confine(&setup, &given) {
        Ok(Place::Inside(reached)) => {
            drop(given);
            serve_inside(control, reached)
        }
        Ok(Place::Outside(inside)) => {
            // The host shall see the end of the socket when the inside ends.
            drop(control);
            let _ = waitpid(Some(inside), WaitOptions::empty());
            Ok(())
        }
        Err(shortfall) => serve_plainly(control, shortfall, setup.modules, given.kept),
    }
}

/// What the host has given, opened before there is an inside.
struct Given {
    /// Python modules.
    modules: Option<Modules>,
    /// Where what is written is kept.
    kept: Option<Kept>,
}

/// Where this process finds itself after [`confine`].
enum Place {
    /// It is the confined one.
    Inside(Reached),
    /// It is the one that was started; this is the other.
    Outside(Pid),
}

/// What the confined one has.
struct Reached {
    /// Whether Landlock is in force.
    landlock: bool,
    /// Whether there are the Python modules that the host has given.
    modules: bool,
}

/// Makes a confined copy of this process.
fn confine(setup: &Setup, given: &Given) -> Result<Place, Shortfall> {
    let failed = |errno: Errno| shortfall(ConfineStep::Namespaces, "", errno);
    let (ours, theirs) = UnixStream::pair().map_err(|error| failed(errno_of(&error)))?;
    match namespaces::enter().map_err(|error| failed(errno_of(&error)))? {
        Side::Inside => {
            drop(ours);
            match isolate(setup, given, &theirs) {
                Ok(reached) => Ok(Place::Inside(reached)),
                Err(shortfall) => {
                    // Nobody to tell: then nobody serves either.
                    let _ = (&theirs).write_all(&encode(&shortfall));
                    process::exit(0);
                }
            }
        }
        Side::Outside(inside) => {
            drop(theirs);
            match let_in(inside, &ours, given.kept.as_ref()) {
                Ok(()) => Ok(Place::Outside(inside)),
                Err(shortfall) => {
                    let _ = kill_process(inside, Signal::KILL);
                    let _ = waitpid(Some(inside), WaitOptions::empty());
                    Err(shortfall)
                }
            }
        }
    }
}

/// Maps the inside's users, and waits for what becomes of it.
fn let_in(inside: Pid, ours: &UnixStream, kept: Option<&Kept>) -> Result<(), Shortfall> {
    let inner = users::map(inside, kept)?;
    let failed = |error: std::io::Error| shortfall(ConfineStep::Namespaces, "", errno_of(&error));
    (&*ours).write_all(&[inner.code()]).map_err(failed)?;
    let mut said = Vec::new();
    let limit = u64::try_from(MAX_MESSAGE).unwrap_or_default();
    ours.take(limit).read_to_end(&mut said).map_err(failed)?;
    match decode(&said) {
        Ok(shortfall) => Err(shortfall),
        // It has said nothing, as one does that serves; or is dead, which the host sees.
        Err(_) => Ok(()),
    }
}

/// The inside: from the namespaces that it finds itself in to where a command may run.
fn isolate(setup: &Setup, given: &Given, outside: &UnixStream) -> Result<Reached, Shortfall> {
    privileges::end_with_parent();
    let mut code = [0];
    let inner = (&*outside)
        .read_exact(&mut code)
        .ok()
        .and_then(|()| Inner::from_code(code))
        .ok_or_else(|| shortfall(ConfineStep::Users, "", Errno::PIPE))?;
    users::become_inner(inner)?;
    let modules = root::enter(setup, given, inner)?;
    namespaces::furnish(&setup.hostname)?;
    privileges::limit(inner, setup.processes)?;
    let landlock = landlock::restrict()?;
    filter::apply()?;
    privileges::hide();
    Ok(Reached { landlock, modules })
}

fn serve_inside(control: Control, reached: Reached) -> Result<(), String> {
    let Reached { landlock, modules } = reached;
    control
        .send(&Standing::Confined { landlock })
        .map_err(reason)?;
    let agent = Agent {
        defaults: Defaults {
            modules: modules.then(|| root::MODULES.as_bytes().to_vec()),
            ..Defaults::default()
        },
        ..Agent::default()
    };
    Server::new(Listener::Control(control.into()), agent)
        .and_then(Server::run_until_closed)
        .map_err(reason)
    // The end of this process is the end of all that are in its namespace.
}

fn serve_plainly(
    control: Control,
    shortfall: Shortfall,
    modules: Option<Vec<u8>>,
    kept: Option<Kept>,
) -> Result<(), String> {
    let home = match kept {
        Some(kept) => PlainHome::kept(&kept),
        None => PlainHome::new(),
    };
    let home = home.map_err(reason)?;
    privileges::never_gain().map_err(reason)?;
    control.send(&Standing::Plain(shortfall)).map_err(reason)?;
    let agent = Agent {
        defaults: Defaults {
            modules,
            user: plain::user(),
            home: Some(home.path().to_owned()),
        },
        ..Agent::default()
    };
    Server::new(Listener::Control(control.into()), agent)
        .and_then(Server::run)
        .map_err(reason)
}

fn shortfall(step: ConfineStep, about: &str, errno: Errno) -> Shortfall {
    Shortfall {
        step,
        about: about.to_owned(),
        errno: errno.raw_os_error(),
    }
}

/// The error's number; "input/output error" for one without.
fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
