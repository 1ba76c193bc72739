//! What a container is made of, for its daemon.
//!
//! The agent and all commands run as user 1000 with no capability at all. An agent that is root
//! could serve `--user root`, but only with the capabilities to change users, which whoever gets
//! control of it would have as well; so this tier refuses other users instead.

use std::collections::HashMap;
use std::path::Path;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType,
    ResourcesUlimits,
};

use rustix::process::{Resource, getrlimit};

use super::image::Loaded;
use super::kept::{Kept, Place};
use super::meeting::SOCKET;
use crate::spec::{Network, SandboxSpec};
use crate::tier::Tier;

/// The label with a sandbox's id, which begins with its owner.
pub(super) const LABEL_ID: &str = "sovereign.sandbox";
/// The label with the process that a sandbox belongs to.
pub(super) const LABEL_OWNER: &str = "sovereign.owner";
/// The label with the boot of the machine that it was started on.
pub(super) const LABEL_BOOT: &str = "sovereign.boot";

/// Where the agent's program is in a container, and where it meets the engine.
pub(super) const AGENT: &str = "/run/sovereign/agent";
/// Its folder and its name there.
pub(super) const AGENT_FOLDER: &str = "/run/sovereign";
pub(super) const AGENT_NAME: &str = "agent";
const HOST: &str = "/run/sovereign/host";

/// Who all processes of a container are.
pub(super) const UID: u32 = 1000;
pub(super) const USER: &str = "1000:1000";
const HOME: &str = "/home/sandbox";
/// Soft and hard limit of open files, as in the local tier; no more than this process may have.
const OPEN_FILES: (i64, i64) = (1024, 1024 * 1024);
/// What Podman limits itself to (podman 4.3, observed): the processes of all sandboxes of one user.
const PODMAN_PROCESSES: i64 = 32 * 1024;
/// Files that may be made per MiB of a place: as many as there are pages, for each needs one at least.
const FILES_PER_MIB: u32 = 256;
/// Processes that a container may have per MiB of its memory, and at least, unless it is told.
const PROCESSES_PER_MIB: u32 = 2;
const LEAST_PROCESSES: u32 = 256;
/// `/dev/shm`, as container engines make it.
const SHARED_MEMORY: i64 = 64 << 20;
/// When the machine runs out of memory, this is what it can do without.
const OOM_SCORE: i64 = 500;
const MIB: i64 = 1 << 20;

/// How the agent gets into a container, and how it is reached there.
#[derive(Debug, Clone, Copy)]
pub(super) enum Entry<'a> {
    /// By this machine's files.
    Mounted {
        /// The agent's program.
        agent: &'a Path,
        /// The folder in which the agent meets the engine.
        folder: &'a Path,
    },
    /// By a volume of the daemon's that has the agent's program; it is reached through the API.
    Volume(&'a str),
}

/// A container, as it shall be.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    /// Which engine it is for.
    pub(super) tier: Tier,
    pub(super) spec: &'a SandboxSpec,
    pub(super) image: &'a Loaded,
    pub(super) entry: Entry<'a>,
    /// Where what is written is kept, if it is.
    pub(super) kept: Option<Kept<'a>>,
    /// The number of CPUs that the daemon has.
    pub(super) cpus: Option<i64>,
    pub(super) labels: HashMap<String, String>,
}

