//! `sovereign attach`: staying with a command that a supervisor holds.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent_client::{Control, DetachKeys};
use agent_protocol::message::OutputStream;
use rustix::stdio::stdin;

use super::follow::{Follower, News};
use super::run::interrupted;
use crate::cli::args::{AttachArgs, GlobalArgs};
use crate::cli::conversation::prepare_terminal;
use crate::cli::report::say;
use crate::cli::signals::Signals;
use crate::cli::terminal;
use crate::detached::{Detached, DetachedError};
use crate::error::{ErrorKind, Problem};
use crate::registry::Registry;
use crate::registry::output::Piece;

/// How much is read of what is typed at once.
const TYPED: usize = 4096;

/// Stays with a command. Returns its exit code.
///
/// # Errors
///
/// If it cannot be stayed with.
pub(in crate::cli) fn attach(args: &AttachArgs, _global: GlobalArgs) -> Result<u8, Problem> {
    let sandbox = Detached::find(&Registry::open_default()?, &args.sandbox)?;
    let signals = Signals::install()?;
    stay(
        &sandbox,
        args.command,
        !args.no_stdin,
        &args.detach_keys.0,
        &signals,
    )
}

/// Where what is typed goes.
struct Typed<'a> {
    sandbox: &'a Detached,
    command: u32,
    keys: DetachKeys<'a>,
    input: Option<OwnedFd>,
}

/// Stays with a command: shows what it writes from now on, passes on what is typed, until it ends
/// or is left.
///
/// # Errors
///
/// If it cannot be stayed with.
pub(super) fn stay(
    sandbox: &Detached,
    command: u32,
    typed: bool,
    keys: &[u8],
    signals: &Signals,
) -> Result<u8, Problem> {
    let known = sandbox.commands()?;
    let Some(known) = known.into_iter().find(|known| known.command == command) else {
        let text = format!("the sandbox has no command {command}");
        return Err(Problem {
            hint: Some("`sovereign inspect` lists them; attaching needs a running one".to_owned()),
            ..Problem::new(ErrorKind::NoSuchCommand, text)
        });
    };
    let mut follower = Follower::new(sandbox, command)?;
    // What it wrote before is for `logs`.
    while let Some(piece) = follower.next_piece()? {
        if let Piece::Ended(report) = piece {
            return Ok(report.exit_code());
        }
    }
    let input = if typed && known.about.stdin {
        match sandbox.input(command) {
            Ok(input) => Some(input),
            // Its end was told before.
            Err(DetachedError::Refused(_)) => None,
            Err(error) => return Err(error.into()),
        }
    } else {
        None
    };
    let raw = if known.about.tty {
        let raw = prepare_terminal(input.is_some(), signals)?;
        redraw(sandbox, command)?;
        raw
    } else {
        None
    };
    let mut typed = Typed {
        sandbox,
        command,
        keys: DetachKeys::new(if known.about.tty { keys } else { &[] }),
        input,
    };
    let outcome = talk(&mut follower, &mut typed, signals);
    drop(raw);
    outcome
}

fn talk(follower: &mut Follower, typed: &mut Typed<'_>, signals: &Signals) -> Result<u8, Problem> {
    loop {
        let orders = signals.as_fd();
        let mut others: Vec<BorrowedFd<'_>> = vec![orders];
        others.extend(typed.input.as_ref().map(|_| stdin()));
        match follower.next(&others)? {
            News::Piece(piece) => {
                if let Some(code) = show(&piece)? {
                    return Ok(code);
                }
            }
            News::Gone => {
                let ending = typed.sandbox.wait(None)?;
                say(&format!(
                    "sovereign: the sandbox ended: {}\n",
                    ending.text()
                ));
                return Ok(ending.exit_code());
            }
            News::Other(0) => obey(typed, signals)?,
            News::Other(_) => {
                if typed.pass_on()? {
                    say(&format!("sovereign: command {} runs on\n", typed.command));
                    return Ok(0);
                }
            }
        }
    }
}

/// Shows something. Returns the exit code, if it is the end.
fn show(piece: &Piece) -> Result<Option<u8>, Problem> {
    match piece {
        Piece::Output { stream, data, .. } => {
            let written = match stream {
                OutputStream::Stdout => write_all(&mut io::stdout().lock(), data),
                OutputStream::Stderr => write_all(&mut io::stderr().lock(), data),
            };
            written.map_err(|error| Problem::of(ErrorKind::Output, &error))?;
            Ok(None)
        }
        Piece::Lost { .. } => {
            say("sovereign: it wrote faster than this was read, and some of it is lost\n");
            Ok(None)
        }
        Piece::Ended(report) => Ok(Some(report.exit_code())),
    }
}

fn write_all(to: &mut impl Write, data: &[u8]) -> io::Result<()> {
    to.write_all(data)?;
    to.flush()
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
            // It has just ended, which will be read.
            Ok(()) | Err(DetachedError::Refused(_) | DetachedError::NotRunning { .. }) => {}
            Err(error) => return Err(error.into()),
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
            Ok(()) | Err(DetachedError::Refused(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl Typed<'_> {
    /// Passes on what was typed. Returns whether it was what one types to leave.
    fn pass_on(&mut self) -> Result<bool, Problem> {
        let Some(input) = &self.input else {
            return Ok(false);
        };
        let mut space = vec![0; TYPED + self.keys.held_back()];
        let room = space.get_mut(..TYPED).unwrap_or_default();
        let count = match rustix::io::read(stdin(), room) {
            Ok(count) => count,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(false),
            // A terminal that hung up.
            Err(_) => 0,
        };
        if count == 0 {
            self.input = None;
            return match self.sandbox.close_input(self.command) {
                Ok(()) | Err(DetachedError::NotRunning { .. }) => Ok(false),
                Err(error) => Err(error.into()),
            };
        }
        let Some(count) = self.keys.filter(&mut space, count) else {
            return Ok(true);
        };
        let mut file = std::fs::File::from(input.try_clone()?);
        let data = space.get(..count).unwrap_or_default();
        if file.write_all(data).is_err() {
            // Nobody reads it any more.
            self.input = None;
        }
        Ok(false)
    }
}
