//! `sovereign run`: a command in a new sandbox.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::Instant;

use agent_client::Exec;
use agent_protocol::message::ExitReport;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::stdio::{stderr, stdin};

use super::named;
use crate::cli::args::{GlobalArgs, RunArgs};
use crate::cli::conversation::{Conversation, Outcome};
use crate::cli::json::RunReport;
use crate::cli::plan::run::RunPlan;
use crate::cli::report::sandbox::announcement;
use crate::cli::report::{print_json, say, told};
use crate::cli::signals::Signals;
use crate::cli::terminal;
use crate::cli::trace;
use crate::cli::waiting::Waiting;
use crate::engine::{Engine, StartError};
use crate::error::{ErrorKind, Problem};
use crate::launch::Launch;
use crate::registry::{Id, Name};
use crate::sandbox::{Sandbox, overdue};
use crate::tier::Isolation;
use crate::tier::choose::ChooseError;
use crate::tier::place::Place;
use crate::timeline::Timeline;

/// Runs a command in a new sandbox. Returns what this program exits with.
///
/// # Errors
///
/// If there is no exit code of the command's to return, and the failure was not told in JSON.
pub(in crate::cli) fn run(
    args: RunArgs,
    global: GlobalArgs,
    mut timeline: Timeline,
) -> Result<u8, Problem> {
    let plan = RunPlan::new(args, global, terminal::size());
    timeline.mark("command line understood");
    let outcome = plan.map_err(Problem::from).and_then(|mut plan| {
        if let Some(life) = plan.life.take() {
            return named::run(plan, life, global).map(|ended| (ended, Vec::new()));
        }
        let trace = plan.trace;
        let outcome = attempt(plan, global, &mut timeline);
        timeline.mark("sandbox ended");
        let steps = if trace {
            trace::steps(&timeline)
        } else {
            Vec::new()
        };
        if trace && !global.json {
            say(&trace::table(&steps));
        }
        outcome.map(|ran| (named::Ended::Ran(Box::new(ran)), steps))
    });
    match outcome {
        Ok((named::Ended::Left(code), _)) => Ok(code),
        Ok((named::Ended::Ran(ran), _)) if !global.json => Ok(ran.report.exit_code()),
        Ok((named::Ended::Ran(ran), steps)) => {
            let report = RunReport {
                timeline: steps,
                ..ran.told()
            };
            print_json(&report).map(|()| ran.report.exit_code())
        }
        Err(failure) if !global.json => Err(failure),
        Err(failure) => print_json(&RunReport::failed(&failure)).map(|()| failure.exit_code),
    }
}

/// A command that was run to its end.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) report: ExitReport,
    pub(super) place: Option<Place>,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    /// The sandbox's id and name, if it has them.
    pub(super) sandbox: Option<(Id, Name)>,
}

impl Ran {
    /// The same in JSON.
    pub(super) fn told(&self) -> RunReport<'_> {
        let output = [self.stdout.as_slice(), self.stderr.as_slice()];
        RunReport {
            id: self.sandbox.as_ref().map(|(id, _)| id),
            name: self.sandbox.as_ref().map(|(_, name)| name),
            ..RunReport::of(&self.report, self.place.as_ref(), output)
        }
    }
}

fn attempt(plan: RunPlan, global: GlobalArgs, timeline: &mut Timeline) -> Result<Ran, Problem> {
    let signals = Signals::install()?;
    let (sandbox, exec) = start(&plan, global, &signals, timeline)?;
    let place = Place::from(sandbox.choice());
    if !global.quiet {
        say(&announcement(&place));
    }
    if global.verbose {
        say(&format!(
            "sovereign: the sandbox is held by process {}\n",
            sandbox.process_id()
        ));
    }
    match converse(sandbox, exec, &plan, &signals, timeline) {
        Ok((report, [stdout, stderr])) => Ok(Ran {
            report,
            place: Some(place),
            stdout,
            stderr,
            sandbox: None,
        }),
        Err(problem) => Err(problem.in_tier(Some(place.tier))),
    }
}

