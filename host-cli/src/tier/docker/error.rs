//! How a container engine can fail its owner.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::ErrorKind;

/// Why there is no container, or no longer one.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// What talks to daemons cannot be set up.
    #[error("cannot talk to the daemon")]
    Runtime(#[source] io::Error),
    /// The daemon refused something, or did not answer.
    #[error("the daemon failed at {doing}")]
    Api {
        /// What was asked of it.
        doing: &'static str,
        /// Its reason.
        source: Box<bollard::errors::Error>,
    },
    /// Another process imports the same image, and does not come to an end.
    #[error(transparent)]
    Lock(#[from] sandbox_image::lock::LockError),
    /// The archive with the image cannot be read.
    #[error("cannot read {}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The daemon could not make an image of the archive.
    #[error("the daemon could not import the image: {message}")]
    Import {
        /// Its reason.
        message: String,
    },
    /// The daemon took the agent's program, and does not have it.
    #[error("the daemon did not keep the agent's program")]
    NotDelivered,
    /// The place where agent and engine meet cannot be made.
    #[error("cannot make a socket in {}", folder.display())]
    Meeting {
        /// The folder.
        folder: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It cannot be noted that the sandbox has volumes.
    #[error("cannot make {}", path.display())]
    Note {
        /// The note.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// This process cannot say who it is.
    #[error("/proc is not mounted, which tells sandboxes of the dead from those of the living")]
    NoProc,
    /// A pair of sockets cannot be made.
    #[error("cannot make the sockets of a session")]
    Sockets(#[source] io::Error),
    /// The agent ended before it came.
    #[error("the container ended at once{}", after(words))]
    Died {
        /// What the agent wrote to its standard error.
        words: String,
    },
    /// The agent did not come.
    #[error("the agent in the container did not connect within {} s", waited.as_secs_f32())]
    Silent {
        /// How long it was waited for.
        waited: Duration,
    },
    /// The caller gave up.
    #[error("interrupted while the container started")]
    Interrupted,
    /// The sandbox is gone.
    #[error("the container {how}")]
    Ended {
        /// What the daemon knows of its end.
        how: String,
    },
    /// The request to the agent could not be made.
    #[error(transparent)]
    Request(#[from] agent_client::ClientError),
}

impl DockerError {
    /// An error of the daemon's while it was doing this.
    pub(super) fn api(doing: &'static str) -> impl Fn(bollard::errors::Error) -> Self + Copy {
        move |source| Self::Api {
            doing,
            source: Box::new(source),
        }
    }

    /// What kind of error it is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Runtime(_) | Self::Sockets(_) => ErrorKind::Sockets,
            Self::Api { .. } | Self::NotDelivered => ErrorKind::Daemon,
            Self::Lock(_) | Self::Archive { .. } | Self::Import { .. } => ErrorKind::ImageImport,
            Self::Meeting { .. } | Self::NoProc => ErrorKind::Meeting,
            Self::Note { .. } => ErrorKind::System,
            Self::Died { .. } => ErrorKind::AgentDied,
            Self::Silent { .. } => ErrorKind::AgentSilent,
            Self::Interrupted => ErrorKind::Interrupted,
            Self::Ended { .. } => ErrorKind::ContainerEnded,
            Self::Request(_) => ErrorKind::Request,
        }
    }

    /// Whether another tier could do better.
    #[must_use]
    pub const fn blames_the_tier(&self) -> bool {
        !matches!(self, Self::Interrupted | Self::Request(_))
    }

    /// What the user can do, if we know.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Silent { .. } => Some(
                "give it more time with --boot-timeout; a daemon that does not see this machine's \
                 files has to be named as tcp://HOST:PORT"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

fn after(words: &str) -> String {
    match words.trim() {
        "" => String::new(),
        words => format!(": {words}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_ended_is_told_with_its_last_words() {
        let words = "sovereign-agent: no\n".to_owned();
        let error = DockerError::Died { words };
        assert_eq!(
            error.to_string(),
            "the container ended at once: sovereign-agent: no"
        );
        let words = String::new();
        assert_eq!(
            DockerError::Died { words }.to_string(),
            "the container ended at once"
        );
    }

    #[test]
    fn who_gives_up_blames_nobody() {
        assert!(!DockerError::Interrupted.blames_the_tier());
        assert!(
            DockerError::Silent {
                waited: Duration::ZERO
            }
            .blames_the_tier()
        );
    }
}
