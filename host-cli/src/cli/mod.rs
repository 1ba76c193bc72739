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
mod complete;
mod config_file;
#[cfg(target_os = "linux")]
mod conversation;
#[cfg(target_os = "linux")]
mod environment;
#[cfg(target_os = "linux")]
mod json;
mod legible;
mod plan;
#[cfg(target_os = "linux")]
mod progress;
mod report;
#[cfg(target_os = "linux")]
mod signals;
mod style;
#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod system;
#[cfg(not(target_os = "linux"))]
#[path = "elsewhere.rs"]
mod system;
#[cfg(target_os = "linux")]
mod terminal;
#[cfg(target_os = "linux")]
mod trace;
#[cfg(target_os = "linux")]
mod waiting;

use std::ffi::OsString;
use std::io::Write;

use clap::error::ErrorKind as Misuse;

use self::args::Cli;
use self::report::{Failed, Stdout, print_json, tell_person};
use self::style::Style;
use crate::error::{ENGINE_FAILURE, ErrorKind, Problem};

/// Does what the command line says. Returns what the program exits with.
#[must_use]
pub fn main(args: &[OsString]) -> u8 {
    system::main(args)
}

/// Has a command line that makes sense done, and tells what has failed.
fn with(args: &[OsString], act: impl FnOnce(Cli) -> Result<u8, Problem>) -> u8 {
    let cli = match Cli::read(args) {
        Ok(cli) => cli,
        Err(error) => return misunderstood(&error, args),
    };
    let json = cli.global.json;
    act(cli).unwrap_or_else(|failure| tell(&failure, json))
}

/// A command line that asks for help, or makes no sense.
fn misunderstood(error: &clap::Error, args: &[OsString]) -> u8 {
    let is_help = matches!(error.kind(), Misuse::DisplayHelp | Misuse::DisplayVersion);
    if !is_help && args::asks_for_json(args) {
        let text = error.to_string();
        let message = text.split("\n\n").next().unwrap_or_default();
        let message = message
            .strip_prefix("error: ")
            .unwrap_or(message)
            .trim()
            .to_owned();
        let tips: Vec<_> = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("tip: "))
            .collect();
        let problem = Problem {
            hint: (!tips.is_empty()).then(|| tips.join("; ")),
            ..Problem::new(ErrorKind::Usage, message)
        };
        return tell(&problem, true);
    }
    let choice = args::asked_colors(args);
    let (style, to): (_, &mut dyn Write) = match is_help {
        true => (Style::for_stdout(choice), &mut Stdout),
        false => (Style::for_stderr(choice), &mut std::io::stderr()),
    };
    let text = error.render();
    // If nobody reads it, nobody is to be told.
    let _ = match style.has_colours() {
        true => write!(to, "{}", text.ansi()),
        false => write!(to, "{text}"),
    };
    if is_help { 0 } else { ENGINE_FAILURE }
}

fn tell(failure: &Problem, json: bool) -> u8 {
    if !json
        || print_json(&Failed {
            exit_code: failure.exit_code,
            error: failure,
        })
        .is_err()
    {
        tell_person(failure);
    }
    failure.exit_code
}
