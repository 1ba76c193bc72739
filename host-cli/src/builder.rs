//! A sandbox, put together step by step.

use std::time::Duration;

use crate::engine::{Engine, StartError};
use crate::launch::Launch;
use crate::policy::Policy;
use crate::sandbox::Sandbox;
use crate::spec::{Network, SandboxSpec};
use crate::tier::{Isolation, Tier};
use crate::timeline::Timeline;

/// What a sandbox is to be, and what it may be.
///
/// ```no_run
/// use sovereign::Sandbox;
///
/// let mut sandbox = Sandbox::builder().cpus(2).memory_mib(512).start()?;
/// println!("tier {}", sandbox.choice().tier);
/// assert_eq!(sandbox.command("true").status()?.exit_code(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct SandboxBuilder {
    policy: Policy,
    spec: SandboxSpec,
}

impl Sandbox {
    /// A sandbox in the strongest tier that this machine has, with one CPU and 512 MiB, unless told
    /// otherwise.
    #[must_use]
    pub fn builder() -> SandboxBuilder {
        SandboxBuilder::default()
    }
}

impl SandboxBuilder {
    /// This tier and no other.
    #[must_use]
    pub fn tier(mut self, tier: Tier) -> Self {
        self.policy.tier = Some(tier);
        self
    }

    /// No less isolation than this.
    #[must_use]
    pub fn min_isolation(mut self, floor: Isolation) -> Self {
        self.policy.min_isolation = floor;
        self
    }

    /// Consent to run on this machine itself, if it has nothing better.
    #[must_use]
    pub fn allow_local(mut self) -> Self {
        self.policy.allow_local = true;
        self
    }

    /// The image to run from: one of the store, or `docker:REF`.
    #[must_use]
    pub fn image(mut self, name: impl Into<String>) -> Self {
        self.spec.image.name = name.into();
        self.spec.image.is_named = true;
        self
    }

    /// Number of CPUs.
    #[must_use]
    pub fn cpus(mut self, cpus: u8) -> Self {
        self.spec.cpus = Some(cpus);
        self
    }

    /// Memory, in MiB.
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.spec.memory_mib = Some(mib);
        self
    }

    /// How much may be written to its root file system, in MiB.
    #[must_use]
    pub fn overlay_mib(mut self, mib: u32) -> Self {
        self.spec.overlay_mib = Some(mib);
        self
    }

    /// What it can reach.
    #[must_use]
    pub fn network(mut self, network: Network) -> Self {
        self.spec.network = Some(network);
        self
    }

    /// How many processes and threads it may have.
    #[must_use]
    pub fn processes(mut self, count: u32) -> Self {
        self.spec.processes = Some(count);
        self
    }

    /// The name that it has for itself.
    #[must_use]
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.spec.hostname = Some(name.into());
        self
    }

    /// How long it may take until it can run a command.
    #[must_use]
    pub fn boot_timeout(mut self, time: Duration) -> Self {
        self.spec.boot_timeout = time;
        self
    }

    /// What is asked for so far.
    #[must_use]
    pub const fn spec(&self) -> &SandboxSpec {
        &self.spec
    }

    /// What is allowed so far.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Starts it. It ends when the result is dropped.
    ///
    /// # Errors
    ///
    /// If no sandbox can be like this, or there is no tier to take; see [`StartError`].
    pub fn start(&self) -> Result<Sandbox, StartError> {
        let launch = Launch::new(&self.spec);
        let (sandbox, _) = Engine::new().start(&self.policy, launch, &mut Timeline::default())?;
        Ok(sandbox)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_reaches_the_spec_and_the_policy() {
        let builder = Sandbox::builder()
            .tier(Tier::Docker)
            .min_isolation(Isolation::Container)
            .image("mine")
            .cpus(2)
            .memory_mib(256)
            .processes(100)
            .hostname("h");
        assert_eq!(builder.policy().tier, Some(Tier::Docker));
        assert_eq!(builder.policy().min_isolation, Isolation::Container);
        let spec = builder.spec();
        assert_eq!(
            (spec.cpus, spec.memory_mib, spec.processes),
            (Some(2), Some(256), Some(100))
        );
        assert!(spec.image.is_named && spec.image.name == "mine");
        assert_eq!(spec.hostname(), "h");
        assert!(!builder.policy().allow_local);
    }

    #[test]
    fn sandboxes_may_change_threads() {
        fn is_send<T: Send>() {}
        is_send::<Sandbox>();
        is_send::<crate::detached::Detached>();
    }
}
