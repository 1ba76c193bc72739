//! Running the external programs that builders need.
//!
//! A missing one is named together with the command that installs it. Output goes line by line to
//! the step that waits; the last lines are kept for the error. Each run has a deadline, at which
//! the whole process group is killed, and dies with this process.

use std::collections::VecDeque;
use std::env;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::progress::Step;

/// How many lines of a failed program's output its error shows.
const TAIL_LINES: usize = 20;

/// The longest line that is passed on; the rest of it is cut.
const MAX_LINE: usize = 4096;

/// An external program, and the Debian package that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// What is run.
    pub program: &'static str,
    /// What to install.
    pub package: &'static str,
}

/// An external program could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// Programs are not installed.
    #[error("{programs} not installed; install with: {command}")]
    Missing {
        /// Which.
        programs: String,
        /// The command that installs them all.
        command: String,
    },
    /// A program could not be started or waited for.
    #[error("cannot run {program}")]
    Run {
        /// Which.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} ended with {status}; its last output:\n{tail}")]
    Failed {
        /// Which.
        program: String,
        /// `exit status 1`, `signal 9`.
        status: String,
        /// Its last lines.
        tail: String,
    },
    /// A program did not end.
    #[error("{program} did not end within {limit:?} and was killed; its last output:\n{tail}")]
    TimedOut {
        /// Which.
        program: String,
        /// The deadline it had.
        limit: Duration,
        /// Its last lines.
        tail: String,
    },
}

/// Checks that programs are installed.
///
/// # Errors
/// [`ToolError::Missing`] with all that are not, and how to install them.
pub fn require(tools: &[Tool]) -> Result<(), ToolError> {
    let missing: Vec<_> = tools.iter().filter(|t| find(t.program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<_> = missing.iter().map(|tool| tool.program).collect();
    let mut packages: Vec<_> = missing.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    let sudo = if rustix::process::geteuid().is_root() {
        ""
    } else {
        "sudo "
    };
    Err(ToolError::Missing {
        programs: programs.join(", "),
        command: format!("{sudo}apt-get install --yes {}", packages.join(" ")),
    })
}

/// Where a program is, in `PATH` or where Debian keeps the administrator's.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| {
            file.metadata()
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

/// Runs a program to its end; what it prints goes to `step`, line by line.
///
/// # Errors
/// If it cannot be run, fails, or takes longer than `limit`.
pub fn run(command: &Command, limit: Duration, step: &Step<'_>) -> Result<(), ToolError> {
    run_each(command, limit, &mut |line| step.log(line))
}

/// Runs a program to its end; `each` gets what it prints, line by line.
///
/// # Errors
/// If it cannot be run, fails, or takes longer than `limit`.
pub fn run_each(
    command: &Command,
    limit: Duration,
    each: &mut dyn FnMut(&str),
) -> Result<(), ToolError> {
    let mut tail = Tail::default();
    let result = supervise(command, limit, &mut |line| {
        each(line);
        tail.push(line);
    });
    finish(command, limit, result, tail)
}

/// Runs a program to its end and returns what it printed, standard error included.
///
/// # Errors
/// If it cannot be run, fails, or takes longer than `limit`.
pub fn output(command: &Command, limit: Duration) -> Result<String, ToolError> {
    let mut tail = Tail::default();
    let mut text = String::new();
    let result = supervise(command, limit, &mut |line| {
        text.push_str(line);
        text.push('\n');
        tail.push(line);
    });
    finish(command, limit, result, tail).map(|()| text)
}

fn finish(
    command: &Command,
    limit: Duration,
    result: io::Result<Option<ExitStatus>>,
    tail: Tail,
) -> Result<(), ToolError> {
    let program = command.get_program().to_string_lossy().into_owned();
    match result {
        Err(source) => Err(ToolError::Run { program, source }),
        Ok(None) => Err(ToolError::TimedOut {
            program,
            limit,
            tail: tail.into_text(),
        }),
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(ToolError::Failed {
            program,
            status: describe(status),
            tail: tail.into_text(),
        }),
    }
}

/// Runs a program; `None` if it had to be killed at its deadline.
fn supervise(
    command: &Command,
    limit: Duration,
    line: &mut dyn FnMut(&str),
) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut reader = File::from(reader);
    let mut child = guarded(command)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()?;
    let outcome = follow(&mut child, &mut reader, deadline, line);
    if !matches!(outcome, Ok(true)) {
        kill_group(&child);
    }
    let status = child.wait()?;
    Ok(outcome?.then_some(status))
}

/// The same command as the leader of a process group that ends when this process does. `setpriv`
/// sets the parent-death signal; without it (it is part of every Debian) the command stays in our
/// group, where a terminal's Ctrl-C reaches it.
fn guarded(command: &Command) -> Command {
    let mut run = match find("setpriv").filter(|path| !is_busybox(path)) {
        Some(setpriv) => {
            let mut run = Command::new(setpriv);
            run.args(["--pdeathsig", "TERM", "--"])
                .arg(command.get_program())
                .process_group(0);
            run
        }
        None => Command::new(command.get_program()),
    };
    run.args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        run.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => run.env(name, value),
            None => run.env_remove(name),
        };
    }
    run.env("LC_ALL", "C.UTF-8").env_remove("LANGUAGE");
    run
}

