//! Whoever only shows something ends as any other program does.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use rustix::process::Signal;
use sovereign_tests::host::is_ignored;

use super::Desk;
use crate::suite::{Outcome, PASSED};

/// As `cat big | head -1` does: of SIGPIPE.
pub(super) fn whoever_reads_no_more_ends_it_silently(desk: &Desk) -> Outcome {
    let script = "seq 1 100000 > file; cat file; exec sleep 1000";
    desk.start(&["--name", "a", "--", "sh", "-c", script])?;
    desk.eventually("it has written", || {
        Ok(desk.says(&["logs", "a"])?.ends_with("100000"))
    })?;
    for args in [
        &["ls"][..],
        &["inspect", "a"],
        &["logs", "a"],
        &["logs", "--json", "a"],
        &["events", "--no-follow"],
        &["stats", "--no-stream", "a"],
        &["top", "a"],
        &["cp", "a:file", "-"],
        &["cp", "--json", "a:file", "-"],
        &["fs", "cat", "a", "file"],
        &["fs", "ls", "a", "."],
        &["fs", "stat", "--json", "a", "file"],
        &["fs", "find", "a", "."],
        &["fs", "watch", "a", "."],
    ] {
        unread(desk, args)?;
    }
    // A command's end is the command's.
    let echo = desk.says(&["exec", "a", "--", "sh", "-c", "tail -1 file"])?;
    ensure!(echo == "100000", "{echo}");
    PASSED
}

/// Standard output is a pipe whose reader has gone before anything is written.
fn unread(desk: &Desk, args: &[&str]) -> Result<()> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let output = Command::new(desk.program())
        .args(args)
        .env("SOVEREIGN_STATE_DIR", desk.state.path())
        .stdin(Stdio::null())
        .stdout(writer)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let signal = output.status.signal();
    let is_silent = said.is_empty() && signal == Some(Signal::PIPE.as_raw());
    ensure!(is_silent, "{args:?}: {}: {said}", output.status);
    Ok(())
}

pub(super) fn whoever_only_looks_dies_of_the_signal(desk: &Desk) -> Outcome {
    desk.start(&["--name", "a", "--", "sleep", "1000"])?;
    for args in [
        &["logs", "-f", "a"][..],
        &["events"],
        &["stats", "--json"],
        &["fs", "watch", "a", "."],
        &["wait", "a"],
    ] {
        for signal in [Signal::INT, Signal::TERM] {
            // Whoever is started so that it ignores a signal goes on ignoring it.
            if is_ignored(signal)? {
                continue;
            }
            let mut running = desk.call(args).start()?;
            // Whether it looks already or is on the way there makes no difference.
            running.signal_group(signal)?;
            let status = running.wait()?;
            ensure!(
                status.signal() == Some(signal.as_raw()),
                "{args:?}: {status}"
            );
        }
    }
    ensure!(desk.state_of("a")? == "running", "nobody ended it");
    PASSED
}
