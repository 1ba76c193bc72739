//! `sovereign attach`: staying with a command that a supervisor holds.

mod shown;
mod typed;

use std::os::fd::AsFd;

use agent_client::{Control, DetachKeys};
use agent_protocol::message::ExitReport;
use rustix::event::PollFlags;

use self::shown::Shown;
use self::typed::{Input, Typed, is_over};
use super::follow::{Follower, News};
use super::run::{Ran, interrupted};
use crate::cli::args::{AttachArgs, GlobalArgs};
use crate::cli::conversation::prepare_terminal;
use crate::cli::report::sandbox::of_sandbox;
use crate::cli::report::{print_json, say};
use crate::cli::signals::Signals;
use crate::cli::terminal;
use crate::detached::{Attached, Detached, DetachedError};
use crate::error::{ErrorKind, Problem};
use crate::registry::Registry;
use crate::registry::output::Piece;
use crate::registry::record::{Ending, Record};
use crate::supervisor::About;

/// Stays with a command. Returns its exit code.
///
/// # Errors
///
/// If it cannot be stayed with.
pub(in crate::cli) fn attach(args: &AttachArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let sandbox = Detached::find(&Registry::open_default()?, &args.sandbox)?;
    let signals = Signals::install()?;
    let staying = Staying {
        command: args.command,
        typed: !args.no_stdin,
        keys: &args.detach_keys.0,
        global,
    };
    stay(&sandbox, &staying, &signals)
}

/// How a command is stayed with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Staying<'a> {
    /// The command's number.
    pub(super) command: u32,
    /// Whether what is typed is passed on.
    pub(super) typed: bool,
    /// What is typed to leave it.
    pub(super) keys: &'a [u8],
    pub(super) global: GlobalArgs,
}

/// How a command was left.
enum Left {
    /// It ended.
    Ended(ExitReport),
    /// The sandbox ended under it.
    Gone(Ending),
    /// It runs on.
    Running,
}

/// A command that is to be stayed with.
struct Met {
    record: Record,
    about: About,
    /// What it writes, from where it is to be shown.
    follower: Follower,
    /// How it ended, if it has.
    ended: Option<ExitReport>,
}

/// Stays with a command: shows what it writes from now on, passes on what is typed, until it ends
/// or is left.
///
/// # Errors
///
/// If it cannot be stayed with.
fn stay(sandbox: &Detached, staying: &Staying<'_>, signals: &Signals) -> Result<u8, Problem> {
    let met = meet(sandbox, staying.command).map_err(|problem| of_sandbox(problem, sandbox))?;
    stay_with(met, sandbox, staying, signals)
}

/// The same with the own command of a sandbox that was just started: shows all that it writes, and
/// how it ended, however soon that was.
///
/// # Errors
///
/// If it cannot be stayed with.
pub(super) fn stay_from_start(
    started: Attached,
    about: About,
    staying: &Staying<'_>,
    signals: &Signals,
) -> Result<u8, Problem> {
    let sandbox = started.sandbox();
    let mut follower = Follower::new(sandbox, staying.command)?;
    follower.open()?;
    let met = Met {
        record: sandbox.entry().read()?,
        about,
        follower,
        ended: None,
    };
    // Until now its supervisor has not removed it, as it may have been told to.
    let sandbox = started.let_go();
    stay_with(met, &sandbox, staying, signals)
}

/// Finds a command that runs, and passes over what it wrote before: that is for `logs`.
fn meet(sandbox: &Detached, command: u32) -> Result<Met, Problem> {
    let record = sandbox.entry().read()?;
    let known = sandbox.commands()?;
    let Some(known) = known.into_iter().find(|known| known.command == command) else {
        let text = format!("the sandbox has no command {command}");
        return Err(Problem {
            hint: Some("`sovereign inspect` lists them; attaching needs a running one".to_owned()),
            ..Problem::new(ErrorKind::NoSuchCommand, text)
        });
    };
    let mut follower = Follower::new(sandbox, command)?;
    let mut ended = None;
    while let Some(piece) = follower.next_piece()? {
        if let Piece::Ended(report) = piece {
            ended = Some(report);
        }
    }
    Ok(Met {
        record,
        about: known.about,
        follower,
        ended,
    })
}

