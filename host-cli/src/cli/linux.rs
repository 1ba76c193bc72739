//! The commands of a system that has sandboxes.

use std::ffi::OsString;

use super::args::{Cli, Command};
use super::commands;
use crate::engine::Engine;
use crate::error::Problem;
use crate::tier::facts::Facts;
use crate::timeline::Timeline;

/// Does what the command line says. Returns what the program exits with.
pub(super) fn main(args: &[OsString]) -> u8 {
    let timeline = Timeline::of_this_process();
    super::with(args, |cli| act(cli, timeline))
}

/// What this machine has for an image.
pub(super) fn facts(image: &str) -> Facts {
    Engine::new().probe(image)
}

fn act(cli: Cli, timeline: Timeline) -> Result<u8, Problem> {
    let global = cli.global;
    match cli.command {
        Command::Run(args) => commands::run::run(*args, global, timeline),
        Command::Create(args) => commands::named::create(*args, global),
        Command::Start(args) => commands::named::start(args, global),
        Command::Exec(args) => commands::exec::exec(*args, global),
        Command::Attach(args) => commands::attach::attach(&args, global),
        Command::Cp(args) => commands::cp::cp(&args, global),
        Command::Fs(args) => commands::fs::fs(args, global),
        Command::Stop(args) => commands::life::stop(&args, global),
        Command::Kill(args) => commands::life::kill(&args, global),
        Command::Rm(args) => commands::life::rm(&args, global),
        Command::Ls(args) => commands::ls::ls(&args, global),
        Command::Inspect(args) => commands::ls::inspect(&args, global),
        Command::Logs(args) => commands::logs::logs(&args, global),
        Command::Wait(args) => commands::life::wait(&args, global),
        Command::Stats(args) => commands::usage::stats(&args, global),
        Command::Top(args) => commands::usage::top(&args, global),
        Command::Rename(args) => commands::life::rename(args, global),
        Command::Events(args) => commands::events::events(&args),
        Command::Supervise(args) => commands::supervise::supervise(&args),
        Command::Doctor(args) => commands::doctor::doctor(args, global),
        Command::Image(args) => commands::image::image(args, global),
        Command::Prune(args) => commands::prune::prune(&args, global),
        Command::Completions(args) => commands::generate::completions(&args),
        Command::Man(args) => commands::generate::man(&args),
        Command::Version => commands::generate::version(global),
    }
}
