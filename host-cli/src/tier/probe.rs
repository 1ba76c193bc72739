//! What this machine has: one probe a tier, the same for `run` and `doctor`.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use agent_client::Exec;
use sandbox_image::Store;
use sandbox_image::apts::environment;

use super::docker::{self, Container};
use super::facts::{Facts, Finding, Unavailable};
use super::local::{self, Local};
pub use super::microvm::kvm::Depth;
use super::microvm::{self, Microvm};
use super::started::{Started, TierError};
use super::{Isolation, Tier};
use crate::error::ErrorKind;
use crate::launch::Launch;
use crate::policy::Policy;
use crate::spec::SandboxSpec;
use crate::timeline::Timeline;

/// How long an agent may take to confine itself.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a tier may take when all are looked at, for which a second is enough.
const LITTLE_PATIENCE: Duration = Duration::from_millis(800);

/// The tiers that are a daemon's.
const ENGINES: [Tier; 2] = [Tier::Docker, Tier::Podman];

/// What the probes found, and what the tiers that can be had need for their start.
#[derive(Debug, Default)]
pub(crate) struct Probed {
    pub(crate) facts: Facts,
    ready: Vec<(Tier, Ready)>,
    /// Whether engines that said nothing were asked once more.
    has_waited: bool,
}

/// What a sandbox is to be, where what is written in it is kept, and how long its engine is waited for.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a> {
    spec: &'a SandboxSpec,
    keep: Option<&'a Path>,
    patience: docker::Patience<'a>,
}

impl<'a> Wanted<'a> {
    /// A daemon that answers may have much to do: it has the time that a start may take; and so has one
    /// that does not, if no other will do.
    fn of(launch: &Launch<'a>, policy: &Policy) -> Self {
        let whole = launch.spec.boot_timeout;
        let patience = match policy.tier {
            Some(_) => docker::Patience::with_one(whole),
            None => docker::Patience::among_others(whole),
        };
        Self {
            spec: launch.spec,
            keep: launch.keep(),
            patience: patience.unless(launch.cancel),
        }
    }

    /// The same, with the patience of who has found nothing as strong as a container.
    fn before_weaker(self, launch: &Launch<'a>) -> Self {
        let patience = docker::Patience::before_weaker(self.spec.boot_timeout);
        Self {
            patience: patience.unless(launch.cancel),
            ..self
        }
    }
}

/// What a tier that can be had needs for its start.
#[derive(Debug)]
enum Ready {
    Microvm(microvm::Ready),
    Container(Box<docker::Ready>),
    Local(local::Ready),
}

/// Looks at every tier, closely.
pub(crate) fn everything(spec: &SandboxSpec) -> Probed {
    let mut probed = Probed::default();
    let wanted = Wanted {
        spec,
        keep: None,
        patience: docker::Patience::among_others(LITTLE_PATIENCE),
    };
    let look_at = |tier| look(tier, wanted, Depth::Full, &mut Timeline::default());
    let asked = side_by_side(&ENGINES, look_at, || {
        for tier in [Tier::Microvm, Tier::AppContainer, Tier::Local] {
            probed.note(tier, look_at(tier));
        }
    });
    for (tier, found) in asked {
        probed.note(tier, found);
    }
    probed
}

/// Looks at tiers that wait for an answer which may not come, each in a thread of its own, and does
/// something else meanwhile.
fn side_by_side(
    tiers: &[Tier],
    look_at: impl Fn(Tier) -> Result<Ready, Unavailable> + Copy + Send,
    meanwhile: impl FnOnce(),
) -> Vec<(Tier, Result<Ready, Unavailable>)> {
    thread::scope(|scope| {
        let asked = tiers.iter().map(|tier| {
            let thread = thread::Builder::new().name(format!("probe-{tier}"));
            (*tier, thread.spawn_scoped(scope, move || look_at(*tier)))
        });
        let asked: Vec<_> = asked.collect();
        meanwhile();
        let found = asked.into_iter().map(|(tier, thread)| {
            let found = thread.ok().and_then(|thread| thread.join().ok());
            (tier, found.unwrap_or_else(|| look_at(tier)))
        });
        found.collect()
    })
}

