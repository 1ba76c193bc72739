//! What is remembered of a sandbox's commands when nobody holds them any more, so that a result can be
//! collected after the sandbox has ended, and the next life's commands get numbers of their own.
//!
//! ```text
//!  sandboxes/ID/commands.json    the commands in the order of their numbers (written whole, by rename)
//!  sandboxes/ID/output/N         what each wrote
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::message::Command;
use crate::error::{ErrorKind, Problem};
use crate::registry::file::replace_unsynced;

/// Writes down the commands of the sandbox in this folder. Only its supervisor does.
///
/// It is not waited for the disk: whoever loses this file to a crash of the machine has lost the sandbox.
pub(super) fn write(folder: &Path, commands: &[&Command]) -> io::Result<()> {
    replace_unsynced(&path(folder), &serde_json::to_vec(commands)?)
}

/// The commands that the last supervisor of the sandbox in this folder held or remembered. One that had
/// not ended has a problem that says so. None if nothing can be read: their results are lost, and nothing
/// else is.
pub(crate) fn read(folder: &Path) -> Vec<Command> {
    let bytes = fs::read(path(folder)).unwrap_or_default();
    let commands: Vec<Command> = serde_json::from_slice(&bytes).unwrap_or_default();
    commands.into_iter().map(Command::left_behind).collect()
}

impl Command {
    /// The command, when its sandbox has ended.
    fn left_behind(mut self) -> Self {
        if self.report.is_none() && self.problem.is_none() {
            let text = format!("the sandbox ended before command {} did", self.command);
            self.problem = Some(Problem::new(ErrorKind::SandboxEnded, text));
        }
        self
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("commands.json")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use agent_protocol::message::ExitReport;

    use super::super::message::About;
    use super::*;
    use crate::registry::record::Timestamp;

    fn command(number: u32, report: Option<ExitReport>) -> Command {
        Command {
            command: number,
            about: About::default(),
            since: Timestamp::now(),
            report,
            problem: None,
        }
    }

    #[test]
    fn what_was_written_is_read_and_what_had_not_ended_says_so() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).is_empty());
        let report = ExitReport {
            code: Some(3),
            signal: None,
            timed_out: false,
            truncated: false,
            duration: Duration::from_millis(5),
        };
        let (ended, not) = (command(1, Some(report)), command(2, None));
        write(folder.path(), &[&ended, &not]).unwrap();
        let found = read(folder.path());
        assert_eq!(found[0], ended);
        let problem = found[1].problem.as_ref().unwrap();
        assert_eq!(problem.code, ErrorKind::SandboxEnded);
        assert!(problem.message.contains("command 2"), "{problem:?}");
    }

    #[test]
    fn damage_loses_results_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(path(folder.path()), "[{").unwrap();
        assert!(read(folder.path()).is_empty());
        write(folder.path(), &[&command(1, None)]).unwrap();
        assert_eq!(read(folder.path()).len(), 1);
    }
}
