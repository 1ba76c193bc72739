//! What a terminal shows while something takes its time.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::Desk;
use crate::suite::{Outcome, PASSED};
use crate::terminal::Terminal;

const MIB: usize = 1 << 20;

pub(super) fn copy_shows_bytes_and_rate_on_a_terminal_alone(desk: &Desk) -> Outcome {
    desk.start(&["--name", "a", "--", "sleep", "600"])?;
    let archive = archive()?;
    let (first, rest) = archive.split_at(MIB);
    let mut terminal = Terminal::open()?;
    let mut copy = Command::new(desk.program())
        .args(["cp", "-", "a:/tmp"])
        .env("SOVEREIGN_STATE_DIR", desk.state.path())
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(terminal.stdio()?)
        .spawn()?;
    let mut stdin = copy.stdin.take().context("no standard input")?;
    // It does not go on before the screen shows how far it is.
    stdin.write_all(first)?;
    terminal.wait_for("1.00 MiB")?;
    terminal.wait_for("iB/s")?;
    terminal.wait_for("copying - to a:/tmp")?;
    stdin.write_all(rest)?;
    drop(stdin);
    ensure!(copy.wait()?.success(), "it did not go on");

    let silent = desk.call(["cp", "-", "a:/tmp"]).stdin(archive.clone());
    let output = silent.output()?;
    ensure!(output.code() == Some(0), "{output}");
    ensure!(output.stderr.is_empty(), "{output}");
    let plain = ["cp", "--progress", "plain", "-", "a:/tmp"];
    let output = desk.call(plain).stdin(archive).output()?;
    let said = output.errors();
    let begins = said.starts_with("copying - to a:/tmp ...\ncopying - to a:/tmp: done in ");
    ensure!(begins && said.lines().count() == 2, "{output}");
    PASSED
}

pub(super) fn archive_is_not_written_to_a_terminal(desk: &Desk) -> Outcome {
    desk.start(&["--name", "a", "--", "sleep", "600"])?;
    let mut terminal = Terminal::open()?;
    let mut copy = Command::new(desk.program())
        .args(["cp", "a:/etc/hostname", "-"])
        .env("SOVEREIGN_STATE_DIR", desk.state.path())
        .stdin(Stdio::null())
        .stdout(terminal.stdio()?)
        .stderr(terminal.stdio()?)
        .spawn()?;
    ensure!(copy.wait()?.code() == Some(125), "it was written");
    terminal.wait_for("is not written to a terminal")?;
    terminal.wait_for("`sovereign fs cat`")?;
    ensure!(!terminal.shown().contains("ustar"), "{}", terminal.shown());
    PASSED
}

/// An archive of a file of 2 MiB.
fn archive() -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("big"), vec![b'x'; 2 * MIB])?;
    let tar = Command::new("tar")
        .arg("c")
        .arg("-C")
        .arg(folder.path())
        .arg("big")
        .output()?;
    ensure!(tar.status.success(), "tar: {}", tar.status);
    Ok(tar.stdout)
}