/// Starts a sandbox; asks for consent if only the host itself is left and somebody is there to ask.
fn start(
    plan: &RunPlan,
    global: GlobalArgs,
    signals: &Signals,
    timeline: &mut Timeline,
) -> Result<(Sandbox, Exec), Problem> {
    let mut policy = plan.policy;
    loop {
        let waiting = Waiting::late(global, "starting the sandbox");
        let launch = Launch {
            request: Some(&plan.request),
            cancel: Some(signals.as_fd()),
            trace: plan.trace,
            // Nobody can name it.
            moves_files: false,
            progress: &waiting,
            ..Launch::new(&plan.spec)
        };
        let started = Engine::new().start(&policy, launch, timeline);
        waiting.end_as(&started);
        let error = match started {
            Ok((sandbox, Some(exec))) => return Ok((sandbox, exec)),
            Ok((mut sandbox, None)) => {
                let exec = sandbox.exec(plan.request.clone())?;
                return Ok((sandbox, exec));
            }
            Err(error) => error,
        };
        let StartError::Choose(ChooseError::ConsentNeeded { isolation, .. }) = error else {
            return Err(interrupted(error.into()));
        };
        let problem = Problem::from(error);
        if policy.allow_local || !asks_for_consent(&problem, isolation, global, signals) {
            return Err(interrupted(problem));
        }
        policy.allow_local = true;
    }
}

/// A failure while a signal has asked for an end is that end.
pub(super) fn interrupted(failure: Problem) -> Problem {
    match Signals::last() {
        Some(signal)
            if matches!(
                failure.code,
                ErrorKind::Interrupted | ErrorKind::ConsentNeeded
            ) =>
        {
            Problem {
                exit_code: signal.saturating_add(128),
                ..failure
            }
        }
        _ => failure,
    }
}

/// Asks on the terminal whether the host itself may run the command. No is the default, and the
/// answer of a signal. Nobody is asked who wants to hear nothing.
pub(super) fn asks_for_consent(
    problem: &Problem,
    isolation: Isolation,
    global: GlobalArgs,
    signals: &Signals,
) -> bool {
    let how = match isolation {
        Isolation::None => "on this machine itself, without a sandbox",
        _ => "on this machine itself, as a confined process",
    };
    let ask = || -> io::Result<bool> {
        let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
        let why = told(&Problem {
            // The question is what there is to be done.
            hint: None,
            ..problem.clone()
        });
        write!(terminal, "{why}Run it {how}? [y/N] ")?;
        let mut fds = [
            PollFd::new(&terminal, PollFlags::IN),
            PollFd::new(signals, PollFlags::IN),
        ];
        rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
        let [_, signalled] = &fds;
        if !signalled.revents().is_empty() {
            writeln!(terminal)?;
            return Ok(false);
        }
        let mut answer = String::new();
        BufReader::new(terminal).read_line(&mut answer)?;
        Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
    };
    let is_told = !global.quiet && !global.json;
    is_told && stdin().is_terminal() && stderr().is_terminal() && ask().unwrap_or(false)
}

/// Moves the command's data until it has ended, and ends the sandbox.
fn converse(
    mut sandbox: Sandbox,
    exec: Exec,
    plan: &RunPlan,
    signals: &Signals,
    timeline: &mut Timeline,
) -> Result<(ExitReport, [Vec<u8>; 2]), Problem> {
    let conversation = Conversation {
        request: &plan.request,
        output: plan.output,
        signals,
        detach_keys: &[],
    };
    let began = Instant::now();
    let talked = conversation.hold(exec)?;
    let report = match talked.outcome {
        Outcome::Finished(finished) => {
            timeline.mark("output written");
            if plan.trace {
                trace::note_session(timeline, &finished);
            }
            finished.report
        }
        // Nothing can be typed that would leave it.
        Outcome::Left(_) => {
            return Err(Problem::new(
                ErrorKind::Internal,
                "the command was left".to_owned(),
            ));
        }
        Outcome::Broken(error) => {
            let error = sandbox.explained(error);
            match overdue(&plan.request, began, &error) {
                Some(report) => report,
                None => return Err(interrupted(error.into())),
            }
        }
    };
    sandbox.abandon();
    Ok((report, talked.collected))
}
