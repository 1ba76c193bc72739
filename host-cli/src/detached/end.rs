//! How a sandbox is ended, explained, and removed.

use std::time::Duration;

use agent_client::ClientError;
use agent_protocol::message::ExitReport;

use super::{Attached, Detached, DetachedError};
use crate::error::{ErrorKind, Problem};
use crate::registry::events::{Event, Happening};
use crate::registry::record::Ending;
use crate::registry::{RegistryError, State};
use crate::supervisor::message::Request;
use crate::tier::docker::kept;
use crate::tier::facts::Unavailable;

/// How much longer than the grace that it was given a sandbox may take to end.
const END_SLACK: Duration = Duration::from_secs(30);

/// How long a sandbox may take to say that it is ending, when a conversation with it broke off.
const ENDING_NOW: Duration = Duration::from_secs(2);

impl Detached {
    /// Ends the sandbox: SIGTERM to what runs in it, and after `grace` the end. Waits for that.
    ///
    /// # Errors
    ///
    /// If it does not run, or does not end.
    pub fn stop(&self, grace: Duration) -> Result<Ending, DetachedError> {
        self.see_that_it_can_answer()?;
        let socket = self.knock(Request::Stop { grace }, None, None)?;
        self.end_by(socket, None, Some(grace.saturating_add(END_SLACK)))
    }

    /// Ends the sandbox, whose own command the caller has run and seen ending so.
    ///
    /// # Errors
    ///
    /// If it does not run, or does not end.
    pub fn finish(&self, report: ExitReport) -> Result<Ending, DetachedError> {
        let socket = self.knock(Request::Finish { report }, None, None)?;
        self.end_by(socket, None, Some(END_SLACK))
    }

    /// A conversation that broke off has a reason, and the sandbox's record may know it.
    #[must_use]
    pub fn explain(&self, error: ClientError) -> DetachedError {
        if !matches!(error, ClientError::Disconnected(_)) {
            return error.into();
        }
        match self.wait_for(None, Some(ENDING_NOW)) {
            Ok(ending) => ended_by(ending),
            Err(_) => error.into(),
        }
    }

    /// Ends the sandbox at once, and waits until it is gone. If its supervisor does not do it, that is ended
    /// too.
    ///
    /// # Errors
    ///
    /// If it does not run, or does not end.
    pub fn kill(&self) -> Result<Ending, DetachedError> {
        if let Err(DetachedError::Silent { .. }) = self.see_that_it_can_answer() {
            return self.kill_supervisor();
        }
        let socket = self.knock(Request::Kill, None, None)?;
        match self.end_by(socket, None, Some(END_SLACK)) {
            Err(DetachedError::DidNotEnd { .. }) => self.kill_supervisor(),
            outcome => outcome,
        }
    }

    /// Removes it, with all that is known of it. With `force` it is ended first, and what its container
    /// engine has of it may stay there, for `prune`: the result is why, then.
    ///
    /// # Errors
    ///
    /// If it runs, or cannot be removed.
    pub fn remove(&self, force: bool) -> Result<Option<Unavailable>, DetachedError> {
        let known = self.entry.read();
        match &known {
            Ok(record) if self.entry.state(record) == State::Running => {
                if !force {
                    return Err(DetachedError::Running {
                        name: record.name.clone(),
                    });
                }
                match self.kill() {
                    // It ended by itself, or was one that is removed when it ends.
                    Ok(_)
                    | Err(
                        DetachedError::NotRunning { .. }
                        | DetachedError::Registry(RegistryError::NoSuchSandbox { .. }),
                    ) => {}
                    Err(error) => return Err(error),
                }
            }
            // One whose record cannot be read can still be removed.
            Ok(_) | Err(_) => {}
        }
        let held = match self.entry.hold() {
            Ok(held) => held,
            // It was removed when it ended.
            Err(RegistryError::NoSuchSandbox { .. }) if known.is_ok() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Of one whose engine cannot be asked, `prune` removes later what is left there.
        let left = match kept::forget(&self.entry.folder()) {
            Err(reason) if !force => return Err(DetachedError::StillKept { reason }),
            forgotten => forgotten.err(),
        };
        if let Ok(record) = &known {
            let event = Event::now(Happening::Removed, &record.id, &record.name);
            self.entry.registry().note(&event);
        }
        held.remove()?;
        Ok(left)
    }
}

impl Attached {
    /// As [`Detached::explain`], also if the sandbox is removed when it ends.
    #[must_use]
    pub fn explain(&self, error: ClientError) -> DetachedError {
        if !matches!(error, ClientError::Disconnected(_)) {
            return error.into();
        }
        match self.owned.ending(ENDING_NOW) {
            Some(ending) => ended_by(ending),
            None => self.detached.explain(error),
        }
    }
}

/// What a command met whose sandbox ended so.
fn ended_by(ending: Ending) -> DetachedError {
    let text = format!("the sandbox ended: {}", ending.text());
    let problem = Problem::new(ErrorKind::SandboxEnded, text);
    DetachedError::Refused(match ending {
        Ending::Broken { problem } => problem,
        // The same for whoever ran the command as for whoever waits for the sandbox.
        Ending::MaxDuration | Ending::IdleTimeout => Problem {
            exit_code: ending.exit_code(),
            ..problem
        },
        _ => problem,
    })
}
