//! A container engine for one test: one that has nothing but a folder of its own.

use std::collections::HashMap;
use std::path::Path;

use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, ContainerInspectResponse};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use sovereign_engines::{Addresses, Engine, StandStill};
use tokio::runtime::Builder;

use crate::network::OwnBridge;

/// A running engine, and what a test asks it behind our back.
pub(crate) struct Daemon {
    running: sovereign_engines::Daemon,
    /// A network of its own, if this machine can make one.
    _bridge: Option<OwnBridge>,
}

impl Daemon {
    pub(crate) fn start(engine: Engine, folder: &Path) -> Self {
        let bridge = (engine == Engine::Docker).then(OwnBridge::new).flatten();
        let name = bridge.as_ref().map(OwnBridge::name);
        let running =
            sovereign_engines::Daemon::start(engine, folder, Addresses::SocketAndPort, name);
        Self {
            running: running.unwrap(),
            _bridge: bridge,
        }
    }

    pub(crate) fn engine(&self) -> Engine {
        self.running.engine()
    }

    /// Has it answer nobody until this is dropped.
    pub(crate) fn stand_still(&self) -> StandStill<'_> {
        self.running.stand_still().unwrap()
    }

    /// Its address, as the engine's variable has it.
    pub(crate) fn address(&self) -> String {
        self.running.address()
    }

    /// Its address as if it were on another machine.
    pub(crate) fn remote_address(&self) -> String {
        self.running.remote_address().unwrap()
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
