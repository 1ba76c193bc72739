//! The choice among the tiers: a pure function of the policy and of what the probes found.
//!
//! Silent downgrades are the recurring bug of this field, so the rules are few and hard:
//!
//! - without a wish, the strongest tier whose probe passed is taken, and the host itself only with
//!   consent;
//! - a tier that is named is had, or there is an error: never another tier;
//! - the floor (`--min-isolation`) is lowered by nothing;
//! - whatever is passed over is named with the reason.

use serde::Serialize;

use super::facts::{Facts, Unavailable};
use super::{Isolation, Tier};
use crate::error::ErrorKind;
use crate::policy::Policy;

/// The tier that is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// The tier.
    pub tier: Tier,
    /// The isolation that it reaches on this machine.
    pub isolation: Isolation,
    /// If that is less than the tier reaches elsewhere: why.
    pub shortfall: Option<Unavailable>,
    /// The stronger tiers that were not taken, strongest first.
    pub passed_over: Vec<PassedOver>,
}

/// A tier that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PassedOver {
    /// The tier.
    pub tier: Tier,
    /// Why.
    #[serde(flatten)]
    pub reason: Unavailable,
}

/// Why there is no tier to take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    /// The tier that was named cannot be had.
    #[error("tier {tier} cannot be had: {}", reason.cause)]
    Unavailable {
        /// The tier that was named.
        tier: Tier,
        /// Why it cannot be had.
        reason: Unavailable,
    },
    /// The tier that was named is weaker than the floor.
    #[error("tier {tier} {}", below(*reached, *floor, shortfall.as_ref()))]
    BelowFloor {
        /// The tier that was named.
        tier: Tier,
        /// What it reaches.
        reached: Isolation,
        /// What is demanded.
        floor: Isolation,
        /// Why it does not reach more, if it could elsewhere.
        shortfall: Option<Unavailable>,
    },
    /// No tier passed.
    #[error("no sandbox can be had on this machine{}", list(passed_over))]
    NothingLeft {
        /// Every tier, strongest first.
        passed_over: Vec<PassedOver>,
    },
    /// Only the host itself is left, and nobody has consented to that.
    #[error(
        "no sandbox can be had on this machine, and running on the host itself (isolation \
         {isolation}) was not allowed{}",
        list(passed_over)
    )]
    ConsentNeeded {
        /// What the local tier would reach.
        isolation: Isolation,
        /// Every stronger tier, strongest first.
        passed_over: Vec<PassedOver>,
    },
}

impl ChooseError {
    /// What kind of error it is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Unavailable { .. } => ErrorKind::TierUnavailable,
            Self::BelowFloor { .. } => ErrorKind::BelowMinIsolation,
            Self::NothingLeft { .. } => ErrorKind::NoTier,
            Self::ConsentNeeded { .. } => ErrorKind::ConsentNeeded,
        }
    }

    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unavailable { reason, .. } => reason.remedy.clone(),
            Self::BelowFloor {
                floor, shortfall, ..
            } => Some(match shortfall.as_ref().and_then(|s| s.remedy.as_ref()) {
                Some(remedy) => format!("{remedy}; or lower --min-isolation {floor}"),
                None => format!(
                    "leave --tier out to get the strongest tier, or lower --min-isolation {floor}"
                ),
            }),
            Self::NothingLeft { passed_over } => remedies(passed_over),
            Self::ConsentNeeded { passed_over, .. } => {
                let allow = "to run on the host itself, say --tier local or set \
                             SOVEREIGN_ALLOW_LOCAL=1";
                Some(match remedies(passed_over) {
                    Some(remedies) => format!("{remedies}; {allow}"),
                    None => allow.to_owned(),
                })
            }
        }
    }

    /// The tier that was named.
    #[must_use]
    pub const fn tier(&self) -> Option<Tier> {
        match self {
            Self::Unavailable { tier, .. } | Self::BelowFloor { tier, .. } => Some(*tier),
            Self::NothingLeft { .. } | Self::ConsentNeeded { .. } => None,
        }
    }

    /// The tiers that were passed over on the way to this error.
    #[must_use]
    pub fn passed_over(&self) -> &[PassedOver] {
        match self {
            Self::NothingLeft { passed_over } | Self::ConsentNeeded { passed_over, .. } => {
                passed_over
            }
            Self::Unavailable { .. } | Self::BelowFloor { .. } => &[],
        }
    }
}

