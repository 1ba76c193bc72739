//! The commands of a system that has no sandboxes yet.

use std::ffi::OsString;

use super::args::{Cli, Command};
use super::commands;
use super::complete::{self, Found, Named, Wanted};
use crate::error::{ErrorKind, Problem};
use crate::spec::ImageChoice;
use crate::tier::elsewhere;
use crate::tier::facts::{Facts, Unavailable};

/// Does what the command line says. Returns what the program exits with.
pub(super) fn main(args: &[OsString]) -> u8 {
    if let Some(code) = complete::answer(args) {
        return code;
    }
    super::with(args, act)
}

/// Nobody reads standard output any more: whoever left has what he wanted.
pub(super) fn end_unread() {
    std::process::exit(0);
}

/// There are none.
pub(super) fn sandboxes(_wanted: Wanted) -> Vec<Named> {
    Vec::new()
}

/// There are none.
pub(super) fn filters() -> Vec<String> {
    Vec::new()
}

/// There are none.
pub(super) fn images() -> Vec<Named> {
    Vec::new()
}

/// There are none.
pub(super) fn files(
    _sandbox: &str,
    _user: Option<&str>,
    _folder: &str,
    _start: &str,
) -> Vec<Found> {
    Vec::new()
}

/// What this machine has, for any image.
pub(super) fn facts(_image: &ImageChoice) -> Facts {
    elsewhere::facts()
}

/// No tier has a use for one.
pub(super) fn image_lacks(_image: &ImageChoice) -> Option<Unavailable> {
    None
}

fn act(cli: Cli) -> Result<u8, Problem> {
    let global = cli.global;
    match cli.command {
        Command::Doctor(args) => commands::doctor::doctor(args, global),
        Command::Completions(args) => commands::generate::completions(&args),
        Command::Man(args) => commands::generate::man(&args),
        Command::Version => commands::generate::version(global),
        _ => Err(Problem {
            hint: Some("run it on Linux, or in WSL 2".to_owned()),
            ..Problem::new(
                ErrorKind::OtherSystem,
                format!("sandboxes need Linux; this is {}", std::env::consts::OS),
            )
        }),
    }
}
