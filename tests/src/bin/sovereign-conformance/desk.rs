//! Detached sandboxes of the tier under test, in a registry of their own.

use std::cell::RefCell;

use anyhow::{Context, Result, bail};
use sovereign::detached::DetachedError;
use sovereign::files::FileSource;
use sovereign::registry::output::Piece;
use sovereign::registry::record::{Ending, Plan, Record};
use sovereign::registry::{Registry, State};
use sovereign::supervisor::OwnCommand;
use sovereign::{ClientError, Detached, Exec, ExecError, ExecRequest, Files, Tier};
use tempfile::TempDir;

use crate::subject::{Runs, default_spec, policy};

/// A registry, and the sandbox in it that cases share.
pub(crate) struct Desk {
    tier: Tier,
    pub(crate) registry: Registry,
    shared: RefCell<Option<Detached>>,
    _state: TempDir,
}

impl Desk {
    pub(crate) fn new(tier: Tier) -> Result<Self> {
        let state = tempfile::tempdir()?;
        Ok(Self {
            tier,
            registry: Registry::open(state.path().join("state")),
            shared: RefCell::new(None),
            _state: state,
        })
    }

    /// Enters a sandbox, and does not start it.
    pub(crate) fn create(
        &self,
        name: Option<&str>,
        change: impl FnOnce(&mut Plan),
    ) -> Result<Detached> {
        let mut plan = Plan {
            policy: policy(self.tier),
            spec: default_spec(),
            ..Plan::default()
        };
        change(&mut plan);
        let name = name.map(str::parse).transpose()?;
        Ok(Detached::create(&self.registry, name, plan)?)
    }

    /// Starts a new sandbox, which outlives whatever starts it.
    pub(crate) fn start(&self, change: impl FnOnce(&mut Plan)) -> Result<Detached> {
        let sandbox = self.create(None, change)?;
        Ok(start(&sandbox)?)
    }

    /// One that runs, without a command of its own.
    pub(crate) fn shared(&self) -> Result<Detached> {
        let mut shared = self.shared.borrow_mut();
        if let Some(sandbox) = shared.as_ref()
            && state(sandbox)? == State::Running
        {
            return Ok(sandbox.clone());
        }
        let fresh = self.start(|_| ())?;
        Ok(shared.insert(fresh).clone())
    }
}

impl Desk {
    /// What became of the one that cases share, if it has ended.
    pub(crate) fn last_words(&self) -> Option<String> {
        let shared = self.shared.borrow();
        let sandbox = shared.as_ref()?;
        if state(sandbox).is_ok_and(|state| state == State::Running) {
            return None;
        }
        Some(match sandbox.wait(None) {
            Ok(Ending::Broken { problem }) => {
                format!("{}\n{}", problem.message, problem.console.join("\n"))
            }
            other => format!("the sandbox has ended: {other:?}"),
        })
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let left = self.registry.list().unwrap_or_default();
        for entry in left {
            if let Ok(sandbox) = Detached::find(&self.registry, entry.id().as_str()) {
                // A case that failed has told more than this could.
                let _ = sandbox.remove(true);
            }
        }
    }
}

/// Starts it and lets go of it.
pub(crate) fn start(sandbox: &Detached) -> Result<Detached, DetachedError> {
    Ok(sandbox.start(OwnCommand::Held, None)?.let_go())
}

pub(crate) fn record(sandbox: &Detached) -> Result<Record> {
    Ok(sandbox.entry().read()?)
}

pub(crate) fn state(sandbox: &Detached) -> Result<State> {
    Ok(sandbox.entry().state(&record(sandbox)?))
}

/// What a held command has written to its standard output so far, and whether that is all.
pub(crate) fn written(sandbox: &Detached, command: u32) -> Result<(String, bool)> {
    let mut reader = sandbox.output(command)?;
    let (mut text, mut has_ended) = (String::new(), false);
    while let Some(piece) = reader.next_piece()? {
        match piece {
            Piece::Output { data, .. } => text.push_str(&String::from_utf8_lossy(&data)),
            Piece::Ended(_) => has_ended = true,
            Piece::Lost { parts } => bail!("{parts} parts are lost"),
            Piece::Missing { bytes } => bail!("{bytes} bytes are missing"),
        }
    }
    Ok((text, has_ended))
}

/// A session for files, with the rights that commands have.
pub(crate) fn files(sandbox: &Detached) -> Result<Files> {
    sandbox.files(None).context("no session for files")
}

/// The same, for those who need more than one.
pub(crate) fn source(sandbox: &Detached) -> impl FileSource {
    let sandbox = sandbox.clone();
    move || sandbox.files(None).map_err(|error| error.problem())
}

impl Runs for Detached {
    fn exec(&self, request: ExecRequest) -> Result<Exec, ExecError> {
        Self::exec(self, request).map_err(|error| match error {
            DetachedError::Client(error) => error.into(),
            error => {
                let source = std::io::Error::other(error.problem().message);
                let doing = "asking for a command";
                ClientError::Io { doing, source }.into()
            }
        })
    }
}
