//! How a failure is told: one message, what to do about it, and an exit code.

#[cfg(target_os = "linux")]
pub(super) mod sandbox;
mod stdout;

use std::io::Write;

use serde::Serialize;

pub(super) use self::stdout::Stdout;
use super::legible;
use super::plan::PlanError;
use crate::error::{ErrorKind, Problem};

/// A command that failed as a whole, in JSON.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Failed<'a> {
    /// What the program exits with.
    pub(super) exit_code: u8,
    /// Why.
    pub(super) error: &'a Problem,
}

/// Tells a person, on standard error.
pub(super) fn tell_person(problem: &Problem) {
    say(&told(problem));
}

/// What may come from a sandbox, a path or a message, begins no line of its own.
fn told(problem: &Problem) -> String {
    let mut text = format!("sovereign: {}\n", legible::text(&problem.message));
    for line in &problem.console {
        text.push_str(&format!("  | {line}\n"));
    }
    if let Some(hint) = &problem.hint {
        text.push_str(&format!("  hint: {hint}\n"));
    }
    text
}

impl From<PlanError> for Problem {
    fn from(error: PlanError) -> Self {
        Self::of(ErrorKind::Usage, &error)
    }
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        Self::of(ErrorKind::System, &error)
    }
}

/// Writes lines to standard error, without what would command a terminal; if nobody reads it, nobody is to
/// be told.
pub(super) fn say(text: &str) {
    let text = legible::lines(text);
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Writes to standard output, at once.
///
/// # Errors
///
/// If it cannot be written.
pub(super) fn print(text: &str) -> Result<(), Problem> {
    let written = Stdout.write_all(text.as_bytes());
    written
        .and_then(|()| Stdout.flush())
        .map_err(|error| Problem::new(ErrorKind::Output, format!("standard output: {error}")))
}

/// Writes an object to standard output, as JSON in one line.
///
/// # Errors
///
/// As [`print`].
#[cfg(target_os = "linux")]
pub(super) fn print_json_line(object: &impl Serialize) -> Result<(), Problem> {
    let text =
        serde_json::to_string(object).map_err(|error| Problem::of(ErrorKind::Output, &error))?;
    print(&format!("{text}\n"))
}

/// Writes an object to standard output, as JSON.
///
/// # Errors
///
/// As [`print`].
pub(super) fn print_json(object: &impl Serialize) -> Result<(), Problem> {
    let text = serde_json::to_string_pretty(object)
        .map_err(|error| Problem::of(ErrorKind::Output, &error))?;
    print(&format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_of_a_sandbox_stays_in_its_line() {
        let message = "/tmp/x\nsovereign: all is well\x1b[2J: no such file".to_owned();
        let problem = Problem {
            hint: Some("look".to_owned()),
            ..Problem::new(ErrorKind::NoSuchFile, message)
        };
        assert_eq!(
            told(&problem),
            "sovereign: /tmp/x\\nsovereign: all is well\\x1b[2J: no such file\n  hint: look\n"
        );
    }
}
