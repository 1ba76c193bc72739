//! What is done to sandboxes of the registry: `stop`, `kill`, `rm`, `wait`, `rename`.

use std::os::fd::AsFd;

use serde::Serialize;

use crate::cli::args::{GlobalArgs, KillArgs, RenameArgs, RmArgs, StopArgs, WaitArgs};
use crate::cli::report::{print, print_json, say, tell_person};
use crate::cli::signals::Signals;
use crate::detached::{Detached, DetachedError};
use crate::error::Problem;
use crate::registry::{Registry, RegistryError};

/// Ends sandboxes, gently.
///
/// # Errors
///
/// The last that one of them met.
pub(in crate::cli) fn stop(args: &StopArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let registry = Registry::open_default()?;
    // Side by side: each may take its time.
    std::thread::scope(|scope| {
        let stops: Vec<_> = args
            .sandboxes
            .iter()
            .map(|wanted| {
                let registry = &registry;
                scope.spawn(
                    move || match Detached::find(registry, wanted)?.stop(args.time) {
                        // What does not run need not be stopped.
                        Ok(_) | Err(DetachedError::NotRunning { .. }) => Ok(()),
                        Err(error) => Err(error),
                    },
                )
            })
            .collect();
        let mut stops = stops.into_iter();
        each(&args.sandboxes, |wanted| {
            let stop = stops.next().map(std::thread::ScopedJoinHandle::join);
            if let Some(Ok(outcome)) = stop {
                outcome?;
            }
            tell(wanted, global)
        })
    })
}

/// Ends sandboxes at once, or sends their command a signal.
///
/// # Errors
///
/// The last that one of them met.
pub(in crate::cli) fn kill(args: &KillArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let registry = Registry::open_default()?;
    each(&args.sandboxes, |wanted| {
        let sandbox = Detached::find(&registry, wanted)?;
        match args.signal {
            Some(number) => sandbox.signal(args.command, number)?,
            None => drop(sandbox.kill()?),
        }
        tell(wanted, global)
    })
}

/// Removes sandboxes.
///
/// # Errors
///
/// The last that one of them met.
pub(in crate::cli) fn rm(args: &RmArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let registry = Registry::open_default()?;
    each(&args.sandboxes, |wanted| {
        let removed = Detached::find(&registry, wanted).and_then(|it| it.remove(args.force));
        match removed {
            Err(DetachedError::Registry(RegistryError::NoSuchSandbox { .. })) if args.force => {
                Ok(())
            }
            outcome => {
                outcome?;
                tell(wanted, global)
            }
        }
    })
}

/// How a sandbox ended, as `wait --json` tells it.
#[derive(Debug, Serialize)]
struct Waited<'a> {
    sandbox: &'a str,
    exit_code: u8,
    ending: String,
}

/// Waits for sandboxes, and prints their exit codes.
///
/// # Errors
///
/// If one of them cannot be waited for.
pub(in crate::cli) fn wait(args: &WaitArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let signals = Signals::install()?;
    let registry = Registry::open_default()?;
    each(&args.sandboxes, |wanted| {
        let sandbox = Detached::find(&registry, wanted)?;
        let (exit_code, ending) = match args.command {
            Some(command) => {
                let report = sandbox
                    .wait_command(command, Some(signals.as_fd()))
                    .map_err(|error| super::run::interrupted(error.into()))?;
                (report.exit_code(), format!("command {command} ended"))
            }
            None => {
                let ending = sandbox
                    .wait(Some(signals.as_fd()))
                    .map_err(|error| super::run::interrupted(error.into()))?;
                (ending.exit_code(), ending.text())
            }
        };
        if global.json {
            let sandbox = wanted;
            return print_json(&Waited {
                sandbox,
                exit_code,
                ending,
            });
        }
        print(&format!("{exit_code}\n"))
    })
}

/// Gives a sandbox another name.
///
/// # Errors
///
/// If that cannot be.
pub(in crate::cli) fn rename(args: RenameArgs) -> Result<u8, Problem> {
    let sandbox = Detached::find(&Registry::open_default()?, &args.sandbox)?;
    sandbox.rename(args.name)?;
    Ok(0)
}

/// Does something to each, and goes on when one cannot have it. The last failure is returned, the
/// others are told.
pub(super) fn each<T>(
    sandboxes: &[T],
    mut act: impl FnMut(&T) -> Result<(), Problem>,
) -> Result<u8, Problem> {
    let mut last: Option<Problem> = None;
    for wanted in sandboxes {
        if let Err(failure) = act(wanted)
            && let Some(before) = last.replace(failure)
        {
            tell_person(&before);
        }
    }
    match last {
        Some(failure) => Err(failure),
        None => Ok(0),
    }
}

fn tell(wanted: &str, global: GlobalArgs) -> Result<(), Problem> {
    if global.quiet || global.json {
        return Ok(());
    }
    if global.verbose {
        say(&format!("sovereign: done with {wanted}\n"));
    }
    print(&format!("{wanted}\n"))
}
