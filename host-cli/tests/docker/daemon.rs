//! A container engine for one test: a `dockerd` with nothing but a folder of its own.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bollard::errors::Error;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Builder;

/// A running daemon. Dropped, it has ended.
pub(crate) struct Daemon {
    process: Child,
    socket: PathBuf,
}

impl Daemon {
    pub(crate) fn start(folder: &Path) -> Self {
        let socket = folder.join("docker.sock");
        let log = File::create(folder.join("dockerd.log")).unwrap();
        let process = Command::new("dockerd")
            .arg("--data-root")
            .arg(folder.join("data"))
            .arg("--exec-root")
            .arg(folder.join("exec"))
            .arg("--pidfile")
            .arg(folder.join("pid"))
            .arg("--host")
            .arg(format!("unix://{}", socket.display()))
            .args(["--iptables=false", "--bridge=none"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let daemon = Self { process, socket };
        let deadline = Instant::now() + Duration::from_secs(60);
        while daemon.talk(async |api| api.ping().await).is_none() {
            assert!(Instant::now() < deadline, "dockerd does not come up");
            std::thread::sleep(Duration::from_millis(100));
        }
        daemon
    }

    /// Its address, as `DOCKER_HOST` has it.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The names of all containers, whatever their state.
    pub(crate) fn containers(&self) -> Vec<String> {
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let listed = self.talk(async |api| api.list_containers(Some(options)).await);
        listed
            .unwrap()
            .into_iter()
            .flat_map(|c| c.names.unwrap())
            .collect()
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
        let id = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        let _ = id.map(|id| kill_process(id, Signal::TERM));
        let _ = self.process.wait();
    }
}
