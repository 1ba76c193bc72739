//! A connection to a container engine, and what can be in its way.

use std::io;
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, Docker};
use rustix::process::geteuid;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::endpoint::{Address, Endpoints};
use super::limits;
use crate::error::ErrorKind;
use crate::tier::Tier;
use crate::tier::facts::Unavailable;

/// How long the daemon may take to begin an answer, unless a shorter deadline holds. An import is
/// answered when it is done.
const ANSWER_SECONDS: u64 = 300;
/// The oldest API that has all that is asked of it (Docker 19.03).
const OLDEST_API: (u32, u32) = (1, 40);
/// The oldest Podman that has such an API, and is known to work.
const OLDEST_PODMAN: (u32, u32) = (4, 0);

/// A daemon that answers.
#[derive(Debug, Clone)]
pub(super) struct Daemon {
    pub(super) tier: Tier,
    pub(super) api: Docker,
    /// Its number of CPUs.
    pub(super) cpus: Option<i64>,
    /// Whether it is on this machine, and so can mount what is in its file system.
    pub(super) sees_our_files: bool,
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
        first_word: Duration,
    ) -> Result<Self, Unavailable> {
        let mut told: Option<Unavailable> = None;
        for address in &endpoints.addresses {
            match Self::at(tier, address, first_word).await {
                Ok(daemon) => return Ok(daemon),
                Err(Obstacle::Missing) => {}
                // One that may yet answer is asked again.
                Err(Obstacle::Known(silent)) if silent.code == ErrorKind::DaemonSilent => {
                    told = Some(silent);
                }
                Err(Obstacle::Known(obstacle)) => {
                    told.get_or_insert(obstacle);
                }
            }
        }
        Err(told.unwrap_or_else(|| missing(tier, endpoints)))
    }

    async fn at(tier: Tier, address: &Address, first_word: Duration) -> Result<Self, Obstacle> {
        let failed = |error: bollard::errors::Error| Obstacle::Known(broken(tier, address, &error));
        let greeting = async {
            let owner = reach(address)
                .await
                .map_err(|error| unreachable(tier, address, &error))?;
            let api = client(address).map_err(failed)?;
            api.ping().await.map_err(failed)?;
            Ok((api, owner))
        };
        let (api, owner) = timeout(first_word, greeting)
            .await
            .unwrap_or_else(|_| Err(Obstacle::Known(silent(tier, address, first_word))))?;
        let info = if tier == Tier::Podman {
            // It takes half a second to find out its API's version, which follows from its own.
            let info = api.info().await.map_err(failed)?;
            check_version(tier, OLDEST_PODMAN, info.server_version.as_deref())
                .map_err(Obstacle::Known)?;
            info
        } else {
            let (version, info) = tokio::join!(api.version(), api.info());
            let version = version.map_err(failed)?.api_version;
            check_version(tier, OLDEST_API, version.as_deref()).map_err(Obstacle::Known)?;
            info.map_err(failed)?
        };
        limits::check(tier, &info, owner).map_err(Obstacle::Known)?;
        Ok(Self {
            tier,
            api,
            cpus: info.ncpu,
            sees_our_files: matches!(address, Address::Socket(_)),
        })
    }
}

/// Connects once, for the error alone: the library tells what is in the way of a connection as text
/// only. Returns whose daemon it is, as far as can be known.
async fn reach(address: &Address) -> io::Result<Option<u32>> {
    match address {
        Address::Socket(path) => {
            let stream = UnixStream::connect(path).await?;
            Ok(stream.peer_cred().ok().map(|daemon| daemon.uid()))
        }
        Address::Tcp(host) => TcpStream::connect(host.as_str()).await.map(|_| None),
    }
}

fn client(address: &Address) -> Result<Docker, bollard::errors::Error> {
    let version = API_DEFAULT_VERSION;
    match address {
        Address::Socket(path) => {
            Docker::connect_with_unix(&path.to_string_lossy(), ANSWER_SECONDS, version)
        }
        Address::Tcp(host) => Docker::connect_with_http(host, ANSWER_SECONDS, version),
    }
}

/// Whether a version is at least the oldest that has all that is asked of it.
fn check_version(tier: Tier, oldest: (u32, u32), version: Option<&str>) -> Result<(), Unavailable> {
    let version = version.unwrap_or("unknown");
    let mut parts = version.split('.').map(str::parse);
    let found = parts.next().zip(parts.next());
    if let Some((Ok(major), Ok(minor))) = found
        && (major, minor) >= oldest
    {
        return Ok(());
    }
    Err(too_old(tier, oldest, version))
}

fn unreachable(tier: Tier, address: &Address, error: &io::Error) -> Obstacle {
    let shown = address;
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
            (ErrorKind::DaemonPermission, cause, remedy)
        }
        io::ErrorKind::ConnectionRefused => {
            let cause = format!("nobody listens at {shown}: the daemon is not running");
            (ErrorKind::DaemonStopped, cause, start_it(tier))
        }
        // The queue of connections is full, so nobody takes any.
        io::ErrorKind::WouldBlock => {
            let cause = format!("the daemon at {shown} takes no more connections");
            (ErrorKind::DaemonSilent, cause, restart_it(tier))
        }
        _ => {
            let cause = format!("cannot connect to {shown}: {error}");
            (ErrorKind::DaemonUnreachable, cause, start_it(tier))
        }
    };
    Obstacle::Known(Unavailable {
        code,
        cause,
        remedy: Some(remedy.to_owned()),
    })
}

