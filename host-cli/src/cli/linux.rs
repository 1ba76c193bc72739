//! The commands of a system that has sandboxes.

use std::ffi::OsString;

use sandbox_image::{Store, Summary};

use super::args::{Cli, Command};
use super::commands;
use super::complete::{self, Named, Wanted};
use crate::engine::Engine;
use crate::error::Problem;
use crate::registry::{Registry, State};
use crate::tier::facts::Facts;
use crate::timeline::Timeline;

/// Does what the command line says. Returns what the program exits with.
pub(super) fn main(args: &[OsString]) -> u8 {
    if let Some(code) = complete::answer(args) {
        return code;
    }
    let timeline = Timeline::of_this_process();
    super::with(args, |cli| act(cli, timeline))
}

/// The sandboxes that a command may be for, by name: what the registry's records say.
pub(super) fn sandboxes(wanted: Wanted) -> Vec<Named> {
    let Ok(registry) = Registry::open_default() else {
        return Vec::new();
    };
    let entries = registry.list().unwrap_or_default().into_iter();
    let known = entries.filter_map(|entry| {
        let record = entry.read().ok()?;
        let state = entry.state(&record);
        let fits = match wanted {
            Wanted::Any => true,
            Wanted::Running => matches!(state, State::Running | State::Starting),
            Wanted::Idle => !matches!(state, State::Running | State::Starting),
        };
        let tier = record.place.map(|place| format!(", {}", place.tier));
        let about = format!("{}{}", state.name(), tier.unwrap_or_default());
        fits.then(|| (record.name.to_string(), about))
    });
    let mut known: Vec<_> = known.collect();
    known.sort_unstable();
    known
}

/// The images of the store, by name.
pub(super) fn images() -> Vec<Named> {
    let listed = Store::open_default().and_then(|store| store.list());
    let about = |image: Summary| match image.manifest {
        Some(manifest) => (image.name, format!("made {}", manifest.created)),
        None => (image.name, "damaged".to_owned()),
    };
    listed.unwrap_or_default().into_iter().map(about).collect()
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
