//! How a failure is told: one message, what to do about it, and an exit code.

#[cfg(target_os = "linux")]
pub(super) mod sandbox;

use std::io::Write;

use serde::Serialize;

use super::plan::PlanError;
use crate::error::{ENGINE_FAILURE, Problem, chain};
use crate::tier::Tier;
use crate::tier::place::PassedOver;

/// Something that the user must be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Failure {
    /// A word for programs.
    pub(super) code: Box<str>,
    /// What happened, in one line.
    pub(super) message: String,
    /// What to do about it.
    pub(super) hint: Option<String>,
    /// The newest lines of the guest's console, where they may help.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) console: Vec<String>,
    /// What this program exits with.
    #[serde(skip)]
    pub(super) exit_code: u8,
    /// The tier in which it happened, or that was asked for.
    #[serde(skip)]
    pub(super) tier: Option<Tier>,
    /// The tiers that were passed over before it came to this.
    #[serde(skip)]
    pub(super) passed_over: Vec<PassedOver>,
}

impl Failure {
    /// A failure of the engine.
    pub(super) fn new(code: impl Into<Box<str>>, message: String) -> Self {
        Self {
            code: code.into(),
            message,
            hint: None,
            console: Vec::new(),
            exit_code: ENGINE_FAILURE,
            tier: None,
            passed_over: Vec::new(),
        }
    }

    /// An error with its causes.
    pub(super) fn of(code: &'static str, error: &dyn std::error::Error) -> Self {
        Self::new(code, chain(error))
    }

    /// Tells a person, on standard error.
    pub(super) fn print(&self) {
        let mut text = format!("sovereign: {}\n", self.message);
        for line in &self.console {
            text.push_str(&format!("  | {line}\n"));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("  hint: {hint}\n"));
        }
        say(&text);
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        Self::of("usage", &error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::of("system", &error)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let Problem {
            code,
            message,
            hint,
            console,
            exit_code,
        } = problem;
        Self {
            hint,
            console,
            exit_code,
            ..Self::new(code, message)
        }
    }
}

/// Writes to standard error; if nobody reads it, nobody is to be told.
pub(super) fn say(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Writes to standard output. A reader that has left is no failure.
///
/// # Errors
///
/// If it cannot be written for another reason.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new("output", format!("standard output: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes an object to standard output, as JSON.
///
/// # Errors
///
/// As [`print`].
pub(super) fn print_json(object: &impl Serialize) -> Result<(), Failure> {
    let text =
        serde_json::to_string_pretty(object).map_err(|error| Failure::of("output", &error))?;
    print(&format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_in_json_has_code_message_and_hint() {
        let failure = Failure {
            hint: Some("do".to_owned()),
            ..Failure::new("c", "m".to_owned())
        };
        assert_eq!(
            serde_json::to_value(failure).unwrap(),
            serde_json::json!({ "code": "c", "message": "m", "hint": "do" })
        );
    }
}
