//! How a detached sandbox can fail its user.

use std::io;
use std::time::Duration;

use agent_client::ClientError;

use crate::error::{ErrorKind, Problem};
use crate::registry::{Name, RegistryError, State};
use crate::sandbox::client_kind;
use crate::spec::{SpecError, Unsupported};
use crate::supervisor::LaunchError;
use crate::tier::facts::Unavailable;

/// Something that a detached sandbox cannot do.
#[derive(Debug, thiserror::Error)]
pub enum DetachedError {
    /// What is known of it cannot be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// No sandbox can be like this.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// It did not start.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// It does not run.
    #[error("sandbox {name} is not running: {}", what_it_is(*state))]
    NotRunning {
        /// Its name.
        name: Name,
        /// What it is instead.
        state: State,
    },
    /// It runs, and should not.
    #[error("sandbox {name} is running: stop it first")]
    Running {
        /// Its name.
        name: Name,
    },
    /// Its supervisor says no.
    #[error("{0}")]
    Refused(Problem),
    /// Its supervisor cannot be spoken to.
    #[error("the supervisor of sandbox {name} cannot be spoken to")]
    Supervisor {
        /// The sandbox's name.
        name: Name,
        /// The system's reason.
        source: io::Error,
    },
    /// Its supervisor was stopped, and says nothing.
    #[error(
        "the supervisor of sandbox {name} (process {supervisor}) does not answer: it was stopped"
    )]
    Silent {
        /// The sandbox's name.
        name: Name,
        /// The supervisor's process.
        supervisor: u32,
    },
    /// It did not end in time.
    #[error("sandbox {name} did not end in {} s", waited.as_secs())]
    DidNotEnd {
        /// Its name.
        name: Name,
        /// How long it was waited for.
        waited: Duration,
    },
    /// Its container engine still has what it wrote.
    #[error("cannot remove what it wrote: {}", reason.cause)]
    StillKept {
        /// Why.
        reason: Unavailable,
    },
    /// The caller gave up.
    #[error("interrupted")]
    Interrupted,
    /// Its tier cannot honour what was asked for.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The command cannot be run.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl DetachedError {
    /// What kind of error it is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Registry(error) => error.kind(),
            Self::Spec(_) => ErrorKind::Usage,
            Self::Launch(error) => error.kind(),
            Self::NotRunning { .. } => ErrorKind::NotRunning,
            Self::Running { .. } => ErrorKind::Running,
            Self::Refused(problem) => problem.code,
            Self::Supervisor { .. } | Self::Silent { .. } => ErrorKind::SupervisorLost,
            Self::DidNotEnd { .. } => ErrorKind::DidNotEnd,
            Self::StillKept { reason } => reason.code,
            Self::Interrupted => ErrorKind::Interrupted,
            Self::Unsupported(_) => ErrorKind::UnsupportedFlag,
            Self::Client(error) => client_kind(error),
        }
    }

    /// The same as every other problem.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let problem = Problem::of(self.kind(), self);
        match self {
            Self::Registry(error) => error.problem(),
            Self::Launch(error) => error.problem(),
            Self::Refused(problem) => problem.clone(),
            Self::NotRunning { name, .. } => Problem {
                hint: Some(format!("`sovereign start {name}` starts it")),
                ..problem
            },
            Self::Silent { name, supervisor } => Problem {
                hint: Some(format!(
                    "`kill -CONT {supervisor}` lets it go on, and `sovereign kill {name}` ends the sandbox"
                )),
                ..problem
            },
            Self::StillKept { reason } => Problem {
                hint: Some(match &reason.remedy {
                    Some(remedy) => format!("{remedy}. {WITHOUT_ITS_ENGINE}"),
                    None => WITHOUT_ITS_ENGINE.to_owned(),
                }),
                ..problem
            },
            Self::Unsupported(refusal) => Problem {
                hint: Some(refusal.hint()),
                ..problem
            },
            Self::Client(error) => Problem {
                exit_code: error.exit_code(),
                ..problem
            },
            _ => problem,
        }
    }
}

/// What to do about a sandbox whose engine cannot be asked.
const WITHOUT_ITS_ENGINE: &str = "With --force the sandbox is removed all the same, and `sovereign prune` \
                                  removes later what it wrote";

const fn what_it_is(state: State) -> &'static str {
    match state {
        State::Created => "it was never started",
        State::Starting => "it is still being started",
        State::Running => "it has just ended",
        State::Exited => "it has ended",
        State::Failed => "it did not start",
        State::Dead => "its supervisor was killed",
    }
}
