//! A terminal for a command.

use std::fs::File;
use std::io::{Read, Write};

use anyhow::{Result, ensure};
use sovereign::{Child, ExecRequest, TerminalSize};

use crate::subject::{Runs, Subject, sh, take};
use crate::suite::{Suite, case};

pub(crate) fn add(suite: &mut Suite) {
    suite.add(
        "terminal",
        [
            case("commands_have_one_of_the_size_asked_for", size),
            case("new_sizes_are_told", resize),
            case("keys_interrupt_and_end_input", keys),
            case("foreground_is_what_keys_reach", foreground),
        ],
    );
}

/// A script on a terminal, and its screen.
fn show(subject: &Subject, script: &str) -> Result<(Child, File)> {
    let request = ExecRequest {
        stdin: true,
        tty: Some(TerminalSize {
            rows: 31,
            columns: 97,
        }),
        ..sh(script)
    };
    let mut child = subject.exec(request)?.spawn()?;
    let screen = take(&mut child.stdout)?;
    Ok((child, screen))
}

/// Reads until this is shown, and returns all that is.
fn until(screen: &mut File, text: &str) -> Result<String> {
    let mut shown = String::new();
    let mut space = [0; 1000];
    while !shown.contains(text) {
        let count = screen.read(&mut space)?;
        ensure!(count > 0, "it ended without {text:?}: {shown:?}");
        shown.push_str(&String::from_utf8_lossy(
            space.get(..count).unwrap_or_default(),
        ));
    }
    Ok(shown)
}

fn size(subject: &Subject) -> Result<()> {
    let script =
        "test -t 0 && test -t 1 && test -t 2 && stty size && echo $TERM; echo x >&2; exit 6";
    let (child, mut screen) = show(subject, script)?;
    let shown = until(&mut screen, "x\r\n")?;
    ensure!(shown.starts_with("31 97\r\n"), "{shown:?}");
    ensure!(
        shown.lines().count() == 3 && !shown.contains("\r\n\r\n"),
        "{shown:?}"
    );
    let report = child.wait()?.report;
    ensure!(report.exit_code() == 6, "{report:?}");
    subject
        .sh("test -t 0 || test -t 1 || echo none")?
        .says("none")
}

fn resize(subject: &Subject) -> Result<()> {
    let script = "trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.05; done";
    let (child, mut screen) = show(subject, script)?;
    until(&mut screen, "ready")?;
    child.resize(TerminalSize {
        rows: 50,
        columns: 132,
    })?;
    until(&mut screen, "50 132")?;
    let report = child.wait()?.report;
    ensure!(report.exit_code() == 3, "{report:?}");
    Ok(())
}

fn keys(subject: &Subject) -> Result<()> {
    let (mut child, mut screen) = show(
        subject,
        "trap 'echo stopped' INT; echo ready; cat; echo end",
    )?;
    // To the end of the line: what is typed before is shown before it.
    until(&mut screen, "ready\r\n")?;
    let mut keyboard = take(&mut child.stdin)?;
    keyboard.write_all(b"typed\r")?;
    // Once by the terminal, once by the command.
    let shown = until(&mut screen, "typed\r\ntyped")?;
    ensure!(!shown.contains("end"), "{shown:?}");
    // Ctrl-C ends `cat`, and the shell goes on.
    keyboard.write_all(b"\x03")?;
    let shown = until(&mut screen, "end")?;
    ensure!(
        shown.contains("^C") && shown.contains("stopped"),
        "{shown:?}"
    );
    ensure!(child.wait()?.report.exit_code() == 0);
    let (mut child, mut screen) = show(subject, "echo ready; cat; echo end")?;
    until(&mut screen, "ready")?;
    // Ctrl-D on an empty line is the end of input.
    take(&mut child.stdin)?.write_all(b"\x04")?;
    until(&mut screen, "end")?;
    ensure!(child.wait()?.report.exit_code() == 0);
    Ok(())
}

fn foreground(subject: &Subject) -> Result<()> {
    let (mut child, mut screen) = show(subject, "echo ready; exec sleep 7022")?;
    until(&mut screen, "ready")?;
    take(&mut child.stdin)?.write_all(b"\x03")?;
    let report = child.wait()?.report;
    ensure!(report.exit_code() == 130, "{report:?}");
    Ok(())
}
