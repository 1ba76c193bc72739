//! `sovereign-e2e`: every end-to-end test, in one static binary, so that the very same tests run on
//! this machine or inside the lab.
//!
//! A test drives the `sovereign` command as a user would. Its name starts with `host::` if it needs
//! no guest, with `with_docker::` or `with_podman::` if it needs that engine running (`DOCKER_HOST`,
//! `CONTAINER_HOST`), and with `guest::` if it boots one; where no guest can boot, those are skipped with
//! the reason that `sovereign doctor` gives, or fail if `SOVEREIGN_REQUIRE_KVM=1`.
//!
//! `SOVEREIGN_E2E_ONLY` chooses tests by their exact names, with commas between.
//! `SOVEREIGN_E2E_PYTEST` is an archive with pytest and the tests of T-APTS (the gate packs it).
//! Counts and sizes can be changed: `SOVEREIGN_E2E_SANDBOXES` (200 one after the other),
//! `SOVEREIGN_E2E_STREAM_MIB` (1024 through a sandbox), `SOVEREIGN_E2E_SOAK` (operations of the soak).

mod command;
mod completion;
mod detached;
mod exit;
mod image;
mod library;
mod lifecycle;
mod limits;
mod local;
mod machine;
mod machine_interface;
mod misuse;
mod python;
mod report;
mod screen;
mod small_disk;
mod soak;
mod streams;
mod suite;
mod terminal;
mod walkthrough;

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::Arguments;
use sovereign_tests::call::Sovereign;

use crate::suite::Suite;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sovereign-e2e: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut suite = Suite::new(Sovereign::find()?);
    exit::add(&mut suite);
    streams::add(&mut suite);
    command::add(&mut suite);
    terminal::add(&mut suite);
    screen::add(&mut suite);
    machine::add(&mut suite);
    misuse::add(&mut suite);
    report::add(&mut suite);
    image::add(&mut suite);
    python::add(&mut suite);
    limits::add(&mut suite);
    local::add(&mut suite);
    library::add(&mut suite);
    lifecycle::add(&mut suite);
    detached::add(&mut suite);
    machine_interface::add(&mut suite);
    completion::add(&mut suite);
    walkthrough::add(&mut suite);
    soak::add(&mut suite);
    Ok(suite.run(arguments))
}
