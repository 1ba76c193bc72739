//! `sovereign-conformance`: what every sandbox promises, whatever its tier. One suite, written once
//! against the engine's library, and run on each tier that a machine has.
//!
//! ```text
//!  Policy{tier} ─▶ Engine ─▶ Sandbox ─▶ Subject ─▶ cases, one after the other
//!                                          ▲
//!                           facts: what this tier does not have, and why
//! ```
//!
//! Most cases share one sandbox: that makes the suite quick where a start is dear, and is itself a
//! promise, that commands of one sandbox do not harm each other. A case that uses a sandbox up, or
//! needs one of its own making, starts its own.
//!
//! Those that are about detached sandboxes share one of these, in a registry of their own (`desk`). Where
//! a program must die in the middle of something, this one is started again (`roles`).
//!
//! `SOVEREIGN_E2E_ONLY` chooses cases by their full names (`TIER::group::case`), with commas between.

mod command;
mod copies;
mod desk;
mod ended;
mod escapes;
mod exit;
mod facts;
mod files;
mod forged;
mod isolation;
mod kernel;
mod limits;
mod lives;
mod operations;
mod probes;
mod processes;
mod roles;
mod sessions;
mod streams;
mod subject;
mod suite;
mod terminals;
mod unfinished;

use std::env;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use libtest_mimic::Arguments;
use sovereign::Tier;

use crate::roles::PLAY;
use crate::suite::Suite;

/// Run the conformance suite on one tier.
#[derive(Parser)]
#[command(name = "sovereign-conformance")]
struct Cli {
    /// The tier: microvm, docker, podman or local. Naming local is the consent to it.
    #[arg(long)]
    tier: Tier,
    /// Fail where the tier cannot be had, in place of skipping every case.
    #[arg(long)]
    require: bool,
    #[command(flatten)]
    harness: Arguments,
}

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let outcome = if arguments.next().is_some_and(|first| first == PLAY) {
        roles::play(arguments).map(|()| ExitCode::SUCCESS)
    } else {
        run(&Cli::parse())
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sovereign-conformance: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode> {
    let mut suite = Suite::default();
    exit::add(&mut suite);
    streams::add(&mut suite);
    terminals::add(&mut suite);
    command::add(&mut suite);
    processes::add(&mut suite);
    lives::add(&mut suite);
    sessions::add(&mut suite);
    files::add(&mut suite);
    operations::add(&mut suite);
    unfinished::add(&mut suite);
    copies::add(&mut suite);
    escapes::add(&mut suite);
    limits::add(&mut suite);
    isolation::add(&mut suite);
    kernel::add(&mut suite);
    suite.run(cli.tier, cli.require, &cli.harness)
}
