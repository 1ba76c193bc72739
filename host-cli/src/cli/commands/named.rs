//! `sovereign run` with a name or `-d`, and `create` and `start`: sandboxes of the registry.

use std::os::fd::AsFd;

use agent_client::Exec;
use agent_protocol::message::ExitReport;

use super::attach::{self, Staying};
use super::run::{Ran, asks_for_consent, interrupted};
use crate::cli::args::{CreateArgs, GlobalArgs, StartArgs};
use crate::cli::conversation::{Conversation, Outcome};
use crate::cli::json::Identity;
use crate::cli::plan::run::{CreatePlan, Life, RunPlan};
use crate::cli::report::sandbox::{announcement, tell_of_input};
use crate::cli::report::{print, print_json, say};
use crate::cli::signals::Signals;
use crate::cli::terminal;
use crate::cli::waiting::Waiting;
use crate::detached::{Attached, Detached, DetachedError};
use crate::error::{ErrorKind, Problem};
use crate::registry::Registry;
use crate::registry::record::Record;
use crate::supervisor::{About, LaunchError, OwnCommand};

/// How a run ended for this program.
#[derive(Debug)]
pub(super) enum Ended {
    /// The command ended.
    Ran(Box<Ran>),
    /// It runs on, and was told of; this is what to exit with.
    Left(u8),
}

/// What to type to leave a command running.
const DETACH_KEYS: &[u8] = &[16, 17];

/// Makes a sandbox without starting it.
///
/// # Errors
///
/// If it cannot be made.
pub(in crate::cli) fn create(args: CreateArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let CreatePlan { name, plan } = CreatePlan::new(args, terminal::size())?;
    let sandbox = Detached::create(&Registry::open_default()?, name, plan)?;
    tell_id(sandbox.entry().read()?, global)?;
    Ok(0)
}

/// Starts sandboxes.
///
/// # Errors
///
/// The first that one of them met; the others were started.
pub(in crate::cli) fn start(args: StartArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let signals = Signals::install()?;
    let registry = Registry::open_default()?;
    if args.attach {
        return start_and_stay(&registry, &args.sandboxes, global, &signals);
    }
    super::life::each_told(
        &args.sandboxes,
        global,
        |wanted| {
            let sandbox = Detached::find(&registry, wanted)?;
            let sandbox = come_up(&sandbox, OwnCommand::Held, global, &signals)?.let_go();
            Ok(Identity::of(sandbox.entry().read()?))
        },
        |_, started| match global.quiet {
            true => Ok(()),
            false => print(&format!("{}\n", started.name)),
        },
    )
}

fn start_and_stay(
    registry: &Registry,
    sandboxes: &[String],
    global: GlobalArgs,
    signals: &Signals,
) -> Result<u8, Problem> {
    let [wanted] = sandboxes else {
        let text = "start -a: only one sandbox can be stayed with".to_owned();
        return Err(Problem::new(ErrorKind::Usage, text));
    };
    let sandbox = Detached::find(registry, wanted)?;
    let command = sandbox.entry().read()?.plan.command;
    let about = command.as_ref().map(About::of).ok_or_else(|| Problem {
        hint: Some(format!("`sovereign start {wanted}` starts it")),
        ..Problem::new(
            ErrorKind::NoSuchCommand,
            format!("sandbox {wanted} has no command of its own to stay with"),
        )
    })?;
    let started = come_up(&sandbox, OwnCommand::Held, global, signals)?;
    let staying = Staying {
        command: 0,
        typed: true,
        keys: DETACH_KEYS,
        global,
    };
    attach::stay_from_start(started, about, &staying, signals)
}

