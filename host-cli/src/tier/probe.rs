//! What this machine has: one probe a tier, the same for `run` and `doctor`.

use std::time::Duration;

use agent_client::Exec;

use super::facts::{Facts, Finding, Unavailable};
use super::local::{self, Local};
pub use super::microvm::kvm::Depth;
use super::microvm::{self, Microvm};
use super::started::{Started, TierError};
use super::{Isolation, Tier};
use crate::policy::Policy;
use crate::spec::{Launch, SandboxSpec};
use crate::timeline::Timeline;

/// How long an agent may take to confine itself: when it is all that is left, and when all tiers are
/// looked at, for which a second is enough.
const PATIENCE: Duration = Duration::from_secs(10);
const LITTLE_PATIENCE: Duration = Duration::from_millis(800);

/// What the probes found, and what the tiers that can be had need for their start.
#[derive(Debug, Default)]
pub(crate) struct Probed {
    pub(crate) facts: Facts,
    microvm: Option<microvm::Ready>,
    local: Option<local::Ready>,
}

/// Looks at every tier, closely.
pub(crate) fn everything(spec: &SandboxSpec) -> Probed {
    let mut probed = Probed::default();
    for tier in Tier::ALL {
        probed.look_at(tier, spec, Depth::Full, &mut Timeline::default());
    }
    probed
}

impl Probed {
    /// Looks at the tiers that the policy allows, strongest first, until one can be had. Those that
    /// were looked at before are not looked at again.
    pub(crate) fn look_until_one_passes(
        &mut self,
        policy: &Policy,
        spec: &SandboxSpec,
        timeline: &mut Timeline,
    ) {
        let allowed = |tier: &Tier| {
            policy.tier.is_none_or(|named| named == *tier)
                && tier.strongest_isolation() >= policy.min_isolation
        };
        for tier in Tier::ALL.into_iter().filter(allowed) {
            let reached = match self.facts.of(tier) {
                Some(known) => known.outcome.as_ref().ok().copied(),
                None => self.look_at(tier, spec, Depth::Quick, timeline),
            };
            if reached >= Some(policy.min_isolation) {
                break;
            }
        }
    }

    /// Starts a sandbox on a tier that was found ready.
    ///
    /// # Errors
    ///
    /// If it does not come up.
    pub(crate) fn start(
        &mut self,
        tier: Tier,
        launch: Launch,
        timeline: &mut Timeline,
    ) -> Result<(Started, Option<Exec>), TierError> {
        if let (Tier::Microvm, Some(ready)) = (tier, self.microvm.take()) {
            let (machine, exec) = Microvm::start(ready, launch, timeline)?;
            return Ok((Started::Microvm(machine), exec));
        }
        if let (Tier::Local, Some(ready)) = (tier, self.local.take()) {
            let (local, exec) = Local::start(ready, launch, timeline)?;
            return Ok((Started::Local(local), exec));
        }
        Err(TierError::NotReady)
    }

    /// Probes one tier. Returns the isolation that it reaches, if it can be had.
    fn look_at(
        &mut self,
        tier: Tier,
        spec: &SandboxSpec,
        depth: Depth,
        timeline: &mut Timeline,
    ) -> Option<Isolation> {
        let mut shortfall = None;
        let outcome = match tier {
            Tier::Microvm => microvm::probe(&spec.image.name, depth, timeline).map(|ready| {
                self.microvm = Some(ready);
                Isolation::Vm
            }),
            Tier::Local => local::probe(spec, patience(depth), timeline).map(|ready| {
                let isolation = ready.isolation;
                shortfall.clone_from(&ready.shortfall);
                self.local = Some(ready);
                isolation
            }),
            Tier::AppContainer => Err(Unavailable::other_system("Windows")),
            Tier::Docker | Tier::Podman => Err(Unavailable::not_built()),
        };
        let reached = outcome.as_ref().ok().copied();
        self.facts.set(Finding {
            tier,
            outcome,
            shortfall,
        });
        reached
    }
}

const fn patience(depth: Depth) -> Duration {
    match depth {
        Depth::Quick => PATIENCE,
        Depth::Full => LITTLE_PATIENCE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> SandboxSpec {
        let mut spec = SandboxSpec::default();
        spec.image.name = "no-such-image".to_owned();
        spec
    }

    #[test]
    fn everything_has_a_finding_for_each_tier_within_a_second() {
        let began = std::time::Instant::now();
        let probed = everything(&spec());
        assert!(began.elapsed() < Duration::from_secs(1));
        assert_eq!(probed.facts.iter().count(), Tier::ALL.len());
    }

    fn looked_at(policy: &Policy, known: Facts) -> Vec<Tier> {
        let mut probed = Probed {
            facts: known,
            ..Probed::default()
        };
        probed.look_until_one_passes(policy, &spec(), &mut Timeline::default());
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
        let finding = Finding::new(Tier::Microvm, Ok(Isolation::Vm));
        let looked = looked_at(&Policy::default(), Facts::new(vec![finding]));
        assert_eq!(looked, [Tier::Microvm]);
    }

    #[test]
    fn a_tier_that_is_known_to_fail_is_not_looked_at_again() {
        let failed = Err(Unavailable::start_failed("it burned".to_owned(), None));
        let finding = Finding::new(Tier::Microvm, failed);
        let mut probed = Probed {
            facts: Facts::new(vec![finding.clone()]),
            ..Probed::default()
        };
        probed.look_until_one_passes(&Policy::default(), &spec(), &mut Timeline::default());
        assert_eq!(probed.facts.of(Tier::Microvm), Some(&finding));
        assert_eq!(probed.facts.iter().count(), Tier::ALL.len());
    }
}
