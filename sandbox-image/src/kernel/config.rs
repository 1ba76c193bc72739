//! The configuration fragment, and whether a finished `.config` is what it says.
//!
//! Kconfig drops a line whose dependencies do not hold without a word, so every line of the fragment
//! is looked up in the result.

use std::collections::BTreeMap;
use std::fmt;

/// The configuration is not what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A line of the fragment is neither an assignment, nor an "is not set", nor a comment.
    #[error("kernel fragment, line {line}: cannot read {text:?}")]
    Syntax {
        /// Which, counted from 1.
        line: usize,
        /// What it says.
        text: String,
    },
    /// Lines of the fragment did not survive.
    #[error("the kernel's configuration does not follow its fragment:{}", list(.0))]
    Lost(Vec<Lost>),
}

/// An option that came out otherwise than the fragment says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The option, `CONFIG_...`.
    pub option: String,
    /// What the fragment says; `None` is "not set".
    pub wanted: Option<String>,
    /// What came out.
    pub got: Option<String>,
}

impl fmt::Display for Lost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let say = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
        let (wanted, got) = (say(&self.wanted), say(&self.got));
        write!(out, "{} is to be {wanted} and is {got}", self.option)
    }
}

/// Checks that every line of the fragment holds in the finished configuration.
///
/// # Errors
/// With all the lines that do not.
pub(super) fn verify(fragment: &str, finished: &str) -> Result<(), ConfigError> {
    let wanted = parse(fragment)?;
    let got = parse(finished)?;
    let lost: Vec<_> = wanted
        .into_iter()
        .filter_map(|(option, wanted)| {
            let got = got.get(&option).cloned().flatten();
            (got != wanted).then_some(Lost {
                option,
                wanted,
                got,
            })
        })
        .collect();
    if lost.is_empty() {
        return Ok(());
    }
    Err(ConfigError::Lost(lost))
}

/// The options of a configuration; `None` is one that is not set.
fn parse(text: &str) -> Result<BTreeMap<String, Option<String>>, ConfigError> {
    let mut options = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_end();
        let unset = line
            .strip_prefix("# ")
            .and_then(|rest| rest.strip_suffix(" is not set"))
            .filter(|name| is_option(name));
        if let Some(option) = unset {
            options.insert(option.to_owned(), None);
        } else if let Some((option, value)) = line.split_once('=').filter(|(o, _)| is_option(o)) {
            options.insert(option.to_owned(), Some(value.to_owned()));
        } else if !line.is_empty() && !line.starts_with('#') {
            return Err(ConfigError::Syntax {
                line: index + 1,
                text: line.to_owned(),
            });
        }
    }
    Ok(options)
}

fn is_option(text: &str) -> bool {
    text.strip_prefix("CONFIG_").is_some_and(|name| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}

fn list(lost: &[Lost]) -> String {
    lost.iter().map(|lost| format!("\n  {lost}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn own_fragment_can_be_read_and_holds_for_itself() {
        verify(super::super::FRAGMENT, super::super::FRAGMENT).unwrap();
        assert!(parse(super::super::FRAGMENT).unwrap().len() > 100);
    }

    #[test]
    fn dropped_option_is_named_with_what_was_wanted() {
        let error = verify("CONFIG_A=y\nCONFIG_B=\"x\"\n", "CONFIG_B=\"x\"\n").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("CONFIG_A is to be y and is not set"),
            "{text}"
        );
        assert!(!text.contains("CONFIG_B"), "{text}");
    }

    #[test]
    fn option_that_came_back_is_an_error() {
        let error = verify("# CONFIG_A is not set\n", "CONFIG_A=y\n").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("CONFIG_A is to be not set and is y"),
            "{text}"
        );
    }

    #[test]
    fn option_that_kconfig_does_not_mention_is_not_set() {
        verify("# CONFIG_A is not set\n", "# a comment\n").unwrap();
    }

    #[test]
    fn misspelt_line_is_refused_by_number() {
        let error = verify("CONFIG_A=y\nCONFG_B=y\n", "").unwrap_err();
        assert!(
            matches!(error, ConfigError::Syntax { line: 2, .. }),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text: String) {
            let _ = parse(&text);
        }

        #[test]
        fn what_kconfig_writes_is_read_back(
            options in prop::collection::btree_map("CONFIG_[A-Z0-9_]{1,8}", prop::option::of("[ym0-9]"), 0..20),
        ) {
            let text: String = options
                .iter()
                .map(|(option, value)| match value {
                    Some(value) => format!("{option}={value}\n"),
                    None => format!("# {option} is not set\n"),
                })
                .collect();
            prop_assert_eq!(parse(&text).unwrap(), options);
        }
    }
}
