//! The process that holds a sandbox which outlives the program that started it.
//!
//! ```text
//!  sovereign run -d            supervisor                     sandbox
//!    entry in the registry
//!    spawn ──────────────────▶ takes the entry's lock
//!                              Engine::start ───────────────▶ agent
//!    ◀───────────────── Running
//!    detach ─────────────────▶ opens the door
//!  sovereign exec
//!    Connect ────────────────▶ Sandbox::connect
//!    ◀──────────── a stream ═══════════════════════════════▶ agent
//! ```
//!
//! It passes streams on and does not stand in them: what `exec` moves does not go through here. Only
//! commands that nobody is attached to are held here, by `commands`.

mod clients;
mod commands;
mod console;
pub(crate) mod door;
pub(crate) mod launch;
pub(crate) mod message;
pub(crate) mod remembered;
mod serve;

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use agent_client::ClientError;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, setsid};
use sandbox_image::progress::{self, Progress};

use self::commands::Commands;
use self::console::Console;
use self::door::Door;
pub use self::launch::{LaunchError, OwnCommand};
pub use self::message::{About, Command};
use self::message::{Outcome, send};
use self::serve::Supervisor;
use crate::engine::{Engine, StartError};
use crate::error::{ErrorKind, Problem, elsewhere};
use crate::launch::Launch;
use crate::registry::events::{Event, Happening};
use crate::registry::record::{Record, Status, Timestamp};
use crate::registry::{Held, Id, Registry};
use crate::sandbox::{ExecError, Sandbox};
use crate::tier::Isolation;
use crate::tier::choose::ChooseError;
use crate::tier::docker::kept;
use crate::timeline::Timeline;

/// A start that failed.
struct Failure {
    problem: Problem,
    consent: Option<Isolation>,
}

/// Supervises a sandbox of the registry at `root`, for whoever has the other end of `owner`.
/// Returns when the sandbox has ended, or did not start, which the owner has been told.
///
/// # Errors
///
/// If nobody could be told.
pub fn run(root: &Path, id: &Id, own: OwnCommand, owner: OwnedFd) -> io::Result<()> {
    // Neither the terminal's signals nor its end are for us.
    let _ = setsid();
    let registry = Registry::open(root);
    let held = registry
        .find(id.as_str())
        .and_then(|entry| entry.hold())
        .and_then(|held| Ok((held.entry().read()?, held)));
    let (mut record, held) = match held {
        Ok(found) => found,
        Err(error) => {
            return tell(&owner, &Failure::from(error.problem()));
        }
    };
    match start(&mut record, &held, own, &owner) {
        Ok(begun) => {
            allow_many_descriptors();
            note(&held, &record, Happening::Started);
            // One who is gone is seen to be: then the sandbox ends in order.
            let _ = send(&owner, &Outcome::Running, None);
            Supervisor::new(held, record, begun, owner).serve();
            Ok(())
        }
        Err(failure) => {
            record.status = Status::Failed {
                at: Timestamp::now(),
                problem: failure.problem.clone(),
            };
            note(&held, &record, Happening::StartFailed);
            // What the owner is told is more than what the record would say.
            let _ = held.write(&record);
            // One that lacks consent is started again with it, or removed by whoever asks for it.
            if record.plan.remove && failure.consent.is_none() {
                note(&held, &record, Happening::Removed);
                forget_and_remove(held);
            } else {
                drop(held);
            }
            tell(&owner, &failure)
        }
    }
}

/// A sandbox that has started, and what its supervisor has for it.
struct Begun {
    sandbox: Sandbox,
    commands: Commands,
    door: Door,
    console: Console,
}

