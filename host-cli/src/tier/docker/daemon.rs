//! A connection to a container engine, and what can be in its way.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::SystemInfo;
use bollard::{API_DEFAULT_VERSION, Docker};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::endpoint::Endpoints;
use crate::tier::Tier;
use crate::tier::facts::Unavailable;

/// How long the daemon may take to begin an answer, unless a shorter deadline holds. An import is
/// answered when it is done.
const ANSWER_SECONDS: u64 = 300;
/// The oldest API that has all that is asked of it (Docker 19.03, Podman 3).
const OLDEST_API: (usize, usize) = (1, 40);

/// A daemon that answers.
#[derive(Debug, Clone)]
pub(super) struct Daemon {
    pub(super) tier: Tier,
    pub(super) socket: PathBuf,
    pub(super) api: Docker,
    /// Its number of CPUs.
    pub(super) cpus: Option<i64>,
}

/// Why a socket leads to no daemon.
#[derive(Debug)]
enum Obstacle {
    /// There is no such file.
    Missing,
    /// Any other.
    Known(Unavailable),
}

impl Daemon {
    /// Finds the daemon behind the first of these sockets that exists.
    pub(super) async fn find(
        tier: Tier,
        endpoints: &Endpoints,
        patience: Duration,
    ) -> Result<Self, Unavailable> {
        let mut first = None;
        for path in &endpoints.paths {
            let found = timeout(patience, Self::at(tier, path)).await;
            let obstacle = match found {
                Ok(Ok(daemon)) => return Ok(daemon),
                Ok(Err(Obstacle::Missing)) => continue,
                Ok(Err(Obstacle::Known(obstacle))) => obstacle,
                Err(_) => silent(tier, path, patience),
            };
            first.get_or_insert(obstacle);
        }
        Err(first.unwrap_or_else(|| missing(tier, endpoints)))
    }

    /// What to say when it stops answering.
    pub(super) fn silent(&self, patience: Duration) -> Unavailable {
        silent(self.tier, &self.socket, patience)
    }

    async fn at(tier: Tier, path: &Path) -> Result<Self, Obstacle> {
        // The library tells what is in the way of a connection as text only.
        UnixStream::connect(path)
            .await
            .map_err(|error| unreachable(tier, path, &error))?;
        let failed = |error: &bollard::errors::Error| Obstacle::Known(broken(tier, path, error));
        let address = path.to_string_lossy();
        let api = Docker::connect_with_unix(&address, ANSWER_SECONDS, API_DEFAULT_VERSION)
            .map_err(|error| failed(&error))?
            .negotiate_version()
            .await
            .map_err(|error| failed(&error))?;
        let version = api.client_version();
        if (version.major_version, version.minor_version) < OLDEST_API {
            let found = format!("{}.{}", version.major_version, version.minor_version);
            return Err(Obstacle::Known(too_old(tier, &found)));
        }
        let info = api.info().await.map_err(|error| failed(&error))?;
        check(tier, &info).map_err(Obstacle::Known)?;
        Ok(Self {
            tier,
            socket: path.to_owned(),
            api,
            cpus: info.ncpu,
        })
    }
}

/// Whether this daemon's containers can be held to their limits.
fn check(tier: Tier, info: &SystemInfo) -> Result<(), Unavailable> {
    if let Some(system) = info.os_type.as_deref().filter(|system| *system != "linux") {
        return Err(Unavailable {
            code: "not-linux",
            cause: format!("this daemon runs {system} containers, and the sandbox is Linux"),
            remedy: Some("switch it to Linux containers".to_owned()),
        });
    }
    let limits = [
        (info.memory_limit, "memory"),
        (info.cpu_cfs_quota, "cpu"),
        (info.pids_limit, "pids"),
    ];
    let lacking: Vec<_> = limits
        .iter()
        .filter(|(has, _)| *has == Some(false))
        .map(|(_, name)| *name)
        .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let rootless = info
        .security_options
        .iter()
        .flatten()
        .any(|option| option.contains("rootless"));
    let remedy = if rootless {
        "let systemd delegate them to your user (Delegate=cpu cpuset io memory pids in \
         user@.service, cgroup v2)"
    } else {
        "enable these cgroup controllers in the kernel"
    };
    Err(Unavailable {
        code: "limits-unavailable",
        cause: format!("{tier} cannot limit {} here", lacking.join(", ")),
        remedy: Some(remedy.to_owned()),
    })
}

