//! Where a container engine listens.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::tier::Tier;
use crate::tier::facts::Unavailable;

/// The sockets to try, in order; more than one only where nobody named one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoints {
    pub(super) paths: Vec<PathBuf>,
    /// The variable that names it, if one does.
    pub(super) named_by: Option<&'static str>,
}

impl Endpoints {
    /// What to say of a daemon that answers, and stops to.
    pub(super) fn too_slow(&self, waited: Duration) -> Unavailable {
        let paths: Vec<_> = self
            .paths
            .iter()
            .map(|path| path.to_string_lossy())
            .collect();
        Unavailable {
            code: "daemon-slow",
            cause: format!(
                "the daemon at {} did not tell about itself within {} ms",
                paths.join(" or "),
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
/// If the environment names an engine that is not on this machine.
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
        let Some(path) = address.as_bytes().strip_prefix(b"unix://") else {
            return Err(not_local(variable, &address));
        };
        return Ok(Endpoints {
            paths: vec![OsString::from_vec(path.to_vec()).into()],
            named_by: Some(variable),
        });
    }
    let runtime = set("XDG_RUNTIME_DIR").map(PathBuf::from);
    let below_runtime = |path: &str| runtime.as_ref().map(|folder| folder.join(path));
    let paths = match tier {
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
        paths,
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

fn not_local(variable: &str, address: &OsString) -> Unavailable {
    Unavailable {
        code: "remote-daemon",
        cause: format!(
            "{variable}={} is not a daemon of this machine",
            address.to_string_lossy()
        ),
        remedy: Some(format!("set {variable} to unix:///path, or unset it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(tier: Tier, env: &[(&str, &str)]) -> Result<Vec<String>, &'static str> {
        let value = |name: &str| {
            let (_, value) = env.iter().find(|(known, _)| *known == name)?;
            Some(OsString::from(value))
        };
        let endpoints = of(tier, value).map_err(|reason| reason.code)?;
        let text = |path: &PathBuf| path.display().to_string();
        Ok(endpoints.paths.iter().map(text).collect())
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
    fn a_daemon_elsewhere_is_told_as_such() {
        for address in ["tcp://10.0.0.1:2375", "ssh://host", "/var/run/docker.sock"] {
            let env = [("DOCKER_HOST", address)];
            assert_eq!(paths(Tier::Docker, &env), Err("remote-daemon"));
        }
    }
}