/// Runs a command in a new sandbox of the registry.
///
/// # Errors
///
/// If there is no exit code of the command's to return.
pub(super) fn run(plan: RunPlan, life: Life, global: GlobalArgs) -> Result<Ended, Problem> {
    let signals = Signals::install()?;
    let registry = Registry::open_default()?;
    let RunPlan {
        policy,
        spec,
        request,
        output,
        ..
    } = plan;
    let (name, entered) = life.args.plan(policy, spec, Some(request.clone()));
    let sandbox = Detached::create(&registry, name, entered)?;
    let own = if life.detached {
        OwnCommand::Held
    } else {
        OwnCommand::Clients
    };
    let started = match come_up(&sandbox, own, global, &signals) {
        Ok(started) => started,
        Err(failure) => {
            // Of a run that did not begin nothing is to be found.
            let _ = sandbox.remove(false);
            return Err(interrupted(failure));
        }
    };
    let record = started.sandbox().entry().read()?;
    if let Some(place) = record.place.as_ref().filter(|_| !global.quiet) {
        say(&announcement(place));
    }
    if life.detached {
        started.let_go();
        let name = record.name.to_string();
        tell_id(record, global)?;
        tell_of_input(&request, &name, global);
        return Ok(Ended::Left(0));
    }
    let sandbox = started.sandbox();
    let exec = started.exec_own(request.clone())?;
    let conversation = Conversation {
        request: &request,
        output,
        signals: &signals,
        detach_keys: DETACH_KEYS,
    };
    let talked = conversation.hold(exec)?;
    let report = match talked.outcome {
        Outcome::Finished(finished) => finished.report,
        Outcome::Left(exec) => {
            leave(&started, *exec, &About::of(&request))?;
            started.let_go();
            say(&format!("sovereign: {} runs on\n", record.name));
            return Ok(Ended::Left(0));
        }
        Outcome::Broken(error) => {
            let tier = record.place.map(|place| place.tier);
            let failure = Problem::from(started.explain(error)).in_tier(tier);
            let _ = sandbox.kill();
            return Err(interrupted(failure));
        }
    };
    finish(sandbox, &report)?;
    let [stdout, stderr] = talked.collected;
    Ok(Ended::Ran(Box::new(Ran {
        report,
        place: record.place,
        stdout,
        stderr,
        sandbox: Some((record.id, record.name)),
    })))
}

/// Starts a sandbox; asks for consent if only the host itself is left and somebody is there to ask.
fn come_up(
    sandbox: &Detached,
    own: OwnCommand,
    global: GlobalArgs,
    signals: &Signals,
) -> Result<Attached, Problem> {
    let mut asked = false;
    loop {
        let waiting = Waiting::late(global, "starting the sandbox");
        let started = sandbox.start(own, Some(signals.as_fd()));
        waiting.end_as(&started);
        let error = match started {
            Ok(started) => return Ok(started),
            Err(error) => error,
        };
        if let DetachedError::Launch(LaunchError::Consent { problem, isolation }) = &error
            && !asked
            && asks_for_consent(problem, *isolation, global, signals)
        {
            asked = true;
            sandbox.allow_local()?;
            continue;
        }
        if matches!(&error, DetachedError::Launch(LaunchError::Consent { .. }))
            && sandbox
                .entry()
                .read()
                .is_ok_and(|record| record.plan.remove)
        {
            // It was left for the answer alone.
            let _ = sandbox.remove(false);
        }
        return Err(interrupted(error.into()));
    }
}

fn leave(started: &Attached, exec: Exec, about: &About) -> Result<(), Problem> {
    started.sandbox().hold_own(exec, about.clone())?;
    Ok(())
}

/// Tells the supervisor how the command ended, and waits until nothing of the sandbox runs.
fn finish(sandbox: &Detached, report: &ExitReport) -> Result<(), Problem> {
    match sandbox.finish(report.clone()) {
        // It has ended by itself meanwhile.
        Ok(_) | Err(DetachedError::NotRunning { .. } | DetachedError::Registry(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn tell_id(record: Record, global: GlobalArgs) -> Result<(), Problem> {
    if global.json {
        print_json(&Identity::of(record))
    } else {
        print(&format!("{}\n", record.id))
    }
}
