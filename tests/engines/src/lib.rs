//! Container engines for tests and benches, each with nothing but a folder of its own: whatever this
//! machine runs besides stays untouched, and nothing of them stays.

#![cfg(unix)]

mod daemon;
mod leftovers;

pub use daemon::{Addresses, Daemon, StandStill, StartError};

use std::env;

use rustix::thread::{CapabilitySet, capabilities};

/// What an engine cannot do without.
const NEEDED: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::NET_ADMIN);

/// A container engine that speaks the Docker Engine API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Docker's `dockerd`.
    Docker,
    /// Podman's service.
    Podman,
}

impl Engine {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Docker, Self::Podman];

    /// The name of its tier.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }

    /// The variable that names its address.
    #[must_use]
    pub const fn variable(self) -> &'static str {
        match self {
            Self::Docker => "DOCKER_HOST",
            Self::Podman => "CONTAINER_HOST",
        }
    }

    /// The program that serves its API.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Docker => "dockerd",
            Self::Podman => "podman",
        }
    }

    /// Why it cannot be started here; `None` if it can.
    #[must_use]
    pub fn obstacle(self) -> Option<String> {
        let program = self.program();
        if !is_installed(program) {
            return Some(format!("there is no {program}"));
        }
        if !rustix::process::geteuid().is_root() {
            return Some(format!("only root can start a {program} of its own"));
        }
        // Root of a container that others have made has not.
        let has_all = capabilities(None).is_ok_and(|sets| sets.effective.contains(NEEDED));
        (!has_all).then(|| format!("a {program} needs the rights to mount and to make networks"))
    }
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
