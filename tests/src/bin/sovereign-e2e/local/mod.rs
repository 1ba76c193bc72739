//! Tier `local`: a process of this machine, as root and as an ordinary user, confined and not.

mod consent;
mod contract;
mod plain;
mod python;
mod walls;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::geteuid;
use sovereign_tests::call::{Call, Sovereign};
use sovereign_tests::host::{is_running, processes};
use tempfile::TempDir;

use crate::suite::{Outcome, PASSED, Suite, Verdict, skip};

pub(crate) fn add(suite: &mut Suite) {
    walls::add(suite);
    contract::add(suite);
    consent::add(suite);
    plain::add(suite);
    python::add(suite);
}

/// `nobody`, whom every system has.
const NOBODY: u32 = 65_534;

/// The command under test, in the hands of a user.
pub(crate) struct Local {
    sovereign: Sovereign,
    as_nobody: bool,
    /// Where the programs are, if that is a copy for this user.
    _copy: Option<TempDir>,
}

impl Local {
    /// Whoever runs the tests.
    fn ours(sovereign: &Sovereign) -> Self {
        Self {
            sovereign: sovereign.clone(),
            as_nobody: false,
            _copy: None,
        }
    }

    /// An ordinary user, who can read the programs: root's may lie where nobody else gets at them.
    fn nobodys(sovereign: &Sovereign) -> Result<Self> {
        let copy = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()?;
        for name in ["sovereign", "sovereign-agent"] {
            let source = sovereign.program().with_file_name(name);
            fs::copy(&source, copy.path().join(name))
                .with_context(|| format!("cannot copy {}", source.display()))?;
        }
        Ok(Self {
            sovereign: Sovereign::at(&copy.path().join("sovereign"))?,
            as_nobody: true,
            _copy: Some(copy),
        })
    }

    /// Prepares a call that finds no configuration and no image.
    fn call<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Call {
        let call = self
            .sovereign
            .call(args)
            .env("HOME", "/nonexistent")
            .env("XDG_CONFIG_HOME", "/nonexistent")
            .env("SOVEREIGN_ALLOW_LOCAL", "");
        if self.as_nobody {
            let agent = self.sovereign.program().with_file_name("sovereign-agent");
            call.env("SOVEREIGN_AGENT", agent).user(NOBODY, NOBODY)
        } else {
            call
        }
    }

    /// Prepares `sovereign run --tier local ARGS`.
    fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Call {
        let args = args
            .into_iter()
            .map(|argument| argument.as_ref().to_owned());
        let start = ["run", "--tier", "local"].map(Into::into);
        self.call(start.into_iter().chain(args))
    }

    /// Prepares a shell script in a sandbox, without a word about the tier.
    fn sh(&self, script: &str) -> Call {
        self.run(["-q", "--", "sh", "-c", script])
    }

    /// Returns why commands cannot be confined here, if they cannot.
    fn shortfall(&self) -> Result<Option<String>> {
        let answer = self.call(["doctor", "--json"]).output()?.json()?;
        let tiers = answer["tiers"].as_array().context("no list of tiers")?;
        let local = tiers.iter().find(|tier| tier["tier"] == "local");
        let local = local.context("doctor says nothing of tier local")?;
        if local["isolation"] == "process" && local["available"] == true {
            return Ok(None);
        }
        Ok(Some(local["cause"].as_str().unwrap_or_default().to_owned()))
    }
}

/// Runs a test as whoever runs it, and, if that is root, as an ordinary user.
fn as_each_user(sovereign: &Sovereign, test: impl Fn(&Local) -> Outcome) -> Outcome {
    let first = test(&Local::ours(sovereign)).context("as ourselves")?;
    if !geteuid().is_root() {
        return Ok(first);
    }
    let second = test(&Local::nobodys(sovereign)?).context("as an ordinary user")?;
    match (first, second) {
        (Verdict::Skipped(reason), _) => skip(format!("as root: {reason}")),
        (_, Verdict::Skipped(reason)) => skip(format!("as an ordinary user: {reason}")),
        (Verdict::Passed, Verdict::Passed) => PASSED,
    }
}

/// The same, for tests of what keeps commands in: where nothing does, they are skipped.
fn confined(sovereign: &Sovereign, test: impl Fn(&Local) -> Outcome) -> Outcome {
    as_each_user(sovereign, |local| match local.shortfall()? {
        None => test(local),
        Some(cause) => skip(format!("commands cannot be confined here: {cause}")),
    })
}

/// What a sandbox of this tier could leave behind: agents, and folders.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Traces(BTreeSet<String>);

impl Traces {
    fn look() -> Result<Self> {
        let agents = processes()?.into_iter().filter(|process| {
            // A process whose parent was killed waits for the first process of the system to reap it.
            let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
            line == b"sovereign-agent\0--local\x003\0" && is_running(process.pid)
        });
        let mut found: BTreeSet<_> = agents.map(|agent| format!("agent {}", agent.pid)).collect();
        for entry in fs::read_dir("/tmp")?.flatten() {
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b"sovereign-local") {
                found.insert(format!("folder {}", entry.path().display()));
            }
        }
        Ok(Self(found))
    }

    /// That within a second there is nothing that was not there before.
    fn are_gone(&self) -> Outcome {
        let end = Instant::now() + Duration::from_secs(1);
        loop {
            let now = Self::look()?;
            let left: Vec<_> = now.0.difference(&self.0).collect();
            if left.is_empty() {
                return PASSED;
            }
            ensure!(Instant::now() < end, "left behind: {left:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Whether a program is where sandboxes look for it.
fn is_installed(program: &str) -> bool {
    ["/usr/local/bin", "/usr/bin", "/bin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).is_file())
}
