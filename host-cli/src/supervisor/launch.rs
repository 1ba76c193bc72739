//! Starting a supervisor, and waiting until its sandbox runs.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{Shutdown, shutdown};

use super::message::{DETACH, Outcome, receive};
use crate::deadline::is_readable;
use crate::error::{ErrorKind, Problem};
use crate::installation::{MissingProgram, Program};
use crate::registry::Entry;
use crate::registry::record::Ending;
use crate::tier::{Isolation, packets};

/// The word that makes the `sovereign` program a supervisor.
pub(crate) const SUBCOMMAND: &str = "supervise";

/// How much longer than its sandbox's start a supervisor may take to say what came of it.
const SLACK: Duration = Duration::from_secs(30);

/// How long a supervisor may take to end when the start is given up.
const GIVING_UP: Duration = Duration::from_secs(20);

/// How much of a supervisor's last words is told.
const LAST_WORDS: usize = 2000;

/// Who runs the sandbox's own command, if it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnCommand {
    /// The supervisor, which holds it.
    Held,
    /// The one who starts the sandbox, and who tells the supervisor how it ended.
    Clients,
}

/// The word that says so.
pub(crate) const CLIENTS: &str = "--clients-command";

/// A supervisor that was started, and ends when this is dropped, unless it was let go.
#[derive(Debug)]
pub(crate) struct Owned {
    control: OwnedFd,
}

/// A start that failed.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The program is not installed.
    #[error(transparent)]
    Missing(#[from] MissingProgram),
    /// It did not start, or went away without a word.
    #[error("the supervisor {doing}")]
    Supervisor {
        /// What went wrong.
        doing: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The caller gave up.
    #[error("the start was interrupted")]
    Interrupted,
    /// Only the host itself is left, and nobody has consented to that.
    #[error("{problem}")]
    Consent {
        /// The same, for people and programs.
        problem: Problem,
        /// What the local tier would reach.
        isolation: Isolation,
    },
    /// The sandbox did not start.
    #[error("{0}")]
    Failed(Problem),
}

impl LaunchError {
    /// What kind of error it is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing(_) => ErrorKind::ProgramMissing,
            Self::Supervisor { .. } => ErrorKind::SupervisorFailed,
            Self::Interrupted => ErrorKind::Interrupted,
            Self::Consent { problem, .. } | Self::Failed(problem) => problem.code,
        }
    }

    /// The same as every other problem.
    #[must_use]
    pub fn problem(&self) -> Problem {
        match self {
            Self::Missing(missing) => Problem {
                hint: Some(missing.hint()),
                ..Problem::of(self.kind(), missing)
            },
            Self::Supervisor { .. } | Self::Interrupted => Problem::of(self.kind(), self),
            Self::Consent { problem, .. } | Self::Failed(problem) => problem.clone(),
        }
    }
}

/// Starts the supervisor of a sandbox that nobody holds, and waits until the sandbox runs. While it
/// waits, `cancel` may become readable: then it gives up.
///
/// # Errors
///
/// If it does not run.
pub(crate) fn launch(
    entry: &Entry,
    boot_timeout: Duration,
    own: OwnCommand,
    cancel: Option<BorrowedFd>,
) -> Result<Owned, LaunchError> {
    let program = Program::Engine.find()?;
    let failed = |doing: &str| {
        let doing = doing.to_owned();
        move |source| LaunchError::Supervisor { doing, source }
    };
    let (control, theirs) = packets::pair().map_err(failed("cannot be spoken to"))?;
    let log = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(entry.words_path())
        .map_err(failed("has nowhere to write"))?;
    let mut first = Command::new(program)
        .arg(SUBCOMMAND)
        .arg(entry.registry().root())
        .arg(entry.id().as_str())
        .args((own == OwnCommand::Clients).then_some(CLIENTS))
        .stdin(theirs)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(failed("did not start"))?;
    // It starts the one that stays, which is nobody's child then, and ends.
    first.wait().map_err(failed("did not start"))?;
    match hear(&control, boot_timeout.saturating_add(SLACK), cancel)? {
        Some(Outcome::Running) => Ok(Owned { control }),
        Some(Outcome::Failed { problem, consent }) => Err(match consent {
            Some(isolation) => LaunchError::Consent { problem, isolation },
            None => LaunchError::Failed(problem),
        }),
        Some(_) | None => Err(LaunchError::Supervisor {
            doing: format!("went away without a word{}", last_words(entry)),
            source: io::ErrorKind::UnexpectedEof.into(),
        }),
    }
}

