//! Limits of a command, as a user types them.

use std::num::IntErrorKind;

use agent_protocol::limits::{Amount, Resource, ResourceLimit};

use super::values::{ValueError, parse_size};
use crate::spec::MAX_PROCESSES;

/// No name is nearer to another than this without being meant.
const SIMILAR: f64 = 0.6;

/// What is no limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LimitError {
    /// Not of the form.
    #[error("a limit is NAME=SOFT or NAME=SOFT:HARD: nofile=256, fsize=1G:unlimited")]
    Form,
    /// Not a resource.
    #[error("no limit is called {name:?}{}; there are: {}", meant(.0), names(), name = .0)]
    Unknown(String),
    /// Not an amount.
    #[error("{text:?} is no limit for {resource}: {expected}")]
    Amount {
        /// What was typed.
        text: String,
        /// Of what.
        resource: Resource,
        /// What would be one.
        expected: &'static str,
    },
    /// An amount that does not fit.
    #[error("{text:?} is too large a limit for {resource}")]
    TooLarge {
        /// What was typed.
        text: String,
        /// Of what.
        resource: Resource,
    },
    /// The soft limit is above the hard one.
    #[error("the soft limit of {resource}, {soft}, is above the hard one, {hard}")]
    Order {
        /// Of what.
        resource: Resource,
        /// The soft limit.
        soft: String,
        /// The hard limit.
        hard: String,
    },
    /// Not a number of processes.
    #[error("a command may be 1 to {MAX_PROCESSES} processes")]
    Processes,
}

/// A limit: `nofile=256`, `fsize=1G:unlimited`.
pub(super) fn parse_limit(text: &str) -> Result<ResourceLimit, LimitError> {
    let (name, amounts) = text.split_once('=').ok_or_else(|| {
        // A name alone that is none is told as such.
        match resource(text) {
            Ok(_) => LimitError::Form,
            Err(unknown) => unknown,
        }
    })?;
    let resource = resource(name)?;
    let (soft, hard) = amounts.split_once(':').unwrap_or((amounts, amounts));
    let (soft, hard) = (amount(resource, soft)?, amount(resource, hard)?);
    if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
        return Err(LimitError::Order {
            resource,
            soft: Amount(soft).to_string(),
            hard: Amount(hard).to_string(),
        });
    }
    Ok(ResourceLimit {
        resource,
        soft,
        hard,
    })
}

/// How many processes a command may be.
pub(super) fn parse_pid_limit(text: &str) -> Result<u32, LimitError> {
    let processes = text.parse().map_err(|_| LimitError::Processes)?;
    match processes {
        1..=MAX_PROCESSES => Ok(processes),
        _ => Err(LimitError::Processes),
    }
}

/// A resource by its name, in the kernel's spelling too.
fn resource(name: &str) -> Result<Resource, LimitError> {
    let lower = name.to_lowercase();
    let plain = lower.strip_prefix("rlimit_").unwrap_or(&lower);
    let known = Resource::ALL.into_iter().find(|it| it.name() == plain);
    known.ok_or_else(|| LimitError::Unknown(name.to_owned()))
}

fn amount(resource: Resource, text: &str) -> Result<Option<u64>, LimitError> {
    // The second is what other engines take.
    if matches!(text, "unlimited" | "-1") {
        return Ok(None);
    }
    let too_large = || LimitError::TooLarge {
        text: text.to_owned(),
        resource,
    };
    let parsed = match text.parse::<u64>() {
        Ok(number) => Some(number),
        Err(error) if *error.kind() == IntErrorKind::PosOverflow => return Err(too_large()),
        Err(_) if resource.is_in_bytes() => match parse_size(text) {
            Err(ValueError::SizeTooLarge) => return Err(too_large()),
            size => size.ok(),
        },
        Err(_) => None,
    };
    // The kernel's RLIM_INFINITY.
    if parsed == Some(u64::MAX) {
        return Ok(None);
    }
    parsed.map(Some).ok_or_else(|| LimitError::Amount {
        text: text.to_owned(),
        resource,
        expected: match resource.is_in_bytes() {
            true => "a number of bytes, a size (64K, 1G), or unlimited",
            false => "a whole number, or unlimited",
        },
    })
}

fn meant(name: &str) -> String {
    let nearness =
        |resource: &Resource| strsim::jaro_winkler(resource.name(), &name.to_lowercase());
    Resource::ALL
        .into_iter()
        .filter(|resource| nearness(resource) > SIMILAR)
        .max_by(|a, b| nearness(a).total_cmp(&nearness(b)))
        .map_or_else(String::new, |resource| {
            format!("; did you mean {resource}?")
        })
}

fn names() -> String {
    Resource::ALL.map(Resource::name).join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit(text: &str) -> Result<(Resource, Option<u64>, Option<u64>), String> {
        parse_limit(text)
            .map(|limit| (limit.resource, limit.soft, limit.hard))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn one_amount_is_both_limits() {
        let both = |resource, amount| Ok((resource, amount, amount));
        assert_eq!(limit("nofile=256"), both(Resource::Nofile, Some(256)));
        assert_eq!(limit("RLIMIT_CPU=3"), both(Resource::Cpu, Some(3)));
        assert_eq!(limit("fsize=64K"), both(Resource::Fsize, Some(65_536)));
        assert_eq!(limit("core=unlimited"), both(Resource::Core, None));
        assert_eq!(limit("as=-1"), both(Resource::As, None));
        let two = Ok((Resource::Nofile, Some(1), None));
        assert_eq!(limit("nofile=1:unlimited"), two);
    }

    #[test]
    fn unknown_names_are_told_with_the_known_ones() {
        let error = limit("nofiles=3").unwrap_err();
        assert!(error.contains("did you mean nofile?"), "{error}");
        assert!(error.contains("as, core, cpu"), "{error}");
        let error = limit("zzz=3").unwrap_err();
        assert!(!error.contains("did you mean"), "{error}");
        assert!(
            limit("open-files")
                .unwrap_err()
                .contains("no limit is called")
        );
    }

    #[test]
    fn what_is_no_amount_is_refused_by_name() {
        for text in [
            "nofile=",
            "nofile=1K",
            "nofile=-2",
            "nofile=1:2:3",
            "cpu=1s",
            "nofile=0x1",
        ] {
            let error = limit(text).unwrap_err();
            assert!(error.contains("is no limit for"), "{text}: {error}");
        }
        assert!(
            limit("nofile=99999999999999999999")
                .unwrap_err()
                .contains("too large")
        );
        assert!(limit("fsize=99999999T").unwrap_err().contains("too large"));
        assert!(limit("nofile").unwrap_err().contains("NAME=SOFT"));
        let error = limit("nofile=9:3").unwrap_err();
        assert_eq!(
            error,
            "the soft limit of nofile, 9, is above the hard one, 3"
        );
        assert!(limit("nofile=unlimited:3").is_err());
    }

    #[test]
    fn a_command_is_one_process_at_least() {
        assert_eq!(parse_pid_limit("1"), Ok(1));
        for text in ["0", "-1", "x", "", "99999999"] {
            assert_eq!(parse_pid_limit(text), Err(LimitError::Processes), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in ".{0,30}", name in "[a-z]{0,4}") {
            let _ = (parse_limit(&text), parse_limit(&format!("{name}={text}")));
            let _ = parse_pid_limit(&text);
        }
    }
}
