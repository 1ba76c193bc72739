//! Tiers `docker` and `podman`: the obstacles that a probe tells, and real containers of a daemon
//! that is started for this test alone.
//!
//! The second part needs root, a `dockerd` and a built `sovereign-agent`; what is missing is said,
//! and its cases are ignored by name.

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
mod obstacles;

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    use std::sync::{Arc, Mutex};

    use libtest_mimic::{Arguments, Trial};

    let mut arguments = Arguments::from_args();
    // Cases look at all containers of the daemon.
    arguments.test_threads = Some(1);
    let missing = machine::missing();
    if let Some(missing) = &missing {
        eprintln!("cases with containers are ignored: {missing}");
    }
    let machine = Arc::new(Mutex::new(None));
    let obstacles = obstacles::CASES.iter().map(|(name, case)| {
        Trial::test(*name, move || {
            case();
            Ok(())
        })
    });
    let containers = containers::CASES.iter().map(|(name, case)| {
        let machine = Arc::clone(&machine);
        Trial::test(*name, move || {
            let mut machine = machine.lock().unwrap_or_else(|held| held.into_inner());
            case(machine.get_or_insert_with(machine::Machine::new));
            Ok(())
        })
        .with_ignored_flag(missing.is_some())
    });
    let conclusion = libtest_mimic::run(&arguments, obstacles.chain(containers).collect());
    drop(machine);
    conclusion.exit_code()
}
