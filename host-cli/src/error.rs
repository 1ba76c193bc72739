//! Errors as text.

use std::error::Error;
use std::fmt::Write;

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
