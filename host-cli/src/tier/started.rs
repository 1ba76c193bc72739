//! A sandbox that has started, whatever its tier: what the engine asks of all of them.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::docker::Container;
use super::docker::error::DockerError;
use super::local::Local;
use super::local::error::LocalError;
use super::microvm::Microvm;
use super::microvm::error::MicrovmError;
use crate::error::ErrorKind;

/// A sandbox of some tier. Dropped, it is ended, and nothing of it is left.
#[derive(Debug)]
pub(crate) enum Started {
    /// A virtual machine.
    Microvm(Microvm),
    /// A container.
    Container(Container),
    /// A process of this machine.
    Local(Local),
}

impl Started {
    /// A stream to the agent, for one session.
    ///
    /// # Errors
    ///
    /// If the sandbox has ended.
    pub(crate) fn connect(&mut self) -> Result<UnixStream, TierError> {
        Ok(match self {
            Self::Microvm(machine) => machine.connect()?,
            Self::Container(container) => container.connect()?,
            Self::Local(local) => local.connect()?,
        })
    }

    /// Why the sandbox is gone, after a stream to it has ended unexpectedly.
    pub(crate) fn why_gone(&mut self) -> TierError {
        match self {
            Self::Microvm(machine) => machine.why_gone().into(),
            Self::Container(container) => container.why_gone().into(),
            Self::Local(local) => local.why_gone().into(),
        }
    }

    /// Has the sandbox end, without waiting until the kernel has taken it apart. What is left to be
    /// done by this process is to reap.
    pub(crate) fn begin_end(&mut self) {
        match self {
            Self::Microvm(machine) => machine.kill_in_background(),
            Self::Container(container) => container.begin_end(),
            Self::Local(local) => local.begin_end(),
        }
    }

    /// Has what is kept beyond the sandbox's end written down, which only a guest does not do anyway.
    pub(crate) fn settle(&mut self, patience: Duration) {
        match self {
            Self::Microvm(machine) => machine.settle(patience),
            Self::Container(_) | Self::Local(_) => {}
        }
    }

    /// The id of the process that holds the sandbox.
    pub(crate) fn process_id(&self) -> i32 {
        match self {
            Self::Microvm(machine) => machine.vmm_id(),
            Self::Container(container) => container.process_id(),
            Self::Local(local) => local.process_id(),
        }
    }
}

/// How a tier can fail its owner.
#[derive(Debug, thiserror::Error)]
pub enum TierError {
    /// Tier `microvm`.
    #[error(transparent)]
    Microvm(#[from] MicrovmError),
    /// Tier `docker` or `podman`.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// Tier `local`.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The tier was not found ready before.
    #[error("it was not found ready")]
    NotReady,
}

impl TierError {
    /// What kind of error it is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Microvm(error) => error.kind(),
            Self::Docker(error) => error.kind(),
            Self::Local(error) => error.kind(),
            Self::NotReady => ErrorKind::NotReady,
        }
    }

    /// Whether another tier could do better: not if the caller gave up or asked for what is not
    /// there.
    #[must_use]
    pub const fn blames_the_tier(&self) -> bool {
        match self {
            Self::Microvm(error) => error.blames_the_tier(),
            Self::Docker(error) => error.blames_the_tier(),
            Self::Local(error) => error.blames_the_tier(),
            Self::NotReady => true,
        }
    }

    /// What the user can do, if we know.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Microvm(error) => error.hint(),
            Self::Docker(error) => error.hint(),
            Self::Local(_) | Self::NotReady => None,
        }
    }

    /// The newest lines of the guest's console, where they may help.
    #[must_use]
    pub fn console(&self) -> &[String] {
        match self {
            Self::Microvm(error) => error.console(),
            Self::Docker(_) | Self::Local(_) | Self::NotReady => &[],
        }
    }
}
