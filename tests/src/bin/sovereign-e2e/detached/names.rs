//! Files whose names would command a terminal.

use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use super::Desk;
use crate::suite::{Outcome, PASSED};
use crate::terminal::Terminal;

const NAME: &str = "a\x1b[31m\nb";
const LEGIBLE: &str = "a\\x1b[31m\\nb";

/// Who reads on a terminal sees what a name is; programs get it as it is; errors are for people.
pub(super) fn names_of_a_sandbox_command_no_terminal(desk: &Desk) -> Outcome {
    desk.start(&["--name", "a", "--", "sleep", "600"])?;
    let folder = format!("odd/{NAME}");
    desk.says(&["fs", "mkdir", "-p", "a", &folder])?;
    desk.says(&["exec", "a", "--", "ln", "-s", NAME, "odd/link"])?;
    for words in [
        &["fs", "ls", "a", "odd"][..],
        &["fs", "find", "a", "odd"],
        &["fs", "stat", "a", &folder],
    ] {
        let shown = on_a_terminal(desk, words)?;
        ensure!(!shown.contains('\x1b'), "{words:?}: {shown:?}");
        let piped = desk.says(words)?;
        ensure!(piped.contains(NAME), "{words:?}: {piped:?}");
    }
    let missing = desk
        .call(["fs", "cat", "a", &format!("{folder}/none")])
        .output()?;
    let said = missing.errors();
    ensure!(
        said.contains(LEGIBLE) && !said.contains('\x1b'),
        "{missing}"
    );
    ensure!(said.lines().count() == 1, "{missing}");
    PASSED
}

fn on_a_terminal(desk: &Desk, words: &[&str]) -> Result<String> {
    let mut terminal = Terminal::open()?;
    let mut command = Command::new(desk.program())
        .args(words)
        .env("SOVEREIGN_STATE_DIR", desk.state.path())
        .stdin(Stdio::null())
        .stdout(terminal.stdio()?)
        .spawn()?;
    terminal.wait_for(LEGIBLE)?;
    ensure!(
        command.wait()?.success(),
        "{words:?}: {:?}",
        terminal.shown()
    );
    Ok(terminal.shown())
}
