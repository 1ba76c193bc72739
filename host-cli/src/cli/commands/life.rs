//! What is done to sandboxes of the registry: `stop`, `kill`, `rm`, `wait`, `rename`.

use sandbox_image::progress::Outcome;
use serde::Serialize;

use crate::cli::args::{GlobalArgs, KillArgs, RenameArgs, RmArgs, StopArgs, WaitArgs};
use crate::cli::json::{Ended, Identity, Removed, Told};
use crate::cli::report::sandbox::of_named;
use crate::cli::report::{print, print_json, say, tell_person};
use crate::cli::waiting::Waiting;
use crate::detached::{Detached, DetachedError};
use crate::error::{ErrorKind, Problem};
use crate::registry::record::Ending;
use crate::registry::{Registry, RegistryError};
use crate::tier::facts::Unavailable;

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
                scope.spawn(move || Detached::find(registry, wanted)?.stop(args.time))
            })
            .collect();
        let mut stops = stops.into_iter();
        each_told(
            &args.sandboxes,
            global,
            |wanted| match stops.next().map(|stop| {
                let waiting = Waiting::late(global, &format!("stopping {wanted}"));
                let stopped = stop.join();
                waiting.end(Outcome::Done);
                stopped
            }) {
                Some(Ok(Ok(ending))) => Ok(Ended::of(&ending)),
                // What does not run need not be stopped.
                Some(Ok(Err(DetachedError::NotRunning { .. }))) | None => Ok(Ended::NOT),
                Some(Ok(Err(error))) => Err(error.into()),
                Some(Err(_)) => Err(Problem::new(
                    ErrorKind::Internal,
                    "a thread that stops a sandbox gave up".to_owned(),
                )),
            },
            |wanted, _| tell(wanted, global),
        )
    })
}

/// Ends sandboxes at once, or sends their command a signal.
///
/// # Errors
///
/// The last that one of them met.
pub(in crate::cli) fn kill(args: &KillArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let registry = Registry::open_default()?;
    each_told(
        &args.sandboxes,
        global,
        |wanted| {
            let sandbox = Detached::find(&registry, wanted)?;
            match args.signal {
                Some(number) => {
                    sandbox.signal(args.command, number)?;
                    Ok(Ended::NOT)
                }
                None => Ok(Ended::of(&sandbox.kill()?)),
            }
        },
        |wanted, _| tell(wanted, global),
    )
}

/// Removes sandboxes.
///
/// # Errors
///
/// The last that one of them met.
pub(in crate::cli) fn rm(args: &RmArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let registry = Registry::open_default()?;
    each_told(
        &args.sandboxes,
        global,
        |wanted| {
            let removed = Detached::find(&registry, wanted).and_then(|it| it.remove(args.force));
            match removed {
                Ok(left) => {
                    if let Some(reason) = left.filter(|_| !global.quiet) {
                        say(&told_left(wanted, &reason));
                    }
                    Ok(Removed { removed: true })
                }
                Err(DetachedError::Registry(RegistryError::NoSuchSandbox { .. })) if args.force => {
                    Ok(Removed { removed: false })
                }
                Err(error @ DetachedError::Running { .. }) => Err(Problem {
                    hint: Some("with --force it is ended first".to_owned()),
                    ..error.into()
                }),
                Err(error) => Err(error.into()),
            }
        },
        |wanted, done| match done.removed {
            true => tell(wanted, global),
            false => Ok(()),
        },
    )
}

/// What is to be said where a container engine could not be asked to forget a sandbox too.
fn told_left(sandbox: &str, reason: &Unavailable) -> String {
    format!(
        "sovereign: what {sandbox} wrote is still with its engine ({}); `sovereign prune` removes it once \
         that can be asked\n",
        reason.cause
    )
}

/// Waits for sandboxes, and prints their exit codes.
///
/// # Errors
///
/// If one of them cannot be waited for.
pub(in crate::cli) fn wait(args: &WaitArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let registry = Registry::open_default()?;
    each_told(
        &args.sandboxes,
        global,
        |wanted| {
            let sandbox = Detached::find(&registry, wanted)?;
            let waiting = Waiting::late(global, &format!("waiting for {wanted}"));
            let ended = match args.command {
                Some(command) => sandbox.wait_command(command, None).map(|report| Ended {
                    exit_code: Some(report.exit_code()),
                    ending: Some(format!("command {command} ended")),
                }),
                None => sandbox.wait(None).map(|ending| Ended::of(&ending)),
            };
            waiting.end_as(&ended);
            Ok(ended?)
        },
        |_, ended| print(&format!("{}\n", ended.exit_code.unwrap_or_default())),
    )
}

/// Gives a sandbox another name.
///
/// # Errors
///
/// If that cannot be.
pub(in crate::cli) fn rename(args: RenameArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let sandbox = Detached::find(&Registry::open_default()?, &args.sandbox)?;
    sandbox.rename(args.name)?;
    if global.json {
        print_json(&Identity::of(sandbox.entry().read()?))?;
    }
    Ok(0)
}

impl Ended {
    /// What has not ended by this, or had before.
    const NOT: Self = Self {
        exit_code: None,
        ending: None,
    };

    fn of(ending: &Ending) -> Self {
        Self {
            exit_code: Some(ending.exit_code()),
            ending: Some(ending.text()),
        }
    }
}

/// Does something to each sandbox, and goes on when one cannot have it. Told by `tell`, or in JSON all
/// together at the end.
///
/// # Errors
///
/// The last that one of them met, unless it was told in JSON.
pub(super) fn each_told<T: Serialize>(
    sandboxes: &[String],
    global: GlobalArgs,
    mut act: impl FnMut(&str) -> Result<T, Problem>,
    mut tell: impl FnMut(&str, &T) -> Result<(), Problem>,
) -> Result<u8, Problem> {
    if !global.json {
        return each(sandboxes, |wanted| {
            let done = act(wanted)?;
            tell(wanted, &done)
        });
    }
    let mut code = 0;
    let mut all = Vec::with_capacity(sandboxes.len());
    for sandbox in sandboxes {
        let (done, error) = match act(sandbox) {
            Ok(done) => (Some(done), None),
            Err(problem) => (None, Some(of_named(problem, sandbox))),
        };
        code = error.as_ref().map_or(code, |problem| problem.exit_code);
        let sandbox = sandbox.clone();
        all.push(Told {
            sandbox,
            done,
            error,
        });
    }
    print_json(&all).map(|()| code)
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
    if global.quiet {
        return Ok(());
    }
    if global.verbose {
        say(&format!("sovereign: done with {wanted}\n"));
    }
    print(&format!("{wanted}\n"))
}
