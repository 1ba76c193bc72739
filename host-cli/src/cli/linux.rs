//! The commands of a system that has sandboxes.

use std::ffi::OsString;
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use agent_protocol::files::FileKind;
use nix::sys::signal::Signal;
use sandbox_image::{Store, Summary};

use super::args::{Cli, Command};
use super::commands;
use super::complete::{self, Found, Named, Wanted};
use super::signals;
use crate::detached::{Detached, DetachedError};
use crate::engine::Engine;
use crate::error::{ErrorKind, Problem};
use crate::registry::{Registry, State};
use crate::spec::{ImageChoice, SandboxSpec};
use crate::tier::facts::{Facts, Finding, Unavailable};
use crate::tier::{Tier, docker};
use crate::timeline::Timeline;

/// Does what the command line says. Returns what the program exits with.
pub(super) fn main(args: &[OsString]) -> u8 {
    if let Some(code) = complete::answer(args) {
        return code;
    }
    let timeline = Timeline::of_this_process();
    super::with(args, |cli| act(cli, timeline))
}

/// Nobody reads standard output any more: ends as whoever knows nothing of that.
pub(super) fn end_unread() {
    signals::die_of(Signal::SIGPIPE);
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

/// What `ls` can be told to list.
pub(super) fn filters() -> Vec<String> {
    let keys = ["name=", "id=", "label="].map(str::to_owned).into_iter();
    let tiers = Tier::ALL.map(|tier| format!("tier={tier}"));
    let states = State::ALL.map(|state| format!("status={}", state.name()));
    keys.chain(tiers).chain(states).collect()
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

/// What this machine has for an image. A tier that has no use for one that was named is none to have.
pub(super) fn facts(image: &ImageChoice) -> Facts {
    let mut facts = Engine::new().probe(&image.name);
    if image.is_named {
        refuse(&mut facts, image);
    }
    facts
}

fn refuse(facts: &mut Facts, image: &ImageChoice) {
    let spec = SandboxSpec {
        image: image.clone(),
        ..SandboxSpec::default()
    };
    for tier in Tier::ALL {
        let isolation = facts.of(tier).and_then(|found| found.outcome.clone().ok());
        if let Some(refusal) = isolation.and_then(|isolation| tier.refusal(&spec, isolation)) {
            let reason = Unavailable {
                code: ErrorKind::UnsupportedFlag,
                cause: format!("it cannot honour {}: {}", refusal.flag, refusal.reason),
                remedy: Some(refusal.hint()),
            };
            facts.set(Finding::new(tier, Err(reason)));
        }
    }
}

/// Why an image of the store that was named cannot be taken from there, if it cannot. A tier that cannot
/// be had anyway does not say so.
pub(super) fn image_lacks(image: &ImageChoice) -> Option<Unavailable> {
    if !image.is_named || docker::image::is_of_daemon(&image.name) {
        return None;
    }
    let found = Store::open_default().and_then(|store| store.inspect(&image.name));
    found.err().map(Unavailable::from)
}

/// How long a sandbox has to tell what is in a folder, and how much of it is wanted.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);
const MAX_FOUND: usize = 4096;

/// The files of a sandbox's folder whose names begin so, if it tells them soon. It is not in use by that.
pub(super) fn files(sandbox: &str, user: Option<&str>, folder: &str, start: &str) -> Vec<Found> {
    let (sandbox, user) = (sandbox.to_owned(), user.map(str::to_owned));
    let (folder, start) = (folder.to_owned(), start.to_owned());
    let (tell, told) = mpsc::channel();
    let look = move || {
        // Nobody waits any more, or there is nothing.
        let _ = look(&sandbox, user.as_deref(), &folder, &start).map(|found| tell.send(found));
    };
    let thread = thread::Builder::new().name("look-at-files".to_owned());
    // This program ends when it has answered, and the thread with it.
    match thread.spawn(look) {
        Ok(_) => told.recv_timeout(LOOK_PATIENCE).unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}

fn look(
    sandbox: &str,
    user: Option<&str>,
    folder: &str,
    start: &str,
) -> Result<Vec<Found>, Problem> {
    let sandbox = Detached::find(&Registry::open_default()?, sandbox)?;
    let files = || -> Result<_, DetachedError> {
        sandbox.look_at_files(user.map(str::to_owned), LOOK_PATIENCE)
    };
    let mut found = Vec::new();
    let listed = files()?.list(folder.as_bytes(), &mut |entry| {
        let name = String::from_utf8(entry.path.into_vec());
        if let Ok(name) = name
            && name.starts_with(start)
        {
            found.push((name, entry.kind));
        }
        match found.len() {
            MAX_FOUND.. => Err(io::ErrorKind::FileTooLarge.into()),
            _ => Ok(()),
        }
    });
    if found.len() < MAX_FOUND {
        listed?;
    }
    // Where a link leads is only looked at if there is no doubt which.
    if let [(name, kind @ FileKind::Symlink)] = found.as_mut_slice() {
        let path = format!("{folder}/{name}");
        let target = files()?.stat(path.as_bytes(), true);
        *kind = target.map_or(FileKind::Symlink, |target| target.kind);
    }
    let found = found.into_iter().map(|(name, kind)| Found {
        name,
        is_folder: kind == FileKind::Directory,
    });
    Ok(found.collect())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::Isolation;

    #[test]
    fn a_tier_that_has_no_use_for_an_image_is_none_to_have_with_one() {
        let found = |tier: Tier| Finding::new(tier, Ok(tier.strongest_isolation()));
        let mut facts = Facts::new(Tier::ALL.map(found).into());
        let mut image = ImageChoice::default();
        refuse(&mut facts, &image);
        assert!(facts.iter().all(|found| found.outcome.is_ok()));
        image.is_named = true;
        refuse(&mut facts, &image);
        for found in facts.iter() {
            let code = found.outcome.as_ref().map_err(|reason| reason.code);
            let expected = match found.tier {
                Tier::Local => Err(ErrorKind::UnsupportedFlag),
                tier => Ok(&tier.strongest_isolation()),
            };
            assert_eq!(code.copied(), expected.copied(), "{}", found.tier);
        }
        assert_eq!(facts.of(Tier::Microvm).unwrap().outcome, Ok(Isolation::Vm));
    }
}