/// Whether a program is part of BusyBox, whose `setpriv` knows no parent-death signal.
fn is_busybox(program: &Path) -> bool {
    let program = program.canonicalize().unwrap_or_default();
    program.file_name().is_some_and(|name| name == "busybox")
}

/// Passes lines on until the program has ended (`true`) or the deadline has passed (`false`).
fn follow(
    child: &mut Child,
    reader: &mut File,
    deadline: Instant,
    line: &mut dyn FnMut(&str),
) -> io::Result<bool> {
    let exit = pidfd(child)?;
    let mut lines = Lines::default();
    let mut buffer = vec![0; 64 * 1024];
    let mut open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut ready = vec![PollFd::new(&exit, PollFlags::IN)];
        if open {
            ready.push(PollFd::from_borrowed_fd(reader.as_fd(), PollFlags::IN));
        }
        match poll(&mut ready, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let ended = ready.first().is_some_and(|fd| !fd.revents().is_empty());
        let readable = ready.get(1).is_some_and(|fd| !fd.revents().is_empty());
        // A grandchild may hold the pipe for ever: what is there when the program ends is all.
        if readable {
            let read = reader.read(&mut buffer)?;
            open = read > 0;
            lines.push(buffer.get(..read).unwrap_or_default(), line);
        } else if ended {
            lines.flush(line);
            return Ok(true);
        }
    }
}

fn pidfd(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("child without a process id"))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

fn kill_group(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // If it has no group of its own, `kill` below is what ends it; either may find it gone.
        let _ = kill_process_group(pid, Signal::KILL);
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Cuts a stream of bytes into lines; a carriage return ends one too (progress displays).
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn push(&mut self, bytes: &[u8], line: &mut dyn FnMut(&str)) {
        for &byte in bytes {
            if matches!(byte, b'\n' | b'\r') {
                self.flush(line);
            } else if self.0.len() < MAX_LINE {
                self.0.push(byte);
            }
        }
    }

    fn flush(&mut self, line: &mut dyn FnMut(&str)) {
        if !self.0.is_empty() {
            line(&String::from_utf8_lossy(&self.0));
            self.0.clear();
        }
    }
}

/// The last lines of an output.
#[derive(Default)]
struct Tail(VecDeque<String>);

impl Tail {
    fn push(&mut self, line: &str) {
        if self.0.len() == TAIL_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.to_owned());
    }

    fn into_text(self) -> String {
        if self.0.is_empty() {
            return "(none)".to_owned();
        }
        Vec::from(self.0).join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn output_joins_both_streams() {
        let text = output(&shell("echo out; echo err >&2; printf end"), LIMIT).unwrap();
        assert_eq!(text, "out\nerr\nend\n");
    }

    #[test]
    fn failure_names_status_and_last_lines() {
        let error = output(&shell("echo reason; exit 3"), LIMIT).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status 3"), "{text}");
        assert!(text.contains("reason"), "{text}");
    }

    #[test]
    fn deadline_kills_the_whole_group() {
        let start = Instant::now();
        let error = output(&shell("sleep 60 & sleep 60"), Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, ToolError::TimedOut { .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_link_to_busybox_is_told_from_a_program_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let (busybox, link) = (folder.path().join("busybox"), folder.path().join("setpriv"));
        std::fs::write(&busybox, "").unwrap();
        std::os::unix::fs::symlink(&busybox, &link).unwrap();
        assert!(is_busybox(&link));
        assert!(!is_busybox(folder.path()));
    }

    #[test]
    fn grandchild_that_holds_the_pipe_does_not_delay_the_end() {
        let start = Instant::now();
        output(&shell("sleep 5 & echo done"), LIMIT).unwrap();
        assert!(start.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn missing_tools_are_named_with_their_packages() {
        let tools = [
            Tool {
                program: "sh",
                package: "dash",
            },
            Tool {
                program: "no-such-tool",
                package: "some-package",
            },
        ];
        let text = require(&tools).unwrap_err().to_string();
        assert!(text.contains("no-such-tool"), "{text}");
        assert!(
            text.contains("apt-get install --yes some-package"),
            "{text}"
        );
        assert!(!text.contains("dash"), "{text}");
    }
}
