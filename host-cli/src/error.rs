//! Errors as text, and as what one process tells another.

mod kind;

use std::error::Error;
use std::fmt::Write;
use std::io;

use serde::{Deserialize, Serialize};

pub use self::kind::ErrorKind;
use crate::tier::Tier;
use crate::tier::place::PassedOver;

/// The exit code that stands for a failure of the engine, and for wrong use.
pub const ENGINE_FAILURE: u8 = 125;

/// An error as people and programs are told of it, here or by another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[error("{message}")]
pub struct Problem {
    /// What kind of error it is: one word of a closed list.
    pub code: ErrorKind,
    /// What happened, with its causes, in one line.
    pub message: String,
    /// What to do about it, if that is known.
    pub hint: Option<String>,
    /// The tier in which it happened, or that was asked for, if it is of one.
    #[serde(default)]
    pub tier: Option<Tier>,
    /// What a program exits with for it.
    pub exit_code: u8,
    /// The newest lines of the guest's console, where they may help.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub console: Vec<String>,
    /// The tiers that were passed over before it came to this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<PassedOver>,
}

impl Problem {
    /// A failure of the engine.
    #[must_use]
    pub fn new(code: ErrorKind, message: String) -> Self {
        Self {
            code,
            message,
            hint: None,
            tier: None,
            exit_code: ENGINE_FAILURE,
            console: Vec::new(),
            passed_over: Vec::new(),
        }
    }

    /// An error with its causes.
    #[must_use]
    pub fn of(code: ErrorKind, error: &dyn Error) -> Self {
        Self::new(code, chain(error))
    }

    /// An error with its causes, of something that keeps files in the folder that `variable` names.
    #[must_use]
    pub fn of_keeping(
        code: ErrorKind,
        error: &(dyn Error + 'static),
        variable: &'static str,
    ) -> Self {
        Self {
            hint: has_no_place(error).then(|| elsewhere(variable)),
            ..Self::of(code, error)
        }
    }

    /// The same, of this tier, unless it knows better.
    #[must_use]
    pub fn in_tier(self, tier: Option<Tier>) -> Self {
        Self {
            tier: self.tier.or(tier),
            ..self
        }
    }
}

/// What to do about a folder in which nothing can be kept; `variable` names another.
#[must_use]
pub fn elsewhere(variable: &str) -> String {
    format!("see that there is room and that you may write there, or set {variable}")
}

/// Whether an error's cause is that nothing can be kept in some folder.
fn has_no_place(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied
                    | io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
            );
        }
        cause = error.source();
    }
    false
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
        source: io::Error,
    }

    #[test]
    fn causes_follow_in_one_line() {
        let error = CannotOpen {
            name: "x",
            source: io::Error::other("disk on fire"),
        };
        assert_eq!(chain(&error), "cannot open x: disk on fire");
    }

    #[test]
    fn the_cause_tells_whether_there_is_no_place() {
        let caused = |kind: io::ErrorKind| CannotOpen {
            name: "x",
            source: kind.into(),
        };
        assert!(has_no_place(&caused(io::ErrorKind::PermissionDenied)));
        assert!(has_no_place(&caused(io::ErrorKind::StorageFull)));
        assert!(!has_no_place(&caused(io::ErrorKind::NotFound)));
    }

    #[test]
    fn what_has_no_hint_and_no_tier_says_so() {
        let problem = Problem::new(ErrorKind::Usage, "m".to_owned());
        let expected = serde_json::json!({
            "code": "usage", "message": "m", "hint": null, "tier": null, "exit_code": 125
        });
        assert_eq!(serde_json::to_value(&problem).unwrap(), expected);
        let problem = problem.in_tier(Some(Tier::Local));
        assert_eq!(problem.tier, Some(Tier::Local));
        assert_eq!(problem.in_tier(Some(Tier::Docker)).tier, Some(Tier::Local));
    }
}
