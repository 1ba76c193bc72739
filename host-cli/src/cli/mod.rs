//! The command line on top of the engine.
//!
//! ```text
//!  argv ─▶ args (what was typed) ─▶ plan (what is meant) ─▶ commands ─▶ report ─▶ exit code
//! ```
//!
//! Exit codes: the command's own; 128+N if signal N killed it; 124 at a timeout; 125 for a failure
//! of the engine and for wrong use, so that it cannot be taken for the command's; 126 and 127 if
//! the command cannot be executed or found.

pub mod args;
mod commands;
mod config_file;
mod environment;
mod plan;
mod progress;
mod report;
mod signals;
mod style;
mod terminal;
mod trace;

use std::ffi::OsString;

use clap::Parser;
use clap::error::ErrorKind;

use self::args::{Cli, Command};
use self::report::{ENGINE_FAILURE, Failure, print_json};
use crate::timeline::Timeline;

/// Does what the command line says. Returns what the program exits with.
#[must_use]
pub fn main(args: &[OsString]) -> u8 {
    let timeline = Timeline::of_this_process();
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return misunderstood(&error, args),
    };
    let global = cli.global;
    let outcome = match cli.command {
        Command::Run(args) => commands::run::run(*args, global, timeline),
        Command::Doctor(args) => commands::doctor::doctor(args, global),
        Command::Image(args) => commands::image::image(args, global),
        Command::Completions(args) => commands::generate::completions(&args),
        Command::Man(args) => commands::generate::man(&args),
        Command::Version => commands::generate::version(global),
    };
    outcome.unwrap_or_else(|failure| tell(&failure, global.json))
}

/// A command line that asks for help, or makes no sense.
fn misunderstood(error: &clap::Error, args: &[OsString]) -> u8 {
    let is_help = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    if !is_help && args::asks_for_json(args) {
        let text = error.to_string();
        let message = text.split("\n\n").next().unwrap_or_default();
        let message = message
            .strip_prefix("error: ")
            .unwrap_or(message)
            .trim()
            .to_owned();
        return tell(&Failure::new("usage", message), true);
    }
    // If nobody reads it, nobody is to be told.
    let _ = error.print();
    if is_help { 0 } else { ENGINE_FAILURE }
}

fn tell(failure: &Failure, json: bool) -> u8 {
    if !json
        || print_json(&serde_json::json!({ "exit_code": failure.exit_code, "error": failure }))
            .is_err()
    {
        failure.print();
    }
    failure.exit_code
}
