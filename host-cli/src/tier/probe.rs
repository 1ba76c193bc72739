//! What this machine has: one probe a tier, the same for `run` and `doctor`.

#[cfg(target_os = "linux")]
use super::microvm;
#[cfg(target_os = "linux")]
pub use super::microvm::kvm::Depth;

use super::facts::{Facts, Finding, Unavailable};
use super::{Isolation, Tier};
use crate::policy::Policy;
use crate::timeline::Timeline;

/// What the probes found, and what the tier that was found first needs for its start.
#[derive(Debug, Default)]
pub(crate) struct Probed {
    pub(crate) facts: Facts,
    pub(crate) microvm: Option<microvm::Ready>,
}

/// Looks at every tier, closely.
pub(crate) fn everything(image: &str) -> Probed {
    let mut probed = Probed::default();
    for tier in Tier::ALL {
        probed.look_at(tier, image, Depth::Full, &mut Timeline::default());
    }
    probed
}

impl Probed {
    /// Looks at the tiers that the policy allows, strongest first, until one can be had. Those that
    /// were looked at before are not looked at again.
    pub(crate) fn look_until_one_passes(
        &mut self,
        policy: &Policy,
        image: &str,
        timeline: &mut Timeline,
    ) {
        let allowed = |tier: &Tier| {
            policy.tier.is_none_or(|named| named == *tier)
                && tier.strongest_isolation() >= policy.min_isolation
        };
        for tier in Tier::ALL.into_iter().filter(allowed) {
            let reached = match self.facts.of(tier) {
                Some(known) => known.outcome.as_ref().ok().copied(),
                None => self.look_at(tier, image, Depth::Quick, timeline),
            };
            if reached >= Some(policy.min_isolation) {
                break;
            }
        }
    }

    /// Probes one tier. Returns the isolation that it reaches, if it can be had.
    fn look_at(
        &mut self,
        tier: Tier,
        image: &str,
        depth: Depth,
        timeline: &mut Timeline,
    ) -> Option<Isolation> {
        let outcome = match tier {
            Tier::Microvm => microvm::probe(image, depth, timeline).map(|ready| {
                self.microvm = Some(ready);
                Isolation::Vm
            }),
            Tier::AppContainer => Err(Unavailable::other_system("Windows")),
            Tier::Docker | Tier::Podman | Tier::Local => Err(Unavailable::not_built()),
        };
        let reached = outcome.as_ref().ok().copied();
        self.facts.set(Finding { tier, outcome });
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_a_finding_for_each_tier_within_a_second() {
        let began = std::time::Instant::now();
        let probed = everything("no-such-image");
        assert!(began.elapsed() < std::time::Duration::from_secs(1));
        assert_eq!(probed.facts.iter().count(), Tier::ALL.len());
    }

    fn looked_at(policy: &Policy, known: Facts) -> Vec<Tier> {
        let mut probed = Probed {
            facts: known,
            microvm: None,
        };
        probed.look_until_one_passes(policy, "no-such-image", &mut Timeline::default());
        probed.facts.iter().map(|finding| finding.tier).collect()
    }

    #[test]
    fn a_named_tier_is_the_only_one_that_is_looked_at() {
        let policy = Policy {
            tier: Some(Tier::Docker),
            ..Policy::default()
        };
        assert_eq!(looked_at(&policy, Facts::default()), [Tier::Docker]);
    }

    #[test]
    fn tiers_below_the_floor_are_not_looked_at() {
        let policy = Policy {
            min_isolation: Isolation::Vm,
            ..Policy::default()
        };
        assert_eq!(looked_at(&policy, Facts::default()), [Tier::Microvm]);
    }

    #[test]
    fn nothing_is_looked_at_behind_a_tier_that_can_be_had() {
        let finding = Finding {
            tier: Tier::Microvm,
            outcome: Ok(Isolation::Vm),
        };
        let looked = looked_at(&Policy::default(), Facts::new(vec![finding]));
        assert_eq!(looked, [Tier::Microvm]);
    }

    #[test]
    fn a_tier_that_is_known_to_fail_is_not_looked_at_again() {
        let failed = Err(Unavailable::start_failed("it burned".to_owned(), None));
        let finding = Finding {
            tier: Tier::Microvm,
            outcome: failed,
        };
        let mut probed = Probed {
            facts: Facts::new(vec![finding.clone()]),
            microvm: None,
        };
        probed.look_until_one_passes(&Policy::default(), "x", &mut Timeline::default());
        assert_eq!(probed.facts.of(Tier::Microvm), Some(&finding));
        assert_eq!(probed.facts.iter().count(), Tier::ALL.len());
    }
}
