//! What is known about the tiers on this machine: which can be had, and why the others cannot.

use serde::Serialize;

use super::{Isolation, Tier};
use crate::error::ErrorKind;

/// What the probes found out. A tier that was not looked at has no finding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    findings: Vec<Finding>,
}

impl Facts {
    /// Facts that consist of these findings.
    #[must_use]
    pub fn new(findings: Vec<Finding>) -> Self {
        Self { findings }
    }

    /// Adds a finding, in the place of what was known of that tier before.
    pub fn set(&mut self, finding: Finding) {
        self.findings.retain(|known| known.tier != finding.tier);
        self.findings.push(finding);
    }

    /// What was found out about a tier.
    #[must_use]
    pub fn of(&self, tier: Tier) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.tier == tier)
    }

    /// Whether a tier's daemon took a connection and said nothing.
    pub(crate) fn is_silent(&self, tier: Tier) -> bool {
        let finding = self.of(tier);
        finding.is_some_and(|finding| finding.is_unavailable(ErrorKind::DaemonSilent))
    }

    /// Whether the caller gave up while a tier was looked at.
    pub(crate) fn is_interrupted(&self) -> bool {
        let mut findings = self.findings.iter();
        findings.any(|finding| finding.is_unavailable(ErrorKind::Interrupted))
    }

    /// Every finding, strongest tier first.
    pub fn iter(&self) -> impl Iterator<Item = &Finding> {
        Tier::ALL.into_iter().filter_map(|tier| self.of(tier))
    }
}

/// What one probe found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The tier that was looked at.
    pub tier: Tier,
    /// The isolation that it would reach here, or why it cannot be had.
    pub outcome: Result<Isolation, Unavailable>,
    /// If it can be had, but reaches less than it could elsewhere: why.
    pub shortfall: Option<Unavailable>,
}

impl Finding {
    /// The finding that a tier is what it is, or is not to be had.
    #[must_use]
    pub const fn new(tier: Tier, outcome: Result<Isolation, Unavailable>) -> Self {
        Self {
            tier,
            outcome,
            shortfall: None,
        }
    }

    fn is_unavailable(&self, code: ErrorKind) -> bool {
        matches!(&self.outcome, Err(reason) if reason.code == code)
    }
}

/// Why a tier cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Unavailable {
    /// Why, in a word for programs.
    pub code: ErrorKind,
    /// The cause, for people: one line without a full stop.
    pub cause: String,
    /// What to do about it, if anything can be done.
    pub remedy: Option<String>,
}

impl Unavailable {
    /// The code of a tier that belongs to another operating system.
    pub const OTHER_SYSTEM: ErrorKind = ErrorKind::OtherSystem;

    /// This release does not contain the tier.
    #[must_use]
    pub fn not_built() -> Self {
        Self {
            code: ErrorKind::NotBuilt,
            cause: "not built into this version yet".to_owned(),
            remedy: None,
        }
    }

    /// The tier belongs to another operating system.
    #[must_use]
    pub fn other_system(needed: &str) -> Self {
        Self {
            code: Self::OTHER_SYSTEM,
            cause: format!("needs {needed}; this is {}", std::env::consts::OS),
            remedy: None,
        }
    }

    /// The probe passed, and yet no sandbox came up.
    #[must_use]
    pub fn start_failed(cause: String, remedy: Option<String>) -> Self {
        Self {
            code: ErrorKind::StartFailed,
            cause,
            remedy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_finding_takes_the_place_of_the_older() {
        let found = Finding::new(Tier::Microvm, Ok(Isolation::Vm));
        let mut facts = Facts::new(vec![found]);
        let failed = Unavailable::start_failed("no answer".to_owned(), None);
        facts.set(Finding::new(Tier::Microvm, Err(failed.clone())));
        assert_eq!(
            facts.of(Tier::Microvm).map(|f| f.outcome.clone()),
            Some(Err(failed))
        );
        assert_eq!(facts.iter().count(), 1);
    }

    #[test]
    fn findings_come_strongest_first() {
        let finding = |tier| Finding::new(tier, Ok(Isolation::None));
        let facts = Facts::new(vec![finding(Tier::Local), finding(Tier::Microvm)]);
        let order: Vec<_> = facts.iter().map(|f| f.tier).collect();
        assert_eq!(order, [Tier::Microvm, Tier::Local]);
    }
}
