//! Tiers `docker` and `podman`: the obstacles that a probe tells, and real containers of engines that
//! are started for this test alone. The same cases run on each.
//!
//! The second part needs root, a `dockerd` or `podman`, and a built `sovereign-agent`; what is
//! missing is said, and its cases are ignored by name.

#![cfg_attr(
    target_os = "linux",
    expect(clippy::unwrap_used, reason = "in a test, what fails shall panic")
)]

#[cfg(target_os = "linux")]
mod containers;
#[cfg(target_os = "linux")]
mod daemon;
#[cfg(target_os = "linux")]
mod machine;
#[cfg(target_os = "linux")]
mod network;
#[cfg(target_os = "linux")]
mod obstacles;
#[cfg(target_os = "linux")]
mod remote;

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    use std::sync::{Arc, Mutex};

    use libtest_mimic::{Arguments, Trial};

    let mut arguments = Arguments::from_args();
    // Cases look at all containers of the daemon.
    arguments.test_threads = Some(1);
    let obstacles = obstacles::CASES.iter().map(|(name, case)| {
        Trial::test(*name, move || {
            case();
            Ok(())
        })
    });
    let mut trials: Vec<_> = obstacles.collect();
    for engine in sovereign_engines::Engine::ALL {
        let missing = machine::missing(engine);
        if let Some(missing) = &missing {
            eprintln!("cases of {} are ignored: {missing}", engine.name());
        }
        // The last case that has it ends it.
        let machine = Arc::new(Mutex::new(None));
        for (name, case) in containers::CASES.iter().chain(remote::CASES) {
            let machine = Arc::clone(&machine);
            let trial = Trial::test(format!("{}::{name}", engine.name()), move || {
                let mut machine = machine.lock().unwrap_or_else(|held| held.into_inner());
                case(machine.get_or_insert_with(|| machine::Machine::new(engine)));
                Ok(())
            });
            let is_out = *name == containers::NETWORK && !network::is_possible(engine);
            trials.push(trial.with_ignored_flag(missing.is_some() || is_out));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
