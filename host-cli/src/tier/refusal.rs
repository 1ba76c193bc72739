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
        let user = match self {
            Self::Docker | Self::Podman => docker::refuses_user(self, request),
            Self::Microvm | Self::AppContainer | Self::Local => None,
        };
        user.or_else(|| self.refuses_limits(request))
    }

    /// What of this request's limits the tier cannot honour: the limits that a process inherits
    /// (`--rlimit`) it has everywhere.
    fn refuses_limits(self, request: &ExecRequest) -> Option<Unsupported> {
        let is_asked = request.processes.is_some() && self != Self::Microvm;
        is_asked.then_some(Unsupported {
            tier: self,
            flag: "--pid-limit",
            reason: "its agent can count no single command's processes; --pids-limit bounds those of \
                     the whole sandbox",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Network;

    fn flag(tier: Tier, change: impl FnOnce(&mut SandboxSpec)) -> Option<&'static str> {
        let mut spec = SandboxSpec::default();
        change(&mut spec);
        let refusal = tier.refusal(&spec, tier.strongest_isolation())?;
        assert_eq!(refusal.tier, tier);
        Some(refusal.flag)
    }

    #[test]
    fn nothing_is_refused_that_nobody_asked_for() {
        for tier in Tier::ALL {
            assert_eq!(flag(tier, |_| ()), None, "{tier}");
        }
    }

    #[test]
    fn a_network_is_refused_where_there_is_none_to_be_had() {
        let bridge = |spec: &mut SandboxSpec| spec.network = Some(Network::Bridge);
        let none = |spec: &mut SandboxSpec| spec.network = Some(Network::None);
        for tier in [Tier::Microvm, Tier::Local] {
            assert_eq!(flag(tier, bridge), Some("--network"), "{tier}");
            assert_eq!(flag(tier, none), None, "{tier}");
        }
        for tier in [Tier::Docker, Tier::Podman] {
            assert_eq!(flag(tier, bridge), None, "{tier}");
        }
    }

    #[test]
    fn a_bound_of_one_commands_processes_is_for_machines_alone() {
        let request = |processes| ExecRequest {
            processes,
            ..ExecRequest::new(["true"])
        };
        for tier in Tier::ALL {
            let refusal = tier.refuses(&request(Some(9)));
            let flag = (tier != Tier::Microvm).then_some("--pid-limit");
            assert_eq!(refusal.map(|refusal| refusal.flag), flag, "{tier}");
            assert_eq!(tier.refuses(&request(None)), None, "{tier}");
        }
    }

    #[test]
    fn a_disk_is_for_machines_alone() {
        let disk = |spec: &mut SandboxSpec| spec.disk_mib = Some(64);
        assert_eq!(flag(Tier::Microvm, disk), None);
        for tier in [Tier::Docker, Tier::Podman, Tier::Local] {
            assert_eq!(flag(tier, disk), Some("--disk"), "{tier}");
        }
    }

    #[test]
    fn a_bound_of_processes_is_refused_by_machines_alone() {
        let bound = |spec: &mut SandboxSpec| spec.processes = Some(99);
        assert_eq!(flag(Tier::Microvm, bound), Some("--pids-limit"));
        for tier in [Tier::Docker, Tier::Podman, Tier::Local] {
            assert_eq!(flag(tier, bound), None, "{tier}");
        }
    }
}
