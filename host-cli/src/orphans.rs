//! Who reaps the processes that this one leaves behind.

/// Programs that are first in a system or container and reap every orphan.
const REAPERS: [&str; 22] = [
    "systemd",
    "init",
    "tini",
    "tini-static",
    "dumb-init",
    "docker-init",
    "podman-init",
    "catatonit",
    "busybox",
    "openrc-init",
    "runit",
    "runit-init",
    "s6-svscan",
    "s6-linux-init",
    "finit",
    "dinit",
    "sysvinit",
    "pause",
    "bash",
    "sh",
    "dash",
    "zsh",
];

/// Whether the first process of this system or container is known to reap orphans. An application
/// that runs as the first process of a container often does not, and its zombies stay for ever.
#[must_use]
pub(crate) fn are_reaped() -> bool {
    // Sixteen bytes at most, in one read.
    std::fs::read("/proc/1/comm").is_ok_and(|name| is_reaper(&name))
}

fn is_reaper(name: &[u8]) -> bool {
    let name = name.trim_ascii_end();
    REAPERS.iter().any(|reaper| reaper.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inits_and_shells_reap_and_applications_may_not() {
        for reaper in ["systemd\n", "tini\n", "init\n", "bash\n"] {
            assert!(is_reaper(reaper.as_bytes()), "{reaper}");
        }
        for other in ["node\n", "python3\n", "java\n", "sovereign\n", ""] {
            assert!(!is_reaper(other.as_bytes()), "{other}");
        }
    }
}