/// Chooses a tier.
///
/// # Errors
///
/// If no tier satisfies the policy; the error says why each one was passed over.
pub fn choose(policy: &Policy, facts: &Facts) -> Result<Choice, ChooseError> {
    match policy.tier {
        Some(tier) => take_named(tier, policy.min_isolation, facts),
        None => take_strongest(policy, facts),
    }
}

/// Checks that a tier reaches a floor on some machine: a contradiction between two flags is told as
/// such, whatever this machine has.
///
/// # Errors
///
/// If it does not.
pub(crate) fn check_floor(tier: Tier, floor: Isolation) -> Result<(), ChooseError> {
    let reached = tier.strongest_isolation();
    if reached >= floor {
        return Ok(());
    }
    Err(ChooseError::BelowFloor {
        tier,
        reached,
        floor,
        shortfall: None,
    })
}

fn take_named(tier: Tier, floor: Isolation, facts: &Facts) -> Result<Choice, ChooseError> {
    let below = |reached, shortfall| ChooseError::BelowFloor {
        tier,
        reached,
        floor,
        shortfall,
    };
    check_floor(tier, floor)?;
    match finding(facts, tier) {
        Ok((isolation, shortfall)) if isolation < floor => Err(below(isolation, shortfall)),
        Ok((isolation, shortfall)) => Ok(Choice {
            tier,
            isolation,
            shortfall,
            passed_over: Vec::new(),
        }),
        Err(reason) => Err(ChooseError::Unavailable { tier, reason }),
    }
}

fn take_strongest(policy: &Policy, facts: &Facts) -> Result<Choice, ChooseError> {
    let floor = policy.min_isolation;
    let mut passed_over = Vec::new();
    for tier in Tier::ALL {
        let reason = if tier.strongest_isolation() < floor {
            below_floor(tier.strongest_isolation(), floor, None)
        } else {
            match finding(facts, tier) {
                Ok((isolation, shortfall)) if isolation < floor => {
                    below_floor(isolation, floor, shortfall)
                }
                Ok((isolation, _)) if tier == Tier::Local && !policy.allow_local => {
                    return Err(ChooseError::ConsentNeeded {
                        isolation,
                        passed_over,
                    });
                }
                Ok((isolation, shortfall)) => {
                    return Ok(Choice {
                        tier,
                        isolation,
                        shortfall,
                        passed_over,
                    });
                }
                Err(reason) => reason,
            }
        };
        passed_over.push(PassedOver { tier, reason });
    }
    Err(ChooseError::NothingLeft { passed_over })
}

/// What a tier reaches here, and why not more.
fn finding(facts: &Facts, tier: Tier) -> Result<(Isolation, Option<Unavailable>), Unavailable> {
    let Some(finding) = facts.of(tier) else {
        return Err(Unavailable {
            code: ErrorKind::NotProbed,
            cause: "not looked for".to_owned(),
            remedy: None,
        });
    };
    let isolation = finding.outcome.clone()?;
    Ok((isolation, finding.shortfall.clone()))
}

fn below_floor(
    reached: Isolation,
    floor: Isolation,
    shortfall: Option<Unavailable>,
) -> Unavailable {
    Unavailable {
        code: ErrorKind::BelowMinIsolation,
        cause: below(reached, floor, shortfall.as_ref()),
        remedy: shortfall.and_then(|shortfall| shortfall.remedy),
    }
}

fn below(reached: Isolation, floor: Isolation, shortfall: Option<&Unavailable>) -> String {
    let why = shortfall.map_or_else(String::new, |shortfall| format!(" ({})", shortfall.cause));
    format!("gives isolation {reached}{why}, and at least {floor} is demanded")
}

/// `: microvm: why; docker: why`, without the tiers of other systems.
pub(crate) fn list(passed_over: &[PassedOver]) -> String {
    let mut text = String::new();
    for PassedOver { tier, reason } in passed_over {
        if reason.code != Unavailable::OTHER_SYSTEM {
            text.push_str(if text.is_empty() { ": " } else { "; " });
            text.push_str(&format!("{tier}: {}", reason.cause));
        }
    }
    text
}