fn stay_with(
    met: Met,
    sandbox: &Detached,
    staying: &Staying<'_>,
    signals: &Signals,
) -> Result<u8, Problem> {
    let Record {
        id,
        name,
        place,
        plan,
        ..
    } = met.record.clone();
    let mut shown = match staying.global.json {
        true => Shown::Collected {
            output: [Vec::new(), Vec::new()],
            is_cut: false,
        },
        false => Shown::Live,
    };
    let left = follow(met, sandbox, staying, signals, &mut shown)
        .map_err(|problem| problem.in_tier(place.as_ref().map(|place| place.tier)))?;
    if matches!(left, Left::Ended(_)) && staying.command == 0 && plan.command.is_some() {
        // The sandbox ends with it, and as after `run` it has when this program ends. It may be removed
        // by then, or somebody does not want to wait: that changes nothing of what is to be told.
        let _ = sandbox.wait(Some(signals.as_fd()));
    }
    match (left, shown) {
        (Left::Ended(report), Shown::Live) => Ok(report.exit_code()),
        (Left::Ended(report), Shown::Collected { output, is_cut }) => {
            let [stdout, stderr] = output;
            let ran = Ran {
                report: ExitReport {
                    truncated: report.truncated || is_cut,
                    ..report
                },
                place,
                stdout,
                stderr,
                sandbox: Some((id, name)),
            };
            print_json(&ran.told()).map(|()| ran.report.exit_code())
        }
        (Left::Gone(ending), shown) => {
            let text = format!("the sandbox ended: {}", ending.text());
            if let Shown::Collected { .. } = shown {
                return Err(Problem {
                    exit_code: ending.exit_code(),
                    tier: place.map(|place| place.tier),
                    ..Problem::new(ErrorKind::SandboxEnded, text)
                });
            }
            say(&format!("sovereign: {text}\n"));
            Ok(ending.exit_code())
        }
        (Left::Running, _) => {
            say(&format!("sovereign: command {} runs on\n", staying.command));
            Ok(0)
        }
    }
}

fn follow(
    met: Met,
    sandbox: &Detached,
    staying: &Staying<'_>,
    signals: &Signals,
    shown: &mut Shown,
) -> Result<Left, Problem> {
    let command = staying.command;
    let Met {
        about,
        mut follower,
        ended,
        ..
    } = met;
    if let Some(report) = ended {
        return Ok(Left::Ended(report));
    }
    let input = if staying.typed && about.stdin {
        match sandbox.input(command) {
            Ok(pipe) => Input::new(&pipe)?,
            // Its end was told before, or it has ended.
            Err(error) if is_over(&error) => None,
            Err(error) => return Err(error.into()),
        }
    } else {
        None
    };
    let raw = if about.tty {
        let raw = prepare_terminal(input.is_some(), signals)?;
        redraw(sandbox, command)?;
        raw
    } else {
        None
    };
    let mut typed = Typed {
        sandbox,
        command,
        keys: DetachKeys::new(if about.tty { staying.keys } else { &[] }),
        input,
    };
    let left = talk(&mut follower, &mut typed, signals, shown);
    // What is said from here on is for a terminal as it was.
    drop(raw);
    left
}

fn talk(
    follower: &mut Follower,
    typed: &mut Typed<'_>,
    signals: &Signals,
    shown: &mut Shown,
) -> Result<Left, Problem> {
    loop {
        let mut others = vec![(signals.as_fd(), PollFlags::IN)];
        others.extend(typed.input.as_ref().map(Input::waits_for));
        match follower.next(&others)? {
            News::Piece(piece) => {
                if let Some(report) = shown.take(piece)? {
                    return Ok(Left::Ended(report));
                }
            }
            News::Gone => return Ok(Left::Gone(typed.sandbox.wait(None)?)),
            News::Other(0) => obey(typed, signals)?,
            News::Other(_) => {
                if typed.go_on()? {
                    return Ok(Left::Running);
                }
            }
        }
    }
}

/// Passes signals and sizes on.
fn obey(typed: &Typed<'_>, signals: &Signals) -> Result<(), Problem> {
    let next = || signals.orders().take();
    while let Some(order) = next()? {
        let outcome = match order {
            Control::Signal(number) => typed.sandbox.signal(Some(typed.command), number),
            Control::Resize(size) => typed.sandbox.resize(typed.command, size),
            // The same signal twice within a second.
            Control::Cancel => return Err(interrupted(DetachedError::Interrupted.into())),
        };
        match outcome {
            Err(error) if !is_over(&error) => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// A program that fills the screen draws it again when its size changes.
fn redraw(sandbox: &Detached, command: u32) -> Result<(), Problem> {
    let size = terminal::size();
    let mut other = size;
    other.rows = other.rows.saturating_sub(1).max(1);
    for size in [other, size] {
        match sandbox.resize(command, size) {
            Err(error) if !is_over(&error) => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}
