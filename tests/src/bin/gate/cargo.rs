//! Calls of programs whose output is shown as it comes, and kept.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// A program's whole output, both streams in one, and whether it succeeded.
#[derive(Debug)]
pub(crate) struct Transcript {
    pub(crate) lines: Vec<String>,
    pub(crate) success: bool,
}

impl Transcript {
    /// Returns the last lines, for a message.
    pub(crate) fn tail(&self, count: usize) -> String {
        self.lines[self.lines.len().saturating_sub(count)..].join("\n")
    }
}

/// Returns the workspace, in which the gate was built.
pub(crate) fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// Prepares `cargo ARGS` in the workspace.
pub(crate) fn cargo<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = merged(&program);
    command.args(args);
    command
}

/// Prepares a program, in the workspace, with standard error on standard output: so that what it
/// says on both stays in order.
pub(crate) fn merged(program: &OsStr) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec \"$0\" \"$@\" 2>&1"])
        .arg(program)
        .current_dir(workspace());
    command
}

/// Runs a command, shows each line as it comes and hands it to `on_line`.
///
/// # Errors
///
/// If it cannot be started.
pub(crate) fn show(command: &mut Command, on_line: &mut dyn FnMut(&str)) -> Result<Transcript> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let stdout = child.stdout.take().context("no standard output")?;
    let mut lines = Vec::new();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("cannot read a program's output")?;
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        on_line(&line);
        lines.push(line);
    }
    let success = child.wait().context("cannot wait")?.success();
    Ok(Transcript { lines, success })
}

/// Shows a line.
pub(crate) fn print_line(line: &str) {
    println!("{line}");
}
