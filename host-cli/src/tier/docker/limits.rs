//! Whether an engine can hold its containers to their limits.

use bollard::models::{SystemInfo, SystemInfoCgroupDriverEnum, SystemInfoCgroupVersionEnum};

use crate::error::ErrorKind;
use crate::tier::Tier;
use crate::tier::facts::Unavailable;

/// Whether the containers of this daemon, which runs as this user, can be held to their limits.
pub(super) fn check(tier: Tier, info: &SystemInfo, owner: Option<u32>) -> Result<(), Unavailable> {
    if let Some(system) = info.os_type.as_deref().filter(|system| *system != "linux") {
        return Err(Unavailable {
            code: ErrorKind::NotLinux,
            cause: format!("this daemon runs {system} containers, and the sandbox is Linux"),
            remedy: Some("switch it to Linux containers".to_owned()),
        });
    }
    let rootless = info
        .security_options
        .iter()
        .flatten()
        .any(|option| option.contains("rootless"));
    // Podman does not say so itself.
    let rootless = rootless || (tier == Tier::Podman && owner.is_some_and(|uid| uid != 0));
    // It is systemd that makes the scopes, and Podman that asks it.
    let has_scopes =
        tier == Tier::Podman && info.cgroup_driver == Some(SystemInfoCgroupDriverEnum::SYSTEMD);
    let delegated = match owner {
        Some(uid) if rootless && has_scopes => delegated_to(uid),
        _ => String::new(),
    };
    can_limit(tier, info, rootless, &delegated)
}

/// The controllers that systemd has delegated to a user's own units; none where it has not.
///
/// Podman looks at those of its own service, where systemd switches a controller on only once
/// something is to be limited by it, and so tells of a rootless daemon that it cannot limit CPU time
/// (4.3). The containers get scopes of their own, for which it is switched on.
fn delegated_to(uid: u32) -> String {
    let unit = format!("/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service");
    std::fs::read_to_string(format!("{unit}/cgroup.controllers")).unwrap_or_default()
}

fn can_limit(
    tier: Tier,
    info: &SystemInfo,
    rootless: bool,
    delegated: &str,
) -> Result<(), Unavailable> {
    // It says that there are limits on version 1 of cgroups too, and leaves them out with no more than a
    // warning.
    let is_first_version = info.cgroup_version == Some(SystemInfoCgroupVersionEnum::_1);
    let none = rootless && is_first_version;
    let limits = [
        (info.memory_limit, "memory"),
        (info.cpu_cfs_quota, "cpu"),
        (info.pids_limit, "pids"),
    ];
    let is_delegated = |controller| delegated.split_whitespace().any(|one| one == controller);
    let lacking: Vec<_> = limits
        .iter()
        .filter(|(has, name)| none || (*has == Some(false) && !is_delegated(*name)))
        .map(|(_, name)| *name)
        .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let remedy = if none {
        "boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1): version 1 cannot be delegated to a \
         user; or use a daemon of root's"
    } else if rootless {
        "let systemd delegate them to your user (Delegate=cpu cpuset io memory pids in \
         user@.service, cgroup v2)"
    } else {
        "enable these cgroup controllers in the kernel"
    };
    Err(Unavailable {
        code: ErrorKind::LimitsUnavailable,
        cause: format!("{tier} cannot limit {} here", lacking.join(", ")),
        remedy: Some(remedy.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_without_limits_is_not_taken() {
        let info = SystemInfo {
            memory_limit: Some(false),
            pids_limit: Some(true),
            security_options: Some(vec!["name=rootless".to_owned()]),
            ..SystemInfo::default()
        };
        let found = check(Tier::Podman, &info, None).unwrap_err();
        assert_eq!(found.code, ErrorKind::LimitsUnavailable);
        assert!(found.cause.contains("limit memory here"), "{}", found.cause);
        assert!(found.remedy.unwrap().contains("Delegate"));
        assert_eq!(check(Tier::Docker, &SystemInfo::default(), Some(0)), Ok(()));
        let first = SystemInfo {
            memory_limit: Some(true),
            cgroup_version: Some(SystemInfoCgroupVersionEnum::_1),
            ..SystemInfo::default()
        };
        let found = check(Tier::Podman, &first, Some(1000)).unwrap_err();
        assert!(found.cause.contains("memory, cpu, pids"), "{}", found.cause);
        assert!(found.remedy.unwrap().contains("unified_cgroup_hierarchy"));
        assert_eq!(check(Tier::Podman, &first, Some(0)), Ok(()));
    }

    /// As Podman 4.3 of a user tells it on Debian 12.
    #[test]
    fn what_systemd_has_delegated_can_be_limited() {
        let info = SystemInfo {
            memory_limit: Some(true),
            cpu_cfs_quota: Some(false),
            pids_limit: Some(true),
            cgroup_version: Some(SystemInfoCgroupVersionEnum::_2),
            ..SystemInfo::default()
        };
        let can = |delegated| can_limit(Tier::Podman, &info, true, delegated);
        assert_eq!(can("cpu memory pids\n"), Ok(()));
        for lacking in ["", "memory pids\n", "cpuset memory pids\n"] {
            assert!(can(lacking).is_err(), "{lacking}");
        }
        let first = SystemInfo {
            cgroup_version: Some(SystemInfoCgroupVersionEnum::_1),
            ..info.clone()
        };
        let found = can_limit(Tier::Podman, &first, true, "cpu memory pids\n").unwrap_err();
        assert!(found.cause.contains("memory, cpu, pids"), "{}", found.cause);
    }

    #[test]
    fn windows_containers_are_not_taken() {
        let info = SystemInfo {
            os_type: Some("windows".to_owned()),
            ..SystemInfo::default()
        };
        assert_eq!(
            check(Tier::Docker, &info, None).unwrap_err().code,
            ErrorKind::NotLinux
        );
    }
}
