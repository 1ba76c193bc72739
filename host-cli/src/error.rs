//! Errors as text, and as what one process tells another.

use std::error::Error;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// The exit code that stands for a failure of the engine, and for wrong use.
pub const ENGINE_FAILURE: u8 = 125;

/// An error that was met by another process, or at another time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// A word for programs: stable, kebab-case.
    pub code: String,
    /// What happened, with its causes, in one line.
    pub message: String,
    /// What to do about it, if we know.
    pub hint: Option<String>,
    /// The newest lines of the guest's console, where they may help.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub console: Vec<String>,
    /// What a program exits with for it.
    pub exit_code: u8,
}

impl Problem {
    /// A failure of the engine.
    #[must_use]
    pub fn new(code: &str, message: String) -> Self {
        Self {
            code: code.to_owned(),
            message,
            hint: None,
            console: Vec::new(),
            exit_code: ENGINE_FAILURE,
        }
    }

    /// An error with its causes.
    #[must_use]
    pub fn of(code: &str, error: &dyn Error) -> Self {
        Self::new(code, chain(error))
    }
}

/// An error and its causes in one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open {name}")]
    struct CannotOpen {
        name: &'static str,
        source: std::io::Error,
    }

    #[test]
    fn causes_follow_in_one_line() {
        let error = CannotOpen {
            name: "x",
            source: std::io::Error::other("disk on fire"),
        };
        assert_eq!(chain(&error), "cannot open x: disk on fire");
    }
}