impl Probed {
    /// Looks at the tiers that the policy allows, strongest first, until one can be had. Those that
    /// were looked at before are not looked at again.
    pub(crate) fn look_until_one_passes(
        &mut self,
        policy: &Policy,
        launch: &Launch,
        timeline: &mut Timeline,
    ) {
        let wanted = Wanted::of(launch, policy);
        let allowed = |tier: &Tier| {
            policy.tier.is_none_or(|named| named == *tier)
                && tier.strongest_isolation() >= policy.min_isolation
        };
        let floor = Some(policy.min_isolation);
        for tier in Tier::ALL.into_iter().filter(allowed) {
            let is_weaker = tier.strongest_isolation() < Isolation::Container;
            let waited_for = is_weaker
                .then(|| self.wait_for_engines(wanted.before_weaker(launch), timeline))
                .flatten();
            if waited_for >= floor || self.facts.is_interrupted() {
                return;
            }
            let reached = match self.facts.of(tier) {
                Some(known) => known.outcome.as_ref().ok().copied(),
                None => self.look_at(tier, wanted, Depth::Quick, timeline),
            };
            if reached >= floor || self.facts.is_interrupted() {
                return;
            }
        }
        if policy.tier.is_none() {
            self.wait_for_engines(wanted.before_weaker(launch), timeline);
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
        let place = self.ready.iter().position(|(known, _)| *known == tier);
        let ready = place.map(|place| self.ready.swap_remove(place).1);
        Ok(match ready {
            Some(Ready::Microvm(ready)) => {
                let (machine, exec) = Microvm::start(ready, launch, timeline)?;
                (Started::Microvm(machine), exec)
            }
            Some(Ready::Container(ready)) => {
                let (container, exec) = Container::start(*ready, launch, timeline)?;
                (Started::Container(container), exec)
            }
            Some(Ready::Local(ready)) => {
                let (local, exec) = Local::start(ready, launch, timeline)?;
                (Started::Local(local), exec)
            }
            None => return Err(TierError::NotReady),
        })
    }

    /// Asks the container engines once more, for longer, that took a connection and said nothing yet: one
    /// that is started by its socket is not up by the end of a first look. Returns what they reach.
    fn wait_for_engines(&mut self, wanted: Wanted, timeline: &mut Timeline) -> Option<Isolation> {
        let is_silent = |tier: &Tier| self.facts.is_silent(*tier);
        let silent: Vec<_> = ENGINES.into_iter().filter(is_silent).collect();
        if silent.is_empty() || std::mem::replace(&mut self.has_waited, true) {
            return None;
        }
        let look_at = |tier| look(tier, wanted, Depth::Quick, &mut Timeline::default());
        let asked = side_by_side(&silent, look_at, || ());
        timeline.mark("probe");
        let reached = asked
            .into_iter()
            .map(|(tier, found)| self.note(tier, found));
        reached.max().flatten()
    }

    /// Probes one tier. Returns the isolation that it reaches, if it can be had.
    fn look_at(
        &mut self,
        tier: Tier,
        wanted: Wanted,
        depth: Depth,
        timeline: &mut Timeline,
    ) -> Option<Isolation> {
        self.note(tier, look(tier, wanted, depth, timeline))
    }

    /// Keeps what was found of a tier. Returns the isolation that it reaches, if it can be had.
    fn note(&mut self, tier: Tier, found: Result<Ready, Unavailable>) -> Option<Isolation> {
        let outcome = found.as_ref().map(Ready::isolation).map_err(Clone::clone);
        let shortfall = found.as_ref().ok().and_then(Ready::shortfall);
        let reached = outcome.as_ref().ok().copied();
        self.facts.set(Finding {
            tier,
            outcome,
            shortfall,
        });
        self.ready.extend(found.ok().map(|ready| (tier, ready)));
        reached
    }
}

impl Ready {
    const fn isolation(&self) -> Isolation {
        match self {
            Self::Microvm(_) => Isolation::Vm,
            Self::Container(_) => Isolation::Container,
            Self::Local(ready) => ready.isolation,
        }
    }

