//! Tiers: the ways in which this engine can isolate a command, and how strong each one is.
//!
//! A tier only answers two questions: how is the agent started in isolation, and how does one get a
//! byte stream to it. [`choose`] decides which one is taken; it is a pure function over what
//! [`probe`] found out about this machine.

pub mod choose;
#[cfg(target_os = "linux")]
pub mod docker;
#[cfg(not(target_os = "linux"))]
pub(crate) mod elsewhere;
pub mod facts;
#[cfg(target_os = "linux")]
pub mod local;
#[cfg(target_os = "linux")]
pub mod microvm;
#[cfg(target_os = "linux")]
pub(crate) mod missing;
#[cfg(target_os = "linux")]
pub(crate) mod packets;
pub mod place;
#[cfg(target_os = "linux")]
pub mod probe;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod refusal;
#[cfg(target_os = "linux")]
mod spawn;
#[cfg(target_os = "linux")]
pub mod started;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A way to isolate a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// A virtual machine of our own, on KVM.
    Microvm,
    /// A container, through the Docker API of a Docker daemon.
    Docker,
    /// A container, through the Docker API of Podman.
    Podman,
    /// A Windows AppContainer with a job object.
    AppContainer,
    /// A process of this host, confined as far as the kernel allows.
    Local,
}

impl Tier {
    /// Every tier, in the order in which `--tier auto` tries them: strongest first.
    pub const ALL: [Self; 5] = [
        Self::Microvm,
        Self::Docker,
        Self::Podman,
        Self::AppContainer,
        Self::Local,
    ];

    /// Whether memory that is sent along with a session's stream reaches the agent, as a lane for bulk
    /// data.
    #[must_use]
    pub const fn has_lanes(self) -> bool {
        match self {
            // Where its daemon is elsewhere, none arrives, and the agent says so.
            Self::Microvm | Self::Docker | Self::Podman | Self::Local => true,
            Self::AppContainer => false,
        }
    }

    /// The strongest isolation that this tier can reach on any machine.
    #[must_use]
    pub const fn strongest_isolation(self) -> Isolation {
        match self {
            Self::Microvm => Isolation::Vm,
            Self::Docker | Self::Podman => Isolation::Container,
            Self::AppContainer | Self::Local => Isolation::Process,
        }
    }

    /// The name that a user types.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Microvm => "microvm",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::AppContainer => "appcontainer",
            Self::Local => "local",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Tier {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|tier| tier.name() == name)
            .ok_or_else(|| UnknownName {
                kind: "tier",
                name: name.to_owned(),
                known: "microvm, docker, podman, appcontainer, local",
            })
    }
}

/// How strongly a command is kept apart from the host. Ordered: a stronger level is greater.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Not at all: what the command may do, the user may do.
    #[default]
    None,
    /// A confined process of the host's kernel.
    Process,
    /// A container: namespaces of the host's kernel.
    Container,
    /// A kernel of its own, behind hardware virtualization.
    Vm,
}

impl Isolation {
    /// Every level, weakest first.
    pub const ALL: [Self; 4] = [Self::None, Self::Process, Self::Container, Self::Vm];

    /// The name that a user types.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Process => "process",
            Self::Container => "container",
            Self::Vm => "vm",
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Isolation {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|level| level.name() == name)
            .ok_or_else(|| UnknownName {
                kind: "isolation level",
                name: name.to_owned(),
                known: "vm, container, process, none",
            })
    }
}

/// A name that stands for no tier or no isolation level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no {kind} is called {name:?}; there are: {known}")]
pub struct UnknownName {
    kind: &'static str,
    name: String,
    known: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_are_listed_strongest_first() {
        let levels: Vec<_> = Tier::ALL
            .iter()
            .map(|tier| tier.strongest_isolation())
            .collect();
        assert!(levels.is_sorted_by(|a, b| a >= b), "{levels:?}");
    }

    #[test]
    fn every_name_reads_back() {
        for tier in Tier::ALL {
            assert_eq!(tier.name().parse(), Ok(tier));
        }
        for level in Isolation::ALL {
            assert_eq!(level.name().parse(), Ok(level));
        }
    }

    #[test]
    fn unknown_names_are_refused_with_the_known_ones() {
        let error = "vmm".parse::<Tier>().unwrap_err().to_string();
        assert!(
            error.contains("\"vmm\"") && error.contains("microvm"),
            "{error}"
        );
        assert!("VM".parse::<Isolation>().is_err());
    }

    #[test]
    fn isolation_is_ordered_by_strength() {
        assert!(Isolation::Vm > Isolation::Container);
        assert!(Isolation::Container > Isolation::Process);
        assert!(Isolation::Process > Isolation::None);
    }
}
