//! Completion: real shells are typed at, and finish the names of sandboxes and images.

use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::detached::{Desk, with};
use crate::suite::{Outcome, PASSED, Suite, skip};
use crate::terminal::Terminal;

pub(crate) fn add(suite: &mut Suite) {
    suite.host(
        "completion",
        &[
            ("bash_finishes_names", |s| with(s, "local", bash)),
            ("fish_finishes_names", |s| with(s, "local", fish)),
            ("zsh_finishes_names", |s| with(s, "local", zsh)),
            ("candidates_fit_the_command_and_come_at_once", |s| {
                with(s, "local", candidates)
            }),
        ],
    );
}

fn bash(desk: &Desk) -> Outcome {
    let start = ["bash", "--norc", "--noprofile", "-i"];
    typed(desk, &start, "source <(sovereign completions bash)")
}

fn fish(desk: &Desk) -> Outcome {
    let start = ["fish", "--no-config", "-i"];
    typed(desk, &start, "sovereign completions fish | source")
}

fn zsh(desk: &Desk) -> Outcome {
    let setup = "autoload -U compinit; compinit -D -u; source <(sovereign completions zsh)";
    typed(desk, &["zsh", "-f", "-i"], setup)
}

/// Types at a shell: a name is finished by Tab, and the command then has to find that sandbox.
fn typed(desk: &Desk, start: &[&str], setup: &str) -> Outcome {
    for program in ["setsid", start[0]] {
        if Command::new(program).arg("--version").output().is_err() {
            return skip(format!("there is no {program}"));
        }
    }
    up_and_down(desk)?;
    let mut terminal = Terminal::open()?;
    let program = desk.sovereign().program();
    let folder = program.parent().context("no folder")?;
    let path = std::env::var("PATH")?;
    let mut shell = Command::new("setsid")
        .arg("--ctty")
        .args(start)
        .env("PATH", format!("{}:{path}", folder.display()))
        .env("SOVEREIGN_STATE_DIR", desk.state.path())
        .env("HOME", desk.state.path())
        .env("TERM", "xterm")
        .stdin(terminal.stdio()?)
        .stdout(terminal.stdio()?)
        .stderr(terminal.stdio()?)
        .spawn()?;
    // What is waited for is not what is typed, which is shown too.
    let steps = [
        (format!("{setup}; echo re''ady"), "ready"),
        ("sovereign exec web-\t true && echo r''an".to_owned(), "ran"),
        (
            "sovereign start web-\t && echo sta''rted".to_owned(),
            "started",
        ),
        (
            "sovereign inspect web-d\t > one && echo in''spected".to_owned(),
            "inspected",
        ),
    ];
    let outcome = steps.iter().try_for_each(|(line, answer)| {
        write!(terminal.screen(), "{line}\r")?;
        terminal.wait_for(&format!("{answer}\r"))
    });
    // However it went, it is over.
    shell.kill()?;
    shell.wait()?;
    outcome?;
    PASSED
}

/// A sandbox that runs, and one that does not.
fn up_and_down(desk: &Desk) -> Result<()> {
    desk.start(&["--name", "web-up", "--", "sleep", "1000"])?;
    desk.says(&[
        "create", "--tier", "local", "--name", "web-down", "--", "sleep", "1000",
    ])?;
    Ok(())
}

/// What a shell is told.
fn suggested(desk: &Desk, words: &[&str]) -> Result<Vec<String>> {
    let call = desk.call([&["--", "sovereign"], words].concat());
    let call = call
        .env("SOVEREIGN_COMPLETE", "fish")
        .env("SOVEREIGN_DATA_DIR", desk.state.path());
    let text = desk.good(call)?;
    let value = |line: &str| line.split('\t').next().unwrap_or_default().to_owned();
    Ok(text.lines().map(value).collect())
}

fn candidates(desk: &Desk) -> Outcome {
    up_and_down(desk)?;
    fs::create_dir(desk.state.path().join("images"))?;
    fs::write(
        desk.state.path().join("images/web-image.json"),
        "no manifest",
    )?;
    let cases: [(&[&str], &[&str]); 10] = [
        (&["exec", "we"], &["web-up"]),
        (&["stop", "we"], &["web-up"]),
        (&["kill", "-s", "TERM", "we"], &["web-up"]),
        (&["start", "we"], &["web-down"]),
        (&["rm", "we"], &["web-down", "web-up"]),
        (&["fs", "cat", "we"], &["web-up"]),
        (&["cp", "we"], &["web-up:"]),
        (&["run", "--image", "we"], &["web-image"]),
        (&["image", "rm", "we"], &["web-image"]),
        (&["run", "--tier", "po"], &["podman"]),
    ];
    for (words, expected) in cases {
        let mut found = suggested(desk, words)?;
        found.sort_unstable();
        ensure!(found == expected, "{words:?}: {found:?}");
    }
    let began = Instant::now();
    suggested(desk, &["stop", ""])?;
    ensure!(
        began.elapsed() < Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
    PASSED
}