impl Plan<'_> {
    /// The request for it.
    pub(super) fn request(self) -> ContainerCreateBody {
        let is_held = matches!(self.entry, Entry::Volume(_));
        ContainerCreateBody {
            hostname: Some(self.spec.hostname().to_owned()),
            user: Some(USER.to_owned()),
            attach_stdin: Some(is_held),
            open_stdin: Some(is_held),
            // It ends when whoever is attached has gone.
            stdin_once: Some(is_held),
            attach_stdout: Some(is_held),
            attach_stderr: Some(true),
            entrypoint: Some(vec![AGENT.to_owned()]),
            cmd: Some(self.entry.arguments()),
            // An image may have one that wants to run in the sandbox.
            healthcheck: Some(HealthConfig {
                test: Some(vec!["NONE".to_owned()]),
                ..HealthConfig::default()
            }),
            image: Some(self.image.id.clone()),
            working_dir: Some("/".to_owned()),
            network_disabled: Some(self.spec.network() == Network::None),
            host_config: Some(self.host_config()),
            labels: Some(self.labels),
            ..ContainerCreateBody::default()
        }
    }

    fn host_config(&self) -> HostConfig {
        let memory = i64::from(self.spec.memory_mib()) * MIB;
        // More than the daemon has is refused by it, and bounds nothing.
        let cpus = i64::from(self.spec.cpus()).min(self.cpus.unwrap_or(i64::MAX));
        HostConfig {
            auto_remove: Some(true),
            network_mode: Some(self.spec.network().name().to_owned()),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
            privileged: Some(false),
            init: Some(false),
            readonly_rootfs: Some(true),
            mounts: Some(self.mounts()),
            tmpfs: Some(self.writable()),
            shm_size: Some(SHARED_MEMORY),
            memory: Some(memory),
            // Memory and swap together: no swap.
            memory_swap: Some(memory),
            nano_cpus: Some(cpus * 1_000_000_000),
            pids_limit: Some(self.processes().into()),
            oom_score_adj: Some(OOM_SCORE),
            ulimits: Some(self.ulimits()),
            log_config: Some(HostConfigLogConfig {
                typ: Some("none".to_owned()),
                config: None,
            }),
            ..HostConfig::default()
        }
    }

    /// How many processes it may have, threads included: unless told, no more than its memory can use.
    /// What has thousands of them to end, and one CPU for that, tells the end of a timeout late: of a
    /// fork bomb in 512 MiB, 14 s late with 4096 processes, and 1 to 4 s with 1024.
    fn processes(&self) -> u32 {
        let of_memory = self.spec.memory_mib().saturating_mul(PROCESSES_PER_MIB);
        let most = self.spec.processes();
        self.spec
            .processes
            .unwrap_or_else(|| of_memory.clamp(LEAST_PROCESSES, most))
    }

    fn ulimits(&self) -> Vec<ResourcesUlimits> {
        let most = |resource| {
            let maximum = getrlimit(resource).maximum;
            maximum.and_then(|maximum| i64::try_from(maximum).ok())
        };
        let files = most(Resource::Nofile).map_or(OPEN_FILES.1, |most| most.min(OPEN_FILES.1));
        // That of core dumps is the agent's to lower: an engine of a user's own could not raise it from zero.
        let mut limits = vec![ulimit("nofile", OPEN_FILES.0.min(files), files)];
        // Without being told, Podman asks for more than it may have where root may not have all. What
        // bounds the processes of one sandbox is its cgroup.
        if self.tier == Tier::Podman {
            let most =
                most(Resource::Nproc).map_or(PODMAN_PROCESSES, |most| most.min(PODMAN_PROCESSES));
            limits.push(ulimit("nproc", most, most));
        }
        limits
    }

    fn mounts(&self) -> Vec<Mount> {
        let mut mounts = self.entry.mounts();
        if let Some(kept) = self.kept {
            mounts.extend(places(self.image).into_iter().map(|place| Mount {
                read_only: Some(false),
                ..mount(MountType::VOLUME, &kept.volume(&place.path), &place.path)
            }));
        }
        mounts
    }

    /// The places that can be written to in memory: all, unless what is written is kept. Each has its
    /// bound; all together live in the container's memory, and have its bound too.
    fn writable(&self) -> HashMap<String, String> {
        let run = "rw,noexec,nosuid,nodev,mode=0755,size=1m";
        let run = ("/run".to_owned(), run.to_owned());
        if self.kept.is_some() {
            return [run].into();
        }
        let mib = self.spec.overlay_mib();
        let size = match self.tier {
            // It knows no such option (podman 4.3): there memory is the only bound for empty files.
            Tier::Podman => format!("size={mib}m"),
            _ => format!(
                "size={mib}m,nr_inodes={}",
                mib.saturating_mul(FILES_PER_MIB)
            ),
        };
        let options = |mode| format!("rw,exec,nosuid,nodev,mode={mode:04o},{size}");
        let owner = match self.tier {
            // The container's user, which is the one above.
            Tier::Podman => "U".to_owned(),
            _ => format!("uid={UID},gid={UID}"),
        };
        let writable = places(self.image).into_iter().map(|place| {
            let options = match place.path.as_str() {
                HOME => format!("{},{owner}", options(place.mode)),
                _ => options(place.mode),
            };
            (place.path, options)
        });
        writable.chain([run]).collect()
    }
}

/// The places that can be written to.
pub(super) fn places(image: &Loaded) -> Vec<Place> {
    let place = |path: &str, mode| Place {
        path: path.to_owned(),
        mode,
    };
    let own = [
        place("/tmp", 0o1777),
        place("/var/tmp", 0o1777),
        place(HOME, 0o700),
    ];
    let is_ours = |path: &str| own.iter().any(|own| own.path == path);
    let volumes = image.volumes.iter().filter(|path| !is_ours(path));
    let volumes = volumes.map(|path| place(path, 0o1777)).collect::<Vec<_>>();
    volumes.into_iter().chain(own.clone()).collect()
}