/// `microvm: what to do; docker: what to do`, if something can be done.
pub(crate) fn remedies(passed_over: &[PassedOver]) -> Option<String> {
    let remedies: Vec<_> = passed_over
        .iter()
        .filter_map(|over| Some(format!("{}: {}", over.tier, over.reason.remedy.as_ref()?)))
        .collect();
    (!remedies.is_empty()).then(|| remedies.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::facts::Finding;

    /// The facts of a machine on which exactly these tiers can be had.
    fn machine(available: &[(Tier, Isolation)]) -> Facts {
        let finding = |tier| {
            let level = available
                .iter()
                .find(|(name, _)| *name == tier)
                .map(|(_, level)| *level);
            Finding::new(tier, level.ok_or_else(|| broken(tier)))
        };
        Facts::new(Tier::ALL.into_iter().map(finding).collect())
    }

    fn broken(tier: Tier) -> Unavailable {
        Unavailable {
            code: ErrorKind::StartFailed,
            cause: format!("{tier} is broken"),
            remedy: Some(format!("mend {tier}")),
        }
    }

    fn everything() -> Facts {
        machine(&[
            (Tier::Microvm, Isolation::Vm),
            (Tier::Docker, Isolation::Container),
            (Tier::Podman, Isolation::Container),
            (Tier::AppContainer, Isolation::Process),
            (Tier::Local, Isolation::Process),
        ])
    }

    fn auto(min_isolation: Isolation, allow_local: bool) -> Policy {
        Policy {
            tier: None,
            min_isolation,
            allow_local,
        }
    }

    fn named(tier: Tier, min_isolation: Isolation) -> Policy {
        Policy {
            tier: Some(tier),
            min_isolation,
            allow_local: false,
        }
    }

    /// What auto does on a machine whose strongest tier is the first of each row.
    #[test]
    fn auto_takes_the_strongest_tier_that_passed() {
        let rows = [
            (Tier::Microvm, Isolation::Vm),
            (Tier::Docker, Isolation::Container),
            (Tier::Podman, Isolation::Container),
            (Tier::AppContainer, Isolation::Process),
        ];
        for first in 0..rows.len() {
            let facts = machine(&rows[first..]);
            let choice = choose(&auto(Isolation::None, false), &facts).unwrap();
            assert_eq!((choice.tier, choice.isolation), rows[first]);
            let over: Vec<_> = choice.passed_over.iter().map(|over| over.tier).collect();
            assert_eq!(over, Tier::ALL[..first]);
            for over in choice.passed_over {
                assert_eq!(over.reason, broken(over.tier));
            }
        }
    }

    #[test]
    fn auto_never_takes_local_without_consent() {
        for level in [Isolation::None, Isolation::Process] {
            let facts = machine(&[(Tier::Local, level)]);
            let error = choose(&auto(Isolation::None, false), &facts).unwrap_err();
            let ChooseError::ConsentNeeded {
                isolation,
                ref passed_over,
            } = error
            else {
                panic!("{error}");
            };
            assert_eq!(isolation, level);
            assert_eq!(passed_over.len(), 4);
            assert!(error.hint().unwrap().contains("SOVEREIGN_ALLOW_LOCAL=1"));
        }
    }

    #[test]
    fn auto_takes_local_with_consent_when_nothing_stronger_is_left() {
        let facts = machine(&[(Tier::Local, Isolation::None)]);
        let choice = choose(&auto(Isolation::None, true), &facts).unwrap();
        assert_eq!(
            (choice.tier, choice.isolation),
            (Tier::Local, Isolation::None)
        );
        assert_eq!(choice.passed_over.len(), 4);
    }

    #[test]
    fn consent_does_not_make_local_preferred() {
        let choice = choose(&auto(Isolation::None, true), &everything()).unwrap();
        assert_eq!(choice.tier, Tier::Microvm);
        assert_eq!(choice.passed_over, []);
    }

    #[test]
    fn nothing_available_is_an_error_that_names_every_tier_and_remedy() {
        let error = choose(&auto(Isolation::None, true), &machine(&[])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoTier);
        for tier in Tier::ALL {
            assert!(
                error.to_string().contains(&format!("{tier} is broken")),
                "{error}"
            );
            assert!(error.hint().unwrap().contains(&format!("mend {tier}")));
        }
    }

    #[test]
    fn the_floor_holds_for_auto_whatever_else_is_allowed() {
        let without_vm = machine(&[
            (Tier::Docker, Isolation::Container),
            (Tier::AppContainer, Isolation::Process),
            (Tier::Local, Isolation::Process),
        ]);
        let rows = [
            (Isolation::Vm, None),
            (Isolation::Container, Some(Tier::Docker)),
            (Isolation::Process, Some(Tier::Docker)),
            (Isolation::None, Some(Tier::Docker)),
        ];
        for (floor, expected) in rows {
            for allow_local in [false, true] {
                let taken = choose(&auto(floor, allow_local), &without_vm)
                    .ok()
                    .map(|c| c.tier);
                assert_eq!(taken, expected, "{floor} {allow_local}");
            }
        }
    }

    #[test]
    fn the_floor_is_checked_against_what_local_reaches_here() {
        let rows = [
            (Isolation::None, Isolation::None, true),
            (Isolation::None, Isolation::Process, false),
            (Isolation::Process, Isolation::Process, true),
            (Isolation::Process, Isolation::Container, false),
            (Isolation::Process, Isolation::Vm, false),
        ];
        for (reached, floor, taken) in rows {
            let facts = machine(&[(Tier::Local, reached)]);
            assert_eq!(
                choose(&auto(floor, true), &facts).is_ok(),
                taken,
                "{reached} {floor}"
            );
            let by_name = choose(&named(Tier::Local, floor), &facts);
            assert_eq!(by_name.is_ok(), taken, "{reached} {floor}");
        }
    }

    #[test]
    fn the_floor_above_local_does_not_ask_for_consent() {
        let facts = machine(&[(Tier::Local, Isolation::Process)]);
        let error = choose(&auto(Isolation::Vm, false), &facts).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoTier);
    }

    #[test]
    fn a_named_tier_is_had_even_if_a_stronger_one_could_be() {
        for tier in Tier::ALL {
            let choice = choose(&named(tier, Isolation::None), &everything()).unwrap();
            assert_eq!(choice.tier, tier);
            assert_eq!(choice.passed_over, []);
        }
    }

    #[test]
    fn a_named_tier_that_cannot_be_had_is_never_replaced() {
        for tier in Tier::ALL {
            let mut facts = everything();
            facts.set(Finding::new(tier, Err(broken(tier))));
            let error = choose(&named(tier, Isolation::None), &facts).unwrap_err();
            assert_eq!(
                error,
                ChooseError::Unavailable {
                    tier,
                    reason: broken(tier)
                }
            );
            assert_eq!(error.hint(), Some(format!("mend {tier}")));
        }
    }

    #[test]
    fn a_named_tier_below_the_floor_is_refused_whatever_the_machine_has() {
        for tier in Tier::ALL {
            for floor in Isolation::ALL {
                let contradiction = tier.strongest_isolation() < floor;
                for facts in [everything(), machine(&[])] {
                    let outcome = choose(&named(tier, floor), &facts);
                    let refused = matches!(outcome, Err(ChooseError::BelowFloor { .. }));
                    assert_eq!(refused, contradiction, "{tier} {floor}");
                }
            }
        }
    }

    #[test]
    fn naming_local_is_consent() {
        let facts = machine(&[(Tier::Local, Isolation::None)]);
        assert!(choose(&named(Tier::Local, Isolation::None), &facts).is_ok());
    }

    #[test]
    fn a_tier_that_was_not_probed_is_not_taken() {
        let error = choose(&auto(Isolation::None, true), &Facts::default()).unwrap_err();
        assert_eq!(error.passed_over().len(), Tier::ALL.len());
    }

    #[test]
    fn a_floor_that_is_not_reached_is_told_with_the_reason_and_its_remedy() {
        let mut facts = machine(&[]);
        facts.set(Finding {
            tier: Tier::Local,
            outcome: Ok(Isolation::None),
            shortfall: Some(Unavailable {
                code: ErrorKind::UsernsOff,
                cause: "user namespaces are off".to_owned(),
                remedy: Some("switch them on".to_owned()),
            }),
        });
        let error = choose(&named(Tier::Local, Isolation::Process), &facts).unwrap_err();
        assert_eq!(
            error.to_string(),
            "tier local gives isolation none (user namespaces are off), and at least process is \
             demanded"
        );
        assert!(error.hint().unwrap().starts_with("switch them on; "));
        let error = choose(&auto(Isolation::Process, true), &facts).unwrap_err();
        assert!(
            error.to_string().contains("user namespaces are off"),
            "{error}"
        );
        let taken = choose(&named(Tier::Local, Isolation::None), &facts).unwrap();
        assert_eq!(taken.shortfall.map(|s| s.code), Some(ErrorKind::UsernsOff));
    }

    #[test]
    fn tiers_of_other_systems_are_left_out_of_the_message() {
        let mut facts = machine(&[]);
        let outcome = Err(Unavailable::other_system("Windows"));
        facts.set(Finding::new(Tier::AppContainer, outcome));
        let error = choose(&auto(Isolation::None, false), &facts).unwrap_err();
        assert!(!error.to_string().contains("appcontainer"), "{error}");
        assert_eq!(error.passed_over().len(), Tier::ALL.len());
    }
}
