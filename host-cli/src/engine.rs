//! The engine: from what is wanted and allowed to a running sandbox.

use agent_client::Exec;

use crate::error::{ErrorKind, Problem, chain};
use crate::host::memory_mib;
use crate::launch::Launch;
use crate::policy::Policy;
use crate::sandbox::Sandbox;
use crate::spec::{SandboxSpec, SpecError, Unsupported};
use crate::tier::Tier;
use crate::tier::choose::{Choice, ChooseError, PassedOver, choose};
use crate::tier::facts::{Facts, Finding, Unavailable};
use crate::tier::probe::{self, Probed};
use crate::tier::started::TierError;
use crate::timeline::Timeline;

/// Starts sandboxes on this machine.
///
/// It holds no state of this machine: what is there is looked up when a sandbox starts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Engine {}

/// A start that did not lead to a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No sandbox can be like this.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The caller gave up while a tier was looked for.
    #[error("interrupted while a tier was looked for")]
    Interrupted,
    /// There is no tier to take.
    #[error(transparent)]
    Choose(#[from] ChooseError),
    /// The tier that was taken cannot be as it was asked for.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The tier that was taken did not come up.
    #[error("the {tier} sandbox did not start", tier = choice.tier)]
    Tier {
        /// The tier, and what was passed over for it.
        choice: Box<Choice>,
        /// Why it did not come up.
        source: TierError,
    },
}

impl StartError {
    /// What kind of error it is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Spec(_) => ErrorKind::Usage,
            Self::Interrupted => ErrorKind::Interrupted,
            Self::Choose(error) => error.kind(),
            Self::Unsupported(_) => ErrorKind::UnsupportedFlag,
            Self::Tier { source, .. } => source.kind(),
        }
    }

    /// What the user can do, if we know.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Spec(_) | Self::Interrupted => None,
            Self::Choose(error) => error.hint(),
            Self::Unsupported(refusal) => Some(refusal.hint()),
            Self::Tier { source, .. } => source.hint(),
        }
    }

    /// The newest lines of the guest's console, where they may help.
    #[must_use]
    pub fn console(&self) -> &[String] {
        match self {
            Self::Tier { source, .. } => source.console(),
            Self::Spec(_) | Self::Interrupted | Self::Choose(_) | Self::Unsupported(_) => &[],
        }
    }

    /// The tier in which it happened, or that was asked for.
    #[must_use]
    pub fn tier(&self) -> Option<Tier> {
        match self {
            Self::Unsupported(refusal) => Some(refusal.tier),
            Self::Tier { choice, .. } => Some(choice.tier),
            Self::Choose(error) => error.tier(),
            Self::Spec(_) | Self::Interrupted => None,
        }
    }

    /// The tiers that were passed over before it came to this.
    #[must_use]
    pub fn passed_over(&self) -> &[PassedOver] {
        match self {
            Self::Choose(error) => error.passed_over(),
            Self::Tier { choice, .. } => &choice.passed_over,
            Self::Spec(_) | Self::Interrupted | Self::Unsupported(_) => &[],
        }
    }
}

impl From<&StartError> for Problem {
    fn from(error: &StartError) -> Self {
        Self {
            hint: error.hint(),
            console: error.console().to_vec(),
            tier: error.tier(),
            passed_over: error.passed_over().iter().map(Into::into).collect(),
            ..Self::of(error.kind(), error)
        }
    }
}

impl Engine {
    /// An engine for this machine.
    #[must_use]
    pub const fn new() -> Self {
        Self {}
    }

    /// Finds out which tiers this machine has, for the image of this name. Closer than a start
    /// does: it makes a virtual machine and throws it away.
    #[must_use]
    pub fn probe(self, image: &str) -> Facts {
        let mut spec = SandboxSpec::default();
        image.clone_into(&mut spec.image.name);
        probe::everything(&spec).facts
    }

    /// Starts a sandbox on the strongest tier that the policy allows and this machine has.
    ///
    /// With a request, the command is asked for before the sandbox has come up, which saves a round
    /// trip: the result has an [`Exec`] for it. While it waits, `cancel` may become readable: then
    /// it gives up.
    ///
    /// # Errors
    ///
    /// If the spec is impossible, no tier can be had, or the one that was taken cannot be like the
    /// spec or does not come up. A tier that passed its probe and does not come up is passed over like any other, unless the
    /// policy names it.
    pub fn start(
        self,
        policy: &Policy,
        launch: Launch,
        timeline: &mut Timeline,
    ) -> Result<(Sandbox, Option<Exec>), StartError> {
        let spec = launch.spec;
        spec.check(memory_mib())?;
        let mut probed = Probed::default();
        let mut failed = None;
        loop {
            probed.look_until_one_passes(policy, &launch, timeline);
            if probed.facts.is_interrupted() {
                return Err(StartError::Interrupted);
            }
            let choice = match (choose(policy, &probed.facts), failed) {
                (Ok(choice), _) => choice,
                (Err(_), Some(failed)) => return Err(failed),
                (Err(error), None) => return Err(error.into()),
            };
            let tier = choice.tier;
            let refusal = tier
                .refusal(spec, choice.isolation)
                .or_else(|| tier.refuses(launch.request?));
            if let Some(refusal) = refusal {
                return Err(refusal.into());
            }
            match probed.start(tier, launch, timeline) {
                Ok((started, exec)) => return Ok((Sandbox::new(choice, started), exec)),
                Err(source) => {
                    let reason = Unavailable::start_failed(chain(&source), source.hint());
                    let last =
                        policy.tier.is_some() || !source.blames_the_tier() || spec.image.is_own();
                    let error = StartError::Tier {
                        choice: Box::new(choice),
                        source,
                    };
                    if last {
                        return Err(error);
                    }
                    probed.facts.set(Finding::new(tier, Err(reason)));
                    failed = Some(error);
                }
            }
        }
    }
}