fn ulimit(name: &str, soft: i64, hard: i64) -> ResourcesUlimits {
    ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(soft),
        hard: Some(hard),
    }
}

impl Entry<'_> {
    /// The agent's arguments.
    fn arguments(&self) -> Vec<String> {
        match self {
            Self::Mounted { .. } => {
                vec!["--control".to_owned(), format!("unix:{HOST}/{SOCKET}")]
            }
            Self::Volume(_) => vec!["--bridge".to_owned()],
        }
    }

    fn mounts(&self) -> Vec<Mount> {
        match self {
            Self::Mounted { agent, folder } => vec![
                mount(MountType::BIND, &agent.to_string_lossy(), AGENT),
                mount(MountType::BIND, &folder.to_string_lossy(), HOST),
            ],
            Self::Volume(name) => vec![mount(MountType::VOLUME, name, AGENT_FOLDER)],
        }
    }
}

fn mount(kind: MountType, source: &str, target: &str) -> Mount {
    Mount {
        typ: Some(kind),
        source: Some(source.to_owned()),
        target: Some(target.to_owned()),
        read_only: Some(true),
        ..Mount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(change: impl FnOnce(&mut SandboxSpec)) -> HostConfig {
        let mut spec = SandboxSpec::default();
        change(&mut spec);
        let plan = Plan {
            tier: Tier::Docker,
            spec: &spec,
            image: &Loaded {
                id: "sha256:0".to_owned(),
                volumes: vec!["/data".to_owned()],
            },
            kept: None,
            entry: Entry::Mounted {
                agent: Path::new("/opt/agent"),
                folder: Path::new("/run/user/7/m/host"),
            },
            cpus: Some(2),
            labels: HashMap::new(),
        };
        let request = plan.request();
        assert_eq!(request.user.as_deref(), Some("1000:1000"));
        request.host_config.unwrap()
    }

    #[test]
    fn nothing_is_given_that_was_not_asked_for() {
        let host = planned(|_| ());
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert_eq!(host.cap_add, None);
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges:true"]);
        assert_eq!(host.readonly_rootfs, Some(true));
        assert_eq!(host.auto_remove, Some(true));
        assert!(
            host.mounts
                .unwrap()
                .iter()
                .all(|mount| mount.read_only == Some(true))
        );
        assert_eq!(
            (host.binds, host.devices, host.privileged),
            (None, None, Some(false))
        );
    }

    #[test]
    fn a_network_is_had_by_asking_for_it() {
        let host = planned(|spec| spec.network = Some(Network::Bridge));
        assert_eq!(host.network_mode.as_deref(), Some("bridge"));
        let host = planned(|spec| spec.network = Some(Network::None));
        assert_eq!(host.network_mode.as_deref(), Some("none"));
    }

    #[test]
    fn limits_are_those_of_the_spec_and_swap_is_off() {
        let host = planned(|spec| {
            spec.memory_mib = Some(64);
            spec.cpus = Some(2);
        });
        assert_eq!(host.memory, Some(64 << 20));
        assert_eq!(host.memory_swap, host.memory);
        assert_eq!(host.nano_cpus, Some(2_000_000_000));
        let processes = |memory, processes| {
            let host = planned(|spec| {
                spec.memory_mib = memory;
                spec.processes = processes;
            });
            host.pids_limit
        };
        assert_eq!(processes(None, None), Some(1024));
        assert_eq!(processes(Some(64), None), Some(256));
        assert_eq!(processes(Some(8192), None), Some(4096));
        assert_eq!(processes(Some(64), Some(5000)), Some(5000));
        assert_eq!(processes(None, Some(99)), Some(99));
    }

    #[test]
    fn no_more_cpus_are_asked_for_than_there_are() {
        let host = planned(|spec| spec.cpus = Some(32));
        assert_eq!(host.nano_cpus, Some(2_000_000_000));
    }

    #[test]
    fn every_writable_place_has_a_bound_also_those_of_the_image() {
        let places = planned(|spec| spec.overlay_mib = Some(7)).tmpfs.unwrap();
        for place in ["/tmp", "/var/tmp", "/home/sandbox", "/data"] {
            assert!(places[place].contains("size=7m"), "{place}");
        }
        assert!(places["/home/sandbox"].contains("uid=1000"));
        assert!(places["/run"].contains("size="));
    }
}
