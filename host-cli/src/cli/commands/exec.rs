//! `sovereign exec`: a command in a running sandbox.

use crate::cli::args::{ExecCommandArgs, GlobalArgs};
use crate::cli::conversation::{Conversation, Outcome};
use crate::cli::json::{Number, RunReport};
use crate::cli::plan::run::{ExecPlan, OutputPlan};
use crate::cli::report::sandbox::{of_sandbox, tell_of_input};
use crate::cli::report::{print, print_json, say};
use crate::cli::signals::Signals;
use crate::cli::terminal;
use crate::detached::Detached;
use crate::error::Problem;
use crate::registry::Registry;
use crate::supervisor::About;

use super::run::{Ran, interrupted};

/// Runs a command in a running sandbox. Returns what this program exits with.
///
/// # Errors
///
/// If there is no exit code of the command's to return, and the failure was not told in JSON.
pub(in crate::cli) fn exec(args: ExecCommandArgs, global: GlobalArgs) -> Result<u8, Problem> {
    match attempt(args, global) {
        Ok(code) => Ok(code),
        Err(failure) if !global.json => Err(failure),
        Err(failure) => print_json(&RunReport::failed(&failure)).map(|()| failure.exit_code),
    }
}

fn attempt(args: ExecCommandArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let sandbox = Detached::find(&Registry::open_default()?, &args.sandbox)?;
    run_in(&sandbox, args, global).map_err(|problem| of_sandbox(problem, &sandbox))
}

fn run_in(sandbox: &Detached, args: ExecCommandArgs, global: GlobalArgs) -> Result<u8, Problem> {
    // A file that is read for this may be a pipe, and waiting for that can be interrupted.
    let plan = ExecPlan::new(args.exec, args.command, global, terminal::size())?;
    let signals = Signals::install()?;
    let ExecPlan { request, output } = plan;
    let about = About::of(&request);
    let exec = sandbox.exec(request.clone())?;
    if args.detach {
        let command = sandbox.hold(exec, about)?;
        tell_number(command, global)?;
        tell_of_input(&request, &format!("{} {command}", args.sandbox), global);
        return Ok(0);
    }
    let conversation = Conversation {
        request: &request,
        output,
        signals: &signals,
        detach_keys: &args.detach_keys.0,
    };
    let talked = conversation.hold(exec)?;
    let report = match talked.outcome {
        Outcome::Finished(finished) => finished.report,
        Outcome::Left(exec) => {
            let command = sandbox.hold(*exec, about)?;
            say(&format!(
                "sovereign: it runs on as command {command}; `sovereign attach {} {command}` comes \
                 back to it\n",
                args.sandbox
            ));
            return Ok(0);
        }
        Outcome::Broken(error) => return Err(interrupted(sandbox.explain(error).into())),
    };
    if output == OutputPlan::Live {
        return Ok(report.exit_code());
    }
    let record = sandbox.entry().read()?;
    let [stdout, stderr] = talked.collected;
    let ran = Ran {
        report,
        place: record.place,
        stdout,
        stderr,
        sandbox: Some((record.id, record.name)),
    };
    print_json(&ran.told()).map(|()| ran.report.exit_code())
}

fn tell_number(command: u32, global: GlobalArgs) -> Result<(), Problem> {
    if global.json {
        print_json(&Number { command })
    } else {
        print(&format!("{command}\n"))
    }
}