fn start(
    record: &mut Record,
    held: &Held,
    own: OwnCommand,
    owner: &OwnedFd,
) -> Result<Begun, Failure> {
    let failed = |error: io::Error| cannot_hold(held, &error);
    let mut console = Console::new(held.entry().console_path()).map_err(failed)?;
    let policy = record.policy();
    let held_command = record.plan.command.as_ref();
    let held_command = held_command.filter(|_| own == OwnCommand::Held);
    let folder = held.entry().folder();
    let launch = Launch {
        keep: Some(&folder),
        request: held_command,
        cancel: Some(owner.as_fd()),
        console: console.end(),
        progress: &Waiting(owner.as_fd()),
        ..Launch::new(&record.plan.spec)
    };
    let (mut sandbox, exec) = Engine::new().start(&policy, launch, &mut Timeline::default())?;
    console.let_go();
    // One that the client runs was not asked for here, and is refused in the start all the same.
    let command = record.plan.command.as_ref();
    if let Some(refusal) = command.and_then(|it| sandbox.choice().tier.refuses(it)) {
        return Err(ExecError::from(refusal).into());
    }
    let mut commands = Commands::new(held.entry().clone()).map_err(failed)?;
    if let Some(request) = held_command {
        let exec = match exec {
            Some(exec) => exec,
            None => sandbox.exec(request.clone())?,
        };
        let runs = exec.wait_until_runs();
        let exec = runs.map_err(|error| sandbox.explained(error))?;
        commands
            .take_own(exec, About::of(request))
            .map_err(failed)?;
    }
    let door = Door::open(held.entry()).map_err(failed)?;
    record.place = Some(sandbox.choice().into());
    record.status = Status::Running {
        since: Timestamp::now(),
        supervisor: std::process::id(),
        process: sandbox.process_id(),
    };
    held.write(record).map_err(|error| error.problem())?;
    held.make_room_for_the_end(record);
    Ok(Begun {
        sandbox,
        commands,
        door,
        console,
    })
}

/// What a supervisor needs for itself, and cannot have.
fn cannot_hold(held: &Held, error: &io::Error) -> Problem {
    let folder = held.entry().folder();
    Problem {
        hint: Some(elsewhere("SOVEREIGN_STATE_DIR")),
        ..Problem::new(
            ErrorKind::System,
            format!("cannot hold the sandbox in {}: {error}", folder.display()),
        )
    }
}

/// The one who waits for a start, and would take it for hung while something takes its own time.
#[derive(Debug)]
struct Waiting<'a>(BorrowedFd<'a>);

impl Progress for Waiting<'_> {
    fn report(&self, event: &progress::Event<'_>) {
        let outcome = match event {
            progress::Event::Started { .. } => Outcome::Preparing,
            progress::Event::Finished { .. } => Outcome::Prepared,
            progress::Event::Advanced { .. } | progress::Event::Log { .. } => return,
        };
        // That nobody waits any more ends the start by other means.
        let _ = send(self.0, &outcome, None);
    }
}

fn tell(owner: &OwnedFd, failure: &Failure) -> io::Result<()> {
    let outcome = Outcome::Failed {
        problem: failure.problem.clone(),
        consent: failure.consent,
    };
    send(owner, &outcome, None)
}

fn note(held: &Held, record: &Record, happening: Happening) {
    let event = Event::now(happening, &record.id, &record.name);
    held.entry().registry().note(&event);
}

/// Lets this process have as many descriptors as it may: each client takes one, each command more. What runs
/// in the sandbox has been started with the limits of whoever started it, and keeps them.
fn allow_many_descriptors() {
    let limit = Rlimit {
        current: getrlimit(Resource::Nofile).maximum,
        ..getrlimit(Resource::Nofile)
    };
    // Without it, fewer clients come in at a time.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Removes a sandbox that nobody wants any more. What cannot be removed stays, for `rm` and `prune`.
fn forget_and_remove(held: Held) {
    if kept::forget(&held.entry().folder()).is_ok() {
        let _ = held.remove();
    }
}

/// Removes what only a supervisor that lives has.
fn close(held: &Held) {
    // The next start makes a new one in its place.
    let _ = fs::remove_file(held.entry().door_path());
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self {
            problem,
            consent: None,
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let consent = match &error {
            StartError::Choose(ChooseError::ConsentNeeded { isolation, .. }) => Some(*isolation),
            _ => None,
        };
        Self {
            problem: Problem::from(&error),
            consent,
        }
    }
}

impl From<ExecError> for Failure {
    fn from(error: ExecError) -> Self {
        Problem::from(&error).into()
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        ExecError::from(error).into()
    }
}
