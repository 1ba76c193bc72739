//! A container engine for one test: one that has nothing but a folder of its own.

use std::collections::HashMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, ContainerInspectResponse};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Builder;

use crate::network::OwnBridge;

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Docker,
    Podman,
}

impl Engine {
    pub(crate) const ALL: [Self; 2] = [Self::Docker, Self::Podman];

    /// The name of its tier.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }

    /// The variable that names its address.
    pub(crate) const fn variable(self) -> &'static str {
        match self {
            Self::Docker => "DOCKER_HOST",
            Self::Podman => "CONTAINER_HOST",
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Self::Docker => "dockerd",
            Self::Podman => "podman",
        }
    }

    /// Whether it is installed.
    pub(crate) fn is_here(self) -> bool {
        is_installed(self.program())
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// A running engine. Dropped, it has ended.
pub(crate) struct Daemon {
    pub(crate) engine: Engine,
    processes: Vec<Child>,
    socket: PathBuf,
    /// Its other address, at which it is treated as one of another machine.
    port: u16,
    /// A network of its own, if this machine can make one.
    _bridge: Option<OwnBridge>,
}

impl Daemon {
    pub(crate) fn start(engine: Engine, folder: &Path) -> Self {
        let socket = folder.join("engine.sock");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = port.unwrap().port();
        let addresses = [
            format!("unix://{}", socket.display()),
            format!("tcp://127.0.0.1:{port}"),
        ];
        let bridge = (engine == Engine::Docker).then(OwnBridge::new).flatten();
        let name = bridge.as_ref().map_or("none", |bridge| bridge.name());
        let processes = match engine {
            Engine::Docker => vec![dockerd(folder, name, &addresses)],
            Engine::Podman => addresses
                .iter()
                .map(|address| podman(folder, address))
                .collect(),
        };
        let daemon = Self {
            engine,
            processes,
            socket,
            port,
            _bridge: bridge,
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while daemon.talk(async |api| api.ping().await).is_none()
            || std::net::TcpStream::connect(("127.0.0.1", port)).is_err()
        {
            assert!(Instant::now() < deadline, "the engine does not come up");
            std::thread::sleep(Duration::from_millis(100));
        }
        daemon
    }

    /// Its address, as the engine's variable has it.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Its address as if it were on another machine.
    pub(crate) fn remote_address(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }

    /// The names of all containers, whatever their state.
    pub(crate) fn containers(&self) -> Vec<String> {
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let listed = self.talk(async |api| api.list_containers(Some(options)).await);
        let names = listed.unwrap().into_iter().flat_map(|c| c.names.unwrap());
        // Podman leaves the slash out of some answers.
        names
            .map(|name| format!("/{}", name.trim_start_matches('/')))
            .collect()
    }

    /// What it knows of a container.
    pub(crate) fn inspect(&self, name: &str) -> ContainerInspectResponse {
        let options = None::<InspectContainerOptions>;
        let name = name.trim_start_matches('/');
        self.talk(async |api| api.inspect_container(name, options).await)
            .unwrap()
    }

    /// Makes a container that is not started.
    pub(crate) fn create(&self, name: &str, labels: &[(&str, &str)]) {
        let labels: HashMap<_, _> = labels
            .iter()
            .map(|(label, value)| ((*label).to_owned(), (*value).to_owned()))
            .collect();
        let body = ContainerCreateBody {
            image: Some("terminai-sandbox:latest".to_owned()),
            cmd: Some(vec!["/bin/sh".to_owned()]),
            labels: Some(labels),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        self.talk(async |api| api.create_container(Some(options), body).await)
            .unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        self.talk(async |api| api.remove_container(name, Some(options)).await)
            .unwrap();
    }

    /// The image that our containers have.
    pub(crate) fn image_id(&self) -> Option<String> {
        let image = self.talk(async |api| api.inspect_image("terminai-sandbox:latest").await);
        image?.id
    }

    /// Imports an image.
    pub(crate) fn import(&self, name: &str, archive: &[u8]) {
        use bollard::query_parameters::CreateImageOptionsBuilder;
        use futures_util::StreamExt;

        let options = CreateImageOptionsBuilder::default()
            .from_src("-")
            .repo(name)
            .tag("latest")
            .build();
        let body = bollard::body_full(archive.to_vec().into());
        self.talk(async |api| {
            let mut steps = Box::pin(api.create_image(Some(options), Some(body), None));
            while let Some(step) = steps.next().await {
                step?;
            }
            Ok(())
        })
        .unwrap();
    }

    /// The result of a call, `None` if there is none.
    fn talk<T>(&self, call: impl AsyncFnOnce(Docker) -> Result<T, Error>) -> Option<T> {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let address = self.address();
            let api = Docker::connect_with_unix(&address, 20, API_DEFAULT_VERSION).ok()?;
            call(api.negotiate_version().await.ok()?).await.ok()
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let id = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
            let _ = id.map(|id| kill_process(id, Signal::TERM));
            let _ = process.wait();
        }
        if let Some(folder) = self.socket.parent() {
            unmount_below(folder);
        }
    }
}

/// Takes away what an engine that has ended has left mounted below its folder: Podman does.
fn unmount_below(folder: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The fifth field is the place (proc_pid_mountinfo(5)); the newest are the last.
    let places = mounts
        .lines()
        .rev()
        .filter_map(|line| line.split(' ').nth(4));
    for place in places.filter(|place| Path::new(place).starts_with(folder)) {
        // What cannot be unmounted stays, and is seen.
        let _ = Command::new("umount").args(["--lazy", place]).status();
    }
}

fn dockerd(folder: &Path, bridge: &str, addresses: &[String]) -> Child {
    let mut command = Command::new("dockerd");
    command
        .arg("--data-root")
        .arg(folder.join("data"))
        .arg("--exec-root")
        .arg(folder.join("exec"))
        .arg("--pidfile")
        .arg(folder.join("pid"))
        .arg("--iptables=false")
        .arg(format!("--bridge={bridge}"));
    for address in addresses {
        command.args(["--host", address]);
    }
    spawn(command, &folder.join("dockerd.log"))
}

fn podman(folder: &Path, address: &str) -> Child {
    let mut command = Command::new("podman");
    for (flag, name) in [
        ("--root", "data"),
        ("--runroot", "run"),
        ("--tmpdir", "tmp"),
    ] {
        command.arg(flag).arg(folder.join("podman").join(name));
    }
    if is_installed("runc") {
        // The other one, crun, does not take every layout of cgroups.
        command.args(["--runtime", "runc"]);
    }
    command
        .args(["--cgroup-manager=cgroupfs", "--events-backend=none"])
        .args(["system", "service", "--time=0", address]);
    spawn(command, &folder.join("podman.log"))
}

fn spawn(mut command: Command, log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log).unwrap();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}
