//! A user with a state folder of its own, on one tier.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sovereign_tests::call::{Call, Sovereign};
use sovereign_tests::host::{is_running, processes};
use tempfile::TempDir;

use crate::suite::Outcome;

/// How long something that has to happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A registry of its own, and the command under test.
pub(crate) struct Desk {
    sovereign: Sovereign,
    pub(crate) tier: &'static str,
    pub(crate) state: TempDir,
}

pub(crate) fn with(
    sovereign: &Sovereign,
    tier: &'static str,
    test: fn(&Desk) -> Outcome,
) -> Outcome {
    let desk = Desk {
        sovereign: sovereign.clone(),
        tier,
        state: tempfile::tempdir()?,
    };
    let outcome = test(&desk);
    // Whatever is still there ends now, also after a failure.
    let listed = desk.call(["ls", "-aq"]).output()?.text();
    let left: Vec<&str> = listed.lines().collect();
    if !left.is_empty() {
        desk.call(["rm", "-f"].into_iter().chain(left)).output()?;
    }
    let verdict = outcome?;
    desk.eventually("no supervisor is left", || {
        Ok(desk.supervisors()?.is_empty())
    })?;
    Ok(verdict)
}

impl Desk {
    /// The command under test.
    pub(crate) fn program(&self) -> &Path {
        self.sovereign.program()
    }

    pub(crate) const fn sovereign(&self) -> &Sovereign {
        &self.sovereign
    }

    pub(crate) fn call<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Call {
        self.sovereign
            .call(args)
            .env("SOVEREIGN_STATE_DIR", self.state.path())
            .deadline(Duration::from_secs(120))
    }

    /// Prepares `sovereign run --tier TIER ARGS`.
    pub(crate) fn run(&self, args: &[&str]) -> Call {
        let start = ["run", "-q", "--tier", self.tier];
        self.call(start.iter().chain(args))
    }

    /// Starts a detached sandbox, which has to succeed.
    pub(crate) fn start(&self, args: &[&str]) -> Result<String> {
        self.good(self.run(&[&["-d"], args].concat()))
    }

    /// What a call that has to succeed prints.
    pub(crate) fn good(&self, call: Call) -> Result<String> {
        let output = call.output()?;
        ensure!(output.code() == Some(0), "{output}");
        Ok(output.text())
    }

    pub(crate) fn says(&self, args: &[&str]) -> Result<String> {
        self.good(self.call(args))
    }

    /// What `inspect` knows.
    pub(crate) fn inspect(&self, name: &str) -> Result<Value> {
        let output = self.call(["inspect", name]).output()?;
        ensure!(output.code() == Some(0), "{output}");
        Ok(output.json()?[0].clone())
    }

    pub(crate) fn state_of(&self, name: &str) -> Result<String> {
        let state = &self.inspect(name)?["state"];
        Ok(state.as_str().context("no state")?.to_owned())
    }

    /// The supervisors of this registry.
    pub(crate) fn supervisors(&self) -> Result<Vec<u32>> {
        let root = self.state.path().as_os_str().as_encoded_bytes();
        let is_ours = |pid: &u32| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                let mut words = line.split(|byte| *byte == 0).skip(1);
                words.next() == Some(b"supervise") && words.next() == Some(root)
            })
        };
        let pids = processes()?.into_iter().map(|process| process.pid);
        Ok(pids.filter(is_ours).collect())
    }

    /// Waits until the sandbox `a`, which somebody has killed, is told to be dead and its process is gone.
    pub(crate) fn sees_it_die(&self, process: u32) -> Result<()> {
        self.eventually(
            "it is told to be dead",
            || Ok(self.state_of("a")? == "dead"),
        )?;
        self.eventually("its process is gone", || Ok(!is_running(process)))
    }

    pub(crate) fn eventually(
        &self,
        what: &str,
        mut holds: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !holds()? {
            ensure!(Instant::now() < end, "not in {PATIENCE:?}: {what}");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}