fn missing(tier: Tier, endpoints: &Endpoints) -> Unavailable {
    let by = endpoints
        .named_by
        .map_or_else(String::new, |variable| format!(" ({variable})"));
    Unavailable {
        code: ErrorKind::NoDaemon,
        cause: format!("there is no socket at {}{by}", endpoints.list()),
        remedy: Some(match endpoints.named_by {
            Some(variable) => format!("set {variable} to the daemon's socket, or unset it"),
            None => format!("install {tier}, or {}", start_it(tier)),
        }),
    }
}

fn silent(tier: Tier, address: &Address, patience: Duration) -> Unavailable {
    Unavailable {
        code: ErrorKind::DaemonSilent,
        cause: format!(
            "the daemon at {} did not answer within {} ms",
            address,
            patience.as_millis()
        ),
        remedy: Some(format!(
            "try again, if it was only just starting; or {}",
            restart_it(tier)
        )),
    }
}

fn too_old(tier: Tier, (major, minor): (u32, u32), found: &str) -> Unavailable {
    let (what, remedy) = match tier {
        Tier::Podman => ("Podman", "install Podman 4 or later"),
        _ => ("the API of Docker", "install Docker 19.03 or later"),
    };
    Unavailable {
        code: ErrorKind::DaemonTooOld,
        cause: format!("{what} is {found} here, and at least {major}.{minor} is needed"),
        remedy: Some(remedy.to_owned()),
    }
}

fn broken(tier: Tier, address: &Address, error: &bollard::errors::Error) -> Unavailable {
    Unavailable {
        code: ErrorKind::DaemonBroken,
        cause: format!(
            "the daemon at {} gave no usable answer: {}",
            address,
            crate::error::chain(error)
        ),
        remedy: Some(restart_it(tier).to_owned()),
    }
}

fn start_it(tier: Tier) -> &'static str {
    start_it_as(geteuid().is_root(), tier)
}

/// Root's Podman is the system's own, and there may be nothing else that manages root's services.
const fn start_it_as(root: bool, tier: Tier) -> &'static str {
    match (tier, root) {
        (Tier::Podman, true) => "start its socket: systemctl start podman.socket",
        (Tier::Podman, false) => "start its socket: systemctl --user start podman.socket",
        (_, true) => "start it: systemctl start docker",
        (_, false) => "start it: sudo systemctl start docker",
    }
}

fn restart_it(tier: Tier) -> &'static str {
    restart_it_as(geteuid().is_root(), tier)
}

const fn restart_it_as(root: bool, tier: Tier) -> &'static str {
    match (tier, root) {
        (Tier::Podman, true) => "restart it: systemctl restart podman.socket podman.service",
        (Tier::Podman, false) => {
            "restart it: systemctl --user restart podman.socket podman.service"
        }
        (_, true) => "restart it: systemctl restart docker",
        (_, false) => "restart it: sudo systemctl restart docker",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn obstacle(kind: io::ErrorKind) -> Unavailable {
        match unreachable(
            Tier::Docker,
            &Address::Socket("/d.sock".into()),
            &kind.into(),
        ) {
            Obstacle::Known(reason) => reason,
            Obstacle::Missing => panic!("missing"),
        }
    }

    #[test]
    fn what_is_in_the_way_has_a_cause_and_a_remedy() {
        let cases = [
            (
                io::ErrorKind::PermissionDenied,
                ErrorKind::DaemonPermission,
                "usermod",
            ),
            (
                io::ErrorKind::ConnectionRefused,
                ErrorKind::DaemonStopped,
                "start docker",
            ),
            (
                io::ErrorKind::WouldBlock,
                ErrorKind::DaemonSilent,
                "restart docker",
            ),
        ];
        for (kind, code, remedy) in cases {
            let found = obstacle(kind);
            assert_eq!(found.code, code);
            assert!(found.cause.contains("/d.sock"), "{}", found.cause);
            assert!(found.remedy.unwrap().contains(remedy), "{code}");
        }
    }

    #[test]
    fn root_has_no_podman_of_its_own() {
        for say in [start_it_as, restart_it_as] {
            assert!(say(false, Tier::Podman).contains("systemctl --user"));
            assert!(!say(true, Tier::Podman).contains("--user"));
            assert!(!say(true, Tier::Docker).contains("sudo"));
        }
    }

    #[test]
    fn an_api_is_new_enough_or_told_by_its_number() {
        for good in ["1.40", "1.53", "2.0", "4.3.1"] {
            assert_eq!(check_version(Tier::Docker, OLDEST_API, Some(good)), Ok(()));
        }
        for bad in ["1.39", "1.9", "0.50", "x"] {
            let found = check_version(Tier::Docker, OLDEST_API, Some(bad)).unwrap_err();
            assert_eq!(found.code, ErrorKind::DaemonTooOld);
            assert!(found.cause.contains(bad), "{}", found.cause);
        }
        let old = check_version(Tier::Podman, OLDEST_PODMAN, Some("3.4.4")).unwrap_err();
        assert!(old.cause.contains("3.4.4"), "{}", old.cause);
        assert!(check_version(Tier::Docker, OLDEST_API, None).is_err());
    }
}