    fn shortfall(&self) -> Option<Unavailable> {
        match self {
            Self::Local(ready) => ready.shortfall.clone(),
            Self::Microvm(_) | Self::Container(_) => None,
        }
    }
}

/// Probes one tier.
fn look(
    tier: Tier,
    wanted: Wanted,
    depth: Depth,
    timeline: &mut Timeline,
) -> Result<Ready, Unavailable> {
    let Wanted {
        spec,
        keep,
        patience,
    } = wanted;
    let image = &spec.image.name;
    match tier {
        Tier::Microvm if docker::image::is_of_daemon(image) => Err(image_of_daemon(image)),
        Tier::Microvm => microvm::probe(image, depth, timeline).map(Ready::Microvm),
        Tier::Docker | Tier::Podman => docker::probe(tier, image, patience, timeline)
            .map(Box::new)
            .map(Ready::Container),
        Tier::AppContainer => Err(Unavailable::other_system("Windows")),
        Tier::Local => {
            let about = local::Wanted {
                spec,
                keep,
                modules: modules(depth),
            };
            local::probe(about, confinement_time(depth), timeline).map(Ready::Local)
        }
    }
}

/// The folder with T-APTS, for a tier that runs no image. Who only looks makes none; where none can be
/// made, commands do without, and `sovereign image verify` says why.
fn modules(depth: Depth) -> Option<PathBuf> {
    let store = Store::open_default().ok()?;
    match depth {
        Depth::Quick => environment::ensure(&store).ok(),
        Depth::Full => environment::find(&store),
    }
}

fn image_of_daemon(image: &str) -> Unavailable {
    Unavailable {
        code: ErrorKind::ImageOfDaemon,
        cause: format!("{image} is an image for containers"),
        remedy: None,
    }
}

/// How long an agent may take to confine itself.
const fn confinement_time(depth: Depth) -> Duration {
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

    /// Containers that nobody may have here: an engine that took a connection and said nothing.
    fn silent(tier: Tier) -> Finding {
        let reason = Unavailable {
            code: ErrorKind::DaemonSilent,
            cause: "it said nothing".to_owned(),
            remedy: None,
        };
        Finding::new(tier, Err(reason))
    }

    fn looked_at(policy: &Policy, known: Facts) -> Vec<Tier> {
        let mut probed = Probed {
            facts: known,
            ..Probed::default()
        };
        probed.look_until_one_passes(policy, &Launch::new(&spec()), &mut Timeline::default());
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
        probed.look_until_one_passes(
            &Policy::default(),
            &Launch::new(&spec()),
            &mut Timeline::default(),
        );
        assert_eq!(probed.facts.of(Tier::Microvm), Some(&finding));
        assert_eq!(probed.facts.iter().count(), Tier::ALL.len());
    }

    #[test]
    fn engine_that_said_nothing_is_asked_once_more_and_no_more() {
        for floor in [Isolation::None, Isolation::Container] {
            let policy = Policy {
                min_isolation: floor,
                ..Policy::default()
            };
            let spec = spec();
            let launch = Launch::new(&spec);
            let mut probed = Probed {
                // Another tier's start may have failed by now: what is known says nothing of the wait.
                facts: Facts::new(vec![
                    silent(Tier::Docker),
                    Finding::new(Tier::Podman, Err(Unavailable::not_built())),
                ]),
                ..Probed::default()
            };
            probed.look_until_one_passes(&policy, &launch, &mut Timeline::default());
            let looked = probed.facts.of(Tier::Docker).cloned();
            assert_ne!(looked, Some(silent(Tier::Docker)));
            probed.facts.set(silent(Tier::Docker));
            probed.look_until_one_passes(&policy, &launch, &mut Timeline::default());
            assert_eq!(probed.facts.of(Tier::Docker), Some(&silent(Tier::Docker)));
        }
    }
}
