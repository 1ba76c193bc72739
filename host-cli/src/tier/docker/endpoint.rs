//! Where a container engine listens.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::ErrorKind;
use crate::tier::Tier;
use crate::tier::facts::Unavailable;

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// At a socket of this machine: the daemon sees this machine's files.
    Socket(PathBuf),
    /// At a host and port, as `tcp://` has them: the daemon may see another machine's files.
    Tcp(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
        }
    }
}

/// The addresses to try, in order; more than one only where nobody named one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoints {
    pub(super) addresses: Vec<Address>,
    /// The variable that names it, if one does.
    pub(super) named_by: Option<&'static str>,
}

impl Endpoints {
    /// All addresses, for people.
    pub(super) fn list(&self) -> String {
        let addresses: Vec<_> = self.addresses.iter().map(Address::to_string).collect();
        addresses.join(" or ")
    }

    /// What to say of a daemon that answers, and stops to.
    pub(super) fn too_slow(&self, waited: Duration) -> Unavailable {
        Unavailable {
            code: ErrorKind::DaemonSlow,
            cause: format!(
                "the daemon at {} did not tell about itself within {} ms",
                self.list(),
                waited.as_millis()
            ),
            remedy: Some("try again when the machine has less to do, or restart it".to_owned()),
        }
    }
}

/// The sockets at which the engine of this tier may listen, by the environment.
///
/// # Errors
///
/// If the environment names an engine that cannot be spoken to.
pub(super) fn of(
    tier: Tier,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Endpoints, Unavailable> {
    let variable = match tier {
        Tier::Podman => "CONTAINER_HOST",
        _ => "DOCKER_HOST",
    };
    let set = |name: &str| env(name).filter(|value| !value.is_empty());
    if let Some(address) = set(variable) {
        let tls = tier == Tier::Docker && set("DOCKER_TLS_VERIFY").is_some();
        return Ok(Endpoints {
            addresses: vec![named(variable, &address, tls)?],
            named_by: Some(variable),
        });
    }
    let runtime = set("XDG_RUNTIME_DIR").map(PathBuf::from);
    let below_runtime = |path: &str| runtime.as_ref().map(|folder| folder.join(path));
    let paths: Vec<_> = match tier {
        Tier::Podman => below_runtime("podman/podman.sock")
            .into_iter()
            .chain([PathBuf::from("/run/podman/podman.sock")])
            .collect(),
        _ => [PathBuf::from("/var/run/docker.sock")]
            .into_iter()
            .chain(below_runtime("docker.sock"))
            .collect(),
    };
    Ok(Endpoints {
        addresses: paths.into_iter().map(Address::Socket).collect(),
        named_by: None,
    })
}

/// The folder for what a user's programs share while they run.
pub(super) fn runtime_folder(env: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    env("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute() && folder.is_dir())
        .unwrap_or_else(|| {
            let folder = env("TMPDIR").map(PathBuf::from);
            folder
                .filter(|folder| folder.is_absolute())
                .unwrap_or_else(|| Path::new("/tmp").to_owned())
        })
}

/// The address that a variable names.
fn named(variable: &str, address: &OsString, tls: bool) -> Result<Address, Unavailable> {
    if let Some(path) = address.as_bytes().strip_prefix(b"unix://") {
        return Ok(Address::Socket(OsString::from_vec(path.to_vec()).into()));
    }
    let text = address.to_string_lossy();
    let host = text
        .strip_prefix("tcp://")
        .map(|host| host.trim_end_matches('/'));
    let (code, why) = match host {
        Some(_) if tls => (
            ErrorKind::DaemonTls,
            "is to be spoken to by TLS, which this engine does not",
        ),
        Some(host) if host.contains('/') || !host.contains(':') => {
            (ErrorKind::DaemonAddress, "is not tcp://HOST:PORT")
        }
        Some(host) => return Ok(Address::Tcp(host.to_owned())),
        None if text.starts_with("ssh://") => (ErrorKind::RemoteDaemon, "is spoken to by ssh"),
        None => (
            ErrorKind::DaemonAddress,
            "is neither unix:///PATH nor tcp://HOST:PORT",
        ),
    };
    let forward = format!(
        "forward its socket (ssh -NL 127.0.0.1:23750:/var/run/docker.sock HOST), and set \
         {variable}=tcp://127.0.0.1:23750"
    );
    Err(Unavailable {
        code,
        cause: format!("{variable}={text} {why}"),
        remedy: Some(if code == ErrorKind::DaemonAddress {
            format!("set {variable} to unix:///PATH or tcp://HOST:PORT, or unset it")
        } else {
            forward
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(tier: Tier, env: &[(&str, &str)]) -> Result<Vec<String>, ErrorKind> {
        let value = |name: &str| {
            let (_, value) = env.iter().find(|(known, _)| *known == name)?;
            Some(OsString::from(value))
        };
        let endpoints = of(tier, value).map_err(|reason| reason.code)?;
        Ok(endpoints.addresses.iter().map(Address::to_string).collect())
    }

    #[test]
    fn the_usual_places_are_tried_in_order() {
        let runtime = [("XDG_RUNTIME_DIR", "/run/user/7")];
        assert_eq!(
            paths(Tier::Docker, &runtime).unwrap(),
            ["/var/run/docker.sock", "/run/user/7/docker.sock"]
        );
        assert_eq!(
            paths(Tier::Podman, &runtime).unwrap(),
            ["/run/user/7/podman/podman.sock", "/run/podman/podman.sock"]
        );
        assert_eq!(paths(Tier::Docker, &[]).unwrap(), ["/var/run/docker.sock"]);
    }

    #[test]
    fn a_socket_that_is_named_is_the_only_one() {
        let env = [
            ("DOCKER_HOST", "unix:///x/d.sock"),
            ("CONTAINER_HOST", "unix:///x/p.sock"),
            ("XDG_RUNTIME_DIR", "/run/user/7"),
        ];
        assert_eq!(paths(Tier::Docker, &env).unwrap(), ["/x/d.sock"]);
        assert_eq!(paths(Tier::Podman, &env).unwrap(), ["/x/p.sock"]);
        assert_eq!(
            paths(Tier::Docker, &[("DOCKER_HOST", "")]).unwrap(),
            ["/var/run/docker.sock"]
        );
    }

    #[test]
    fn a_daemon_elsewhere_is_spoken_to_by_tcp() {
        let tcp = ("DOCKER_HOST", "tcp://10.0.0.1:2375");
        assert_eq!(
            paths(Tier::Docker, &[tcp]).unwrap(),
            ["tcp://10.0.0.1:2375"]
        );
        let tls = [tcp, ("DOCKER_TLS_VERIFY", "1")];
        assert_eq!(paths(Tier::Docker, &tls), Err(ErrorKind::DaemonTls));
    }

    #[test]
    fn what_cannot_be_spoken_to_is_told() {
        let cases = [
            ("ssh://host", ErrorKind::RemoteDaemon),
            ("/var/run/docker.sock", ErrorKind::DaemonAddress),
            ("tcp://host", ErrorKind::DaemonAddress),
            ("tcp://host:1/path", ErrorKind::DaemonAddress),
        ];
        for (address, code) in cases {
            let env = [("DOCKER_HOST", address)];
            assert_eq!(paths(Tier::Docker, &env), Err(code), "{address}");
        }
    }
}
