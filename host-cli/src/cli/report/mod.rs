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
use crate::tier::choose::{self, PassedOver};
use crate::tier::facts::Unavailable;

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
pub(super) fn told(problem: &Problem) -> String {
    if let Some(each) = by_tier(problem) {
        return each;
    }
    let mut text = format!("sovereign: {}\n", legible::text(&problem.message));
    for line in &problem.console {
        text.push_str(&format!("  | {line}\n"));
    }
    if let Some(hint) = &problem.hint {
        text.push_str(&format!("  hint: {hint}\n"));
    }
    text
}

/// The same of a problem that lies with every tier: what each lacks, and what to do about it, has lines
/// of its own. In the message, which is one line, they follow each other.
fn by_tier(problem: &Problem) -> Option<String> {
    let over: Vec<_> = problem.passed_over.iter().map(PassedOver::from).collect();
    let list = choose::list(&over);
    let message = problem.message.strip_suffix(&list);
    let message = message.filter(|_| !list.is_empty())?;
    let mut text = format!("sovereign: {}\n", legible::text(message));
    for PassedOver { tier, reason } in &over {
        if reason.code == Unavailable::OTHER_SYSTEM {
            continue;
        }
        text.push_str(&format!("  {tier}: {}\n", legible::text(&reason.cause)));
        if let Some(remedy) = &reason.remedy {
            text.push_str(&format!("    -> {}\n", legible::text(remedy)));
        }
    }
    let remedies = choose::remedies(&over).unwrap_or_default();
    let hint = problem.hint.as_deref().unwrap_or_default();
    let hint = hint.strip_prefix(&remedies).unwrap_or(hint);
    match hint.trim_start_matches("; ") {
        "" => {}
        hint => text.push_str(&format!("  hint: {hint}\n")),
    }
    Some(text)
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
    use crate::policy::Policy;
    use crate::tier::facts::{Facts, Finding};
    use crate::tier::{Isolation, Tier};

    #[test]
    fn what_each_tier_lacks_has_lines_of_its_own() {
        let lacking = |tier: Tier, remedy: Option<&str>| {
            let reason = Unavailable {
                code: ErrorKind::StartFailed,
                cause: format!("{tier} is broken"),
                remedy: remedy.map(str::to_owned),
            };
            Finding::new(tier, Err(reason))
        };
        let mut facts = Facts::new(vec![
            lacking(Tier::Microvm, Some("mend it")),
            lacking(Tier::Docker, None),
            lacking(Tier::Podman, Some("mend it")),
            Finding::new(
                Tier::AppContainer,
                Err(Unavailable::other_system("Windows")),
            ),
            lacking(Tier::Local, Some("mend it")),
        ]);
        let problem = |facts: &Facts| {
            let error = choose::choose(&Policy::default(), facts).unwrap_err();
            Problem {
                hint: error.hint(),
                passed_over: error.passed_over().iter().map(Into::into).collect(),
                ..Problem::of(error.kind(), &error)
            }
        };
        let tiers = "  microvm: microvm is broken\n    -> mend it\n  docker: docker is broken\n  \
                     podman: podman is broken\n    -> mend it\n";
        assert_eq!(
            told(&problem(&facts)),
            format!(
                "sovereign: no sandbox can be had on this machine\n{tiers}  local: local is broken\n    \
                 -> mend it\n"
            )
        );
        facts.set(Finding::new(Tier::Local, Ok(Isolation::None)));
        let told = told(&problem(&facts));
        let rest = told
            .strip_prefix(
                "sovereign: no sandbox can be had on this machine, and running on the host itself \
                 (isolation none) was not allowed\n",
            )
            .unwrap();
        let hint = rest.strip_prefix(tiers).unwrap();
        assert!(hint.starts_with("  hint: to run on the host itself, say --tier local"));
        assert_eq!(hint.lines().count(), 1);
    }

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