/// Waits for what comes of a start. It may take this long, and longer if its supervisor says that
/// something on the way takes its own time. `None` if that goes away without a word.
fn hear(
    control: &OwnedFd,
    patience: Duration,
    cancel: Option<BorrowedFd>,
) -> Result<Option<Outcome>, LaunchError> {
    let failed = |doing: &str| {
        let doing = doing.to_owned();
        move |source| LaunchError::Supervisor { doing, source }
    };
    let from_now = || Instant::now().checked_add(patience);
    let mut deadline = from_now();
    loop {
        if !is_readable(control, cancel, deadline).map_err(failed("cannot be heard"))? {
            give_up(control);
            return Err(LaunchError::Interrupted);
        }
        let heard = receive(control).map_err(failed("cannot be understood"))?;
        match heard.map(|(outcome, _)| outcome) {
            Some(Outcome::Preparing) => deadline = None,
            Some(Outcome::Prepared) => deadline = from_now(),
            outcome => return Ok(outcome),
        }
    }
}

/// Has a supervisor give up, and waits until it is gone: the sandbox is its until then, and could be
/// neither removed nor started again.
fn give_up(control: &OwnedFd) {
    let deadline = Instant::now() + GIVING_UP;
    // One that is gone need not be told.
    let _ = shutdown(control, Shutdown::Write);
    while matches!(is_readable(control, None, Some(deadline)), Ok(true))
        && matches!(receive::<Outcome>(control), Ok(Some(_)))
    {}
}

impl Owned {
    /// How the sandbox ended, if its supervisor says so within this time. It does so also of one that is
    /// removed when it ends.
    pub(crate) fn ending(&self, patience: Duration) -> Option<Ending> {
        let deadline = Instant::now() + patience;
        if !matches!(is_readable(&self.control, None, Some(deadline)), Ok(true)) {
            return None;
        }
        match receive::<Outcome>(&self.control) {
            Ok(Some((Outcome::Ended { ending }, _))) => Some(ending),
            Ok(_) | Err(_) => None,
        }
    }

    /// Lets go of it: from now on it outlives this process.
    pub(crate) fn let_go(self) {
        // One that has ended already need not be told.
        let _ = packets::send(&self.control, DETACH, None);
    }
}

fn last_words(entry: &Entry) -> String {
    let text = fs::read(entry.words_path()).unwrap_or_default();
    let start = text.len().saturating_sub(LAST_WORDS);
    let text = String::from_utf8_lossy(text.get(start..).unwrap_or_default()).into_owned();
    let text = text.trim().replace('\n', "; ");
    if text.is_empty() {
        String::new()
    } else {
        format!(" ({text})")
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::thread;

    use super::*;
    use crate::supervisor::message::send;

    const SHORT: Duration = Duration::from_millis(100);

    #[test]
    fn what_takes_its_own_time_is_waited_for() {
        let (ours, theirs) = packets::pair().unwrap();
        let supervisor = thread::spawn(move || {
            send(&theirs, &Outcome::Preparing, None).unwrap();
            thread::sleep(3 * SHORT);
            send(&theirs, &Outcome::Prepared, None).unwrap();
            send(&theirs, &Outcome::Running, None).unwrap();
            theirs
        });
        let heard = hear(&ours, SHORT, None);
        assert!(matches!(heard, Ok(Some(Outcome::Running))), "{heard:?}");
        let _theirs = supervisor.join().unwrap();
        let heard = hear(&ours, SHORT, None);
        assert!(
            matches!(heard, Err(LaunchError::Supervisor { .. })),
            "{heard:?}"
        );
    }

    #[test]
    fn whoever_gives_up_waits_until_the_supervisor_is_gone() {
        let (ours, theirs) = packets::pair().unwrap();
        let (cancel, gives_up) = packets::pair().unwrap();
        drop(gives_up);
        let supervisor = thread::spawn(move || {
            assert!(is_readable(&theirs, None, None).unwrap());
            assert!(receive::<Outcome>(&theirs).unwrap().is_none());
            thread::sleep(SHORT);
            let problem = Problem::new(ErrorKind::Interrupted, "given up".to_owned());
            let consent = None;
            send(&theirs, &Outcome::Failed { problem, consent }, None).unwrap();
            thread::sleep(SHORT);
            Instant::now()
        });
        let heard = hear(&ours, 9 * SHORT, Some(cancel.as_fd()));
        assert!(matches!(heard, Err(LaunchError::Interrupted)), "{heard:?}");
        let now = Instant::now();
        assert!(supervisor.join().unwrap() <= now);
    }
}
