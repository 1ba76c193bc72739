//! What a tier cannot honour, by the tier.

use agent_protocol::message::ExecRequest;

use super::{Isolation, Tier, docker, local, microvm};
use crate::spec::{SandboxSpec, Unsupported};

impl Tier {
    /// What of this spec the tier cannot honour, where it reaches this isolation.
    #[must_use]
    pub fn refusal(self, spec: &SandboxSpec, isolation: Isolation) -> Option<Unsupported> {
        match self {
            Self::Local => local::refusal(spec, isolation),
            Self::Docker | Self::Podman => docker::refusal(self, spec),
            Self::Microvm => microvm::refusal(spec),
            Self::AppContainer => None,
        }
    }

    /// What of this request the tier cannot honour.
    #[must_use]
    pub fn refuses(self, request: &ExecRequest) -> Option<Unsupported> {
        match self {
            Self::Docker | Self::Podman => docker::refuses_user(self, request),
            Self::Microvm | Self::AppContainer | Self::Local => None,
        }
    }
}
