//! What a container engine keeps for a sandbox goes with it, also where that takes two steps.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sovereign_tests::call::Call;

use super::Desk;
use crate::suite::{Outcome, PASSED, skip};

/// The API's list of volumes (Docker Engine API 1.40, `VolumeList`).
const LIST: &[u8] = b"GET /v1.40/volumes HTTP/1.0\r\nHost: localhost\r\n\r\n";

impl Desk {
    /// The variable that names this tier's engine.
    fn engine(&self) -> &'static str {
        if self.tier == "podman" {
            "CONTAINER_HOST"
        } else {
            "DOCKER_HOST"
        }
    }

    /// A call for which the engine does not run: its socket is there, and nobody listens.
    fn without_engine(&self, args: &[&str]) -> Result<Call> {
        let socket = self.state.path().join("dead.sock");
        if !socket.exists() {
            drop(UnixListener::bind(&socket)?);
        }
        let address = format!("unix://{}", socket.display());
        Ok(self.call(args).env(self.engine(), address))
    }

    /// `prune`, of nothing but what engines have.
    fn prune(&self, args: &[&str]) -> Result<String> {
        let call = self.call([&["prune"], args].concat());
        self.good(call.env("SOVEREIGN_DATA_DIR", self.state.path().join("data")))
    }

    /// The volumes that the engine has for this sandbox.
    fn volumes(&self, id: &str) -> Result<Vec<String>> {
        let address = env::var(self.engine())?;
        let path = address.strip_prefix("unix://").context("no socket")?;
        let mut engine = UnixStream::connect(path)?;
        engine.write_all(LIST)?;
        let mut answer = String::new();
        engine.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        let known: Value = serde_json::from_str(body).with_context(|| answer.clone())?;
        let known = known["Volumes"].as_array().into_iter().flatten();
        let names = known.filter_map(|volume| volume["Name"].as_str());
        let start = format!("sovereign-{id}");
        let mut names: Vec<_> = names
            .filter(|name| name.starts_with(&start))
            .map(str::to_owned)
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// A sandbox that has written something, and has ended. Returns its id.
    fn wrote(&self, name: &str) -> Result<String> {
        self.start(&["--name", name, "--", "sleep", "1000"])?;
        self.says(&["exec", name, "--", "sh", "-c", "echo text > kept"])?;
        self.says(&["stop", "-t", "1s", name])?;
        let id = &self.inspect(name)?["id"];
        Ok(id.as_str().context("no id")?.to_owned())
    }

    fn reads_again(&self, name: &str) -> Result<()> {
        self.says(&["start", name])?;
        let found = self.says(&["exec", name, "--", "cat", "kept"])?;
        ensure!(found == "text", "{found}");
        self.says(&["stop", "-t", "1s", name])?;
        Ok(())
    }
}

pub(super) fn removal_without_the_engine_is_told_and_can_be_forced(desk: &Desk) -> Outcome {
    let id = desk.wrote("a")?;
    ensure!(desk.volumes(&id)?.len() == 3, "{:?}", desk.volumes(&id)?);
    let refused = desk.without_engine(&["rm", "a"])?.output()?;
    let told = refused.errors();
    let remedy = [
        "cannot remove what it wrote",
        "nobody listens",
        "start",
        "--force",
        "prune",
    ];
    ensure!(
        refused.code() == Some(125) && remedy.iter().all(|word| told.contains(word)),
        "{refused}"
    );
    // Nothing of it is lost.
    ensure!(desk.state_of("a")? == "exited");
    desk.reads_again("a")?;
    ensure!(desk.volumes(&id)?.len() == 3);

    let forced = desk.without_engine(&["rm", "-f", "a"])?.output()?;
    ensure!(forced.code() == Some(0), "{forced}");
    ensure!(
        forced.errors().contains("still with its engine") && forced.errors().contains("prune"),
        "{forced}"
    );
    let gone = desk.call(["inspect", "a"]).output()?;
    ensure!(gone.errors().contains("no sandbox"), "{gone}");
    ensure!(desk.volumes(&id)?.len() == 3, "who has removed them?");
    if fs::read_to_string("/etc/machine-id").is_ok_and(|id| !id.trim().is_empty()) {
        desk.prune(&[])?;
        ensure!(desk.volumes(&id)?.is_empty());
    }

    // One that runs is ended by its own agent, not by the engine.
    desk.start(&["--name", "b", "--", "sleep", "1000"])?;
    desk.good(desk.without_engine(&["rm", "-f", "b"])?)?;
    desk.eventually("no supervisor is left", || {
        Ok(desk.supervisors()?.is_empty())
    })?;
    PASSED
}

