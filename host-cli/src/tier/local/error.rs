//! How the local tier can fail its owner.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::ErrorKind;
use crate::tier::process::Ending;

/// Why there is no agent, or no longer one.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// A pair of sockets or a pipe cannot be made.
    #[error("cannot make the sockets of a sandbox")]
    Sockets(#[source] io::Error),
    /// The folder for what is written cannot be made.
    #[error("cannot make {} for what the sandbox writes", path.display())]
    Keep {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The agent cannot be started.
    #[error("cannot start {}", program.display())]
    Spawn {
        /// The agent.
        program: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The agent ended without a word of explanation.
    #[error("the agent {ending}{}", after(words.as_deref()))]
    Died {
        /// How it ended.
        ending: String,
        /// What it wrote to its standard error.
        words: Option<String>,
    },
    /// The agent has not said what has become of it.
    #[error("the agent did not say within {} s how far it is confined", waited.as_secs_f32())]
    Silent {
        /// How long it was waited for.
        waited: Duration,
    },
    /// The agent is of another release, or broken.
    #[error("the agent and this program do not understand each other")]
    Unintelligible(#[from] agent_protocol::local::Unintelligible),
    /// The stream has ended, and the agent has not.
    #[error("the agent's session ended before the command did; something in the sandbox killed it")]
    SessionKilled,
    /// The request to the agent could not be made.
    #[error(transparent)]
    Request(#[from] agent_client::ClientError),
}

impl LocalError {
    pub(super) fn died(ending: Ending, words: Option<String>) -> Self {
        let ending = ending.to_string();
        Self::Died { ending, words }
    }

    /// What kind of error it is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Sockets(_) => ErrorKind::Sockets,
            Self::Keep { .. } => ErrorKind::System,
            Self::Spawn { .. } => ErrorKind::AgentSpawn,
            Self::Died { .. } => ErrorKind::AgentDied,
            Self::Silent { .. } => ErrorKind::AgentSilent,
            Self::Unintelligible(_) => ErrorKind::AgentProtocol,
            Self::SessionKilled => ErrorKind::SessionKilled,
            Self::Request(_) => ErrorKind::Request,
        }
    }

    /// Whether another tier could do better.
    #[must_use]
    pub const fn blames_the_tier(&self) -> bool {
        !matches!(self, Self::Request(_))
    }
}

fn after(words: Option<&str>) -> String {
    words.map_or_else(String::new, |words| format!(": {words}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_agent_is_told_with_its_last_words() {
        let error = LocalError::died(Ending::Exited(1), Some("no memory".to_owned()));
        assert_eq!(error.to_string(), "the agent exited with code 1: no memory");
        let error = LocalError::died(Ending::Signaled(9), None);
        assert_eq!(error.to_string(), "the agent was killed by signal 9");
    }
}