fn unreachable(tier: Tier, path: &Path, error: &io::Error) -> Obstacle {
    let shown = path.display();
    let (code, cause, remedy) = match error.kind() {
        io::ErrorKind::NotFound => return Obstacle::Missing,
        io::ErrorKind::PermissionDenied => {
            let remedy = if tier == Tier::Docker {
                "add yourself to the group of the socket, and log in again: sudo usermod -aG \
                 docker $USER (its members are as powerful as root)"
            } else {
                "use a Podman of your own: systemctl --user start podman.socket"
            };
            let cause = format!("you may not connect to {shown}");
            ("daemon-permission", cause, remedy)
        }
        io::ErrorKind::ConnectionRefused => {
            let cause = format!("nobody listens at {shown}: the daemon is not running");
            ("daemon-stopped", cause, start_it(tier))
        }
        // The queue of connections is full, so nobody takes any.
        io::ErrorKind::WouldBlock => {
            let cause = format!("the daemon at {shown} takes no more connections");
            ("daemon-silent", cause, restart_it(tier))
        }
        _ => {
            let cause = format!("cannot connect to {shown}: {error}");
            ("daemon-unreachable", cause, start_it(tier))
        }
    };
    Obstacle::Known(Unavailable {
        code,
        cause,
        remedy: Some(remedy.to_owned()),
    })
}

fn missing(tier: Tier, endpoints: &Endpoints) -> Unavailable {
    let paths: Vec<_> = endpoints
        .paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let by = endpoints
        .named_by
        .map_or_else(String::new, |variable| format!(" ({variable})"));
    Unavailable {
        code: "no-daemon",
        cause: format!("there is no socket at {}{by}", paths.join(" or ")),
        remedy: Some(match endpoints.named_by {
            Some(variable) => format!("set {variable} to the daemon's socket, or unset it"),
            None => format!("install {tier}, or {}", start_it(tier)),
        }),
    }
}

fn silent(tier: Tier, path: &Path, patience: Duration) -> Unavailable {
    Unavailable {
        code: "daemon-silent",
        cause: format!(
            "the daemon at {} did not answer within {} ms",
            path.display(),
            patience.as_millis()
        ),
        remedy: Some(restart_it(tier).to_owned()),
    }
}

fn too_old(tier: Tier, found: &str) -> Unavailable {
    let (major, minor) = OLDEST_API;
    Unavailable {
        code: "daemon-too-old",
        cause: format!("its API is {found}, and at least {major}.{minor} is needed"),
        remedy: Some(match tier {
            Tier::Podman => "install Podman 4 or later".to_owned(),
            _ => "install Docker 19.03 or later".to_owned(),
        }),
    }
}

fn broken(tier: Tier, path: &Path, error: &bollard::errors::Error) -> Unavailable {
    Unavailable {
        code: "daemon-broken",
        cause: format!(
            "the daemon at {} gave no usable answer: {}",
            path.display(),
            crate::error::chain(error)
        ),
        remedy: Some(restart_it(tier).to_owned()),
    }
}

const fn start_it(tier: Tier) -> &'static str {
    match tier {
        Tier::Podman => "start its socket: systemctl --user start podman.socket",
        _ => "start it: sudo systemctl start docker",
    }
}

const fn restart_it(tier: Tier) -> &'static str {
    match tier {
        Tier::Podman => "restart it: systemctl --user restart podman.socket podman.service",
        _ => "restart it: sudo systemctl restart docker",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn obstacle(kind: io::ErrorKind) -> Unavailable {
        match unreachable(Tier::Docker, Path::new("/d.sock"), &kind.into()) {
            Obstacle::Known(reason) => reason,
            Obstacle::Missing => panic!("missing"),
        }
    }

    #[test]
    fn what_is_in_the_way_has_a_cause_and_a_remedy() {
        let cases = [
            (
                io::ErrorKind::PermissionDenied,
                "daemon-permission",
                "usermod",
            ),
            (
                io::ErrorKind::ConnectionRefused,
                "daemon-stopped",
                "start docker",
            ),
            (io::ErrorKind::WouldBlock, "daemon-silent", "restart docker"),
        ];
        for (kind, code, remedy) in cases {
            let found = obstacle(kind);
            assert_eq!(found.code, code);
            assert!(found.cause.contains("/d.sock"), "{}", found.cause);
            assert!(found.remedy.unwrap().contains(remedy), "{code}");
        }
    }

    #[test]
    fn a_daemon_without_limits_is_not_taken() {
        let info = SystemInfo {
            memory_limit: Some(false),
            pids_limit: Some(true),
            security_options: Some(vec!["name=rootless".to_owned()]),
            ..SystemInfo::default()
        };
        let found = check(Tier::Podman, &info).unwrap_err();
        assert_eq!(found.code, "limits-unavailable");
        assert!(found.cause.contains("limit memory here"), "{}", found.cause);
        assert!(found.remedy.unwrap().contains("Delegate"));
        assert_eq!(check(Tier::Docker, &SystemInfo::default()), Ok(()));
    }

    #[test]
    fn windows_containers_are_not_taken() {
        let info = SystemInfo {
            os_type: Some("windows".to_owned()),
            ..SystemInfo::default()
        };
        assert_eq!(check(Tier::Docker, &info).unwrap_err().code, "not-linux");
    }
}