/// A sandbox of which it is noted that an engine has something, where there is none to ask.
pub(super) fn forced_removal_says_what_stays(desk: &Desk) -> Outcome {
    let made = ["create", "--tier", "docker", "--name", "a"];
    let id = desk.says(&made)?;
    let folder = desk.state.path().join("sandboxes").join(id);
    fs::write(folder.join("volumes-docker"), "")?;
    let refused = desk.without_engine(&["rm", "a"])?.output()?;
    ensure!(refused.code() == Some(125), "{refused}");
    let forced = desk.without_engine(&["rm", "-f", "a"])?.output()?;
    ensure!(forced.code() == Some(0), "{forced}");
    ensure!(
        forced.errors().contains("still with its engine"),
        "{forced}"
    );
    let pruned = desk.without_engine(&["prune", "--dry-run"])?;
    let pruned = pruned.env("SOVEREIGN_DATA_DIR", desk.state.path().join("data"));
    let said = desk.good(pruned)?;
    ensure!(said.contains("not looked at: docker"), "{said}");
    ensure!(!said.contains("nothing was left behind"), "{said}");
    PASSED
}

pub(super) fn prune_removes_volumes_whose_sandbox_is_gone(desk: &Desk) -> Outcome {
    if !fs::read_to_string("/etc/machine-id").is_ok_and(|id| !id.trim().is_empty()) {
        return skip("this machine has no id, so nobody can tell whose volumes are here");
    }
    let (gone, kept) = (desk.wrote("a")?, desk.wrote("b")?);
    let sandboxes = desk.state.path().join("sandboxes");
    ensure!(desk.prune(&["--dry-run"])? == "nothing was left behind");
    // Somebody removed it by other means.
    fs::remove_dir_all(sandboxes.join(&gone))?;
    let volumes = desk.volumes(&gone)?;
    ensure!(volumes.len() == 3, "{volumes:?}");

    let unseen = desk.without_engine(&["prune"])?;
    let unseen = unseen.env("SOVEREIGN_DATA_DIR", desk.state.path().join("data"));
    let unseen = desk.good(unseen)?;
    ensure!(
        unseen.contains(&format!("not looked at: {}: nobody listens", desk.tier)),
        "{unseen}"
    );
    let looked = desk.prune(&["--dry-run"])?;
    for volume in &volumes {
        ensure!(
            looked.contains(&format!("would remove volume {volume}")),
            "{looked}"
        );
    }
    ensure!(
        !looked.contains(&kept) && desk.volumes(&gone)? == volumes,
        "{looked}"
    );

    // A state folder that is not there just now has not been removed.
    let elsewhere = desk.state.path().join("elsewhere");
    fs::rename(&sandboxes, &elsewhere)?;
    let unknown = desk.prune(&[]);
    fs::rename(&elsewhere, &sandboxes)?;
    ensure!(unknown? == "nothing was left behind");

    let pruned = desk.prune(&[])?;
    for volume in &volumes {
        ensure!(
            pruned.contains(&format!("removed volume {volume}")),
            "{pruned}"
        );
    }
    ensure!(desk.volumes(&gone)?.is_empty());
    desk.reads_again("b")?;
    desk.says(&["rm", "b"])?;
    ensure!(desk.volumes(&kept)?.is_empty(), "`rm` leaves none");
    PASSED
}
