//! Completion: real shells are typed at, and finish the names of sandboxes and images, and paths in
//! sandboxes.

use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

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
            ("bash_finishes_paths", |s| with(s, "local", bash_paths)),
            ("fish_finishes_paths", |s| with(s, "local", fish_paths)),
            ("zsh_finishes_paths", |s| with(s, "local", zsh_paths)),
            ("paths_come_from_the_sandbox_and_soon_or_not", |s| {
                with(s, "local", paths)
            }),
        ],
    );
}

/// A shell: how it is started, and how it gets its completions.
type Shell = (&'static [&'static str], &'static str);

const BASH: Shell = (
    &["bash", "--norc", "--noprofile", "-i"],
    "source <(sovereign completions bash)",
);
const FISH: Shell = (
    &["fish", "--no-config", "-i"],
    "sovereign completions fish | source",
);
const ZSH: Shell = (
    &["zsh", "-f", "-i"],
    "autoload -U compinit; compinit -D -u; source <(sovereign completions zsh)",
);

fn bash(desk: &Desk) -> Outcome {
    typed(desk, BASH, &NAMES)
}

fn fish(desk: &Desk) -> Outcome {
    typed(desk, FISH, &NAMES)
}

fn zsh(desk: &Desk) -> Outcome {
    typed(desk, ZSH, &NAMES)
}

fn bash_paths(desk: &Desk) -> Outcome {
    typed(desk, BASH, &PATHS)
}

fn fish_paths(desk: &Desk) -> Outcome {
    typed(desk, FISH, &PATHS)
}

fn zsh_paths(desk: &Desk) -> Outcome {
    typed(desk, ZSH, &PATHS)
}

/// What is typed, and what appears when it was understood. What is waited for is not what is typed,
/// which is shown too.
type Steps = [(&'static str, &'static str)];

/// A name is finished by Tab, and the command then has to find that sandbox.
const NAMES: [(&str, &str); 3] = [
    ("sovereign exec web-\t true && echo r''an", "ran"),
    ("sovereign start web-\t && echo sta''rted", "started"),
    (
        "sovereign inspect web-d\t > one && echo in''spected",
        "inspected",
    ),
];

/// Folders go on without a blank, files end with one; what a shell would take for something else is quoted.
const PATHS: [(&str, &str); 7] = [
    ("sovereign cp web-\tfol\tin\t . && cat inner", "of inner"),
    ("sovereign fs cat web-\tfol\tin\t", "of inner"),
    ("sovereign cp web-up:a\\ bl\t . && cat a*k", "of blank"),
    ("sovereign cp web-up:co\t . && cat co*", "of colon"),
    ("sovereign cp web-up:it\t . && cat it*", "of quote"),
    ("sovereign cp 'web-up:a bl\t . && cat a*k", "of blank"),
    ("sovereign fs cat web-up /tmp/dee\tsub\tdo\t", "of dollar"),
];

/// Files of the sandbox that runs, and what is in them.
const FILES: &str = "mkdir folder && echo of inner > folder/inner && echo of blank > 'a blank' && \
    echo of colon > co:lon:s && echo of quote > \"it's \\\"this\\\"\" && \
    mkdir -p /tmp/deep/sub && echo of dollar > '/tmp/deep/sub/do$llar*' && \
    touch .hidden && ln -s folder link && printf x > \"$(printf 'bad\\033[31m')\"";

/// Types at a shell, in a folder with nothing but the registry.
fn typed(desk: &Desk, (start, setup): Shell, steps: &Steps) -> Outcome {
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
        .current_dir(desk.state.path())
        .stdin(terminal.stdio()?)
        .stdout(terminal.stdio()?)
        .stderr(terminal.stdio()?)
        .spawn()?;
    let setup = format!("{setup}; echo re''ady");
    let steps = [(setup.as_str(), "ready")]
        .into_iter()
        .chain(steps.iter().copied());
    let outcome = steps.into_iter().try_for_each(|(line, answer)| {
        terminal.forget();
        write!(terminal.screen(), "{line}\r")?;
        let shown = terminal.wait_for(&format!("{answer}\r"));
        shown.with_context(|| line.to_owned())
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
    desk.says(&["exec", "web-up", "--", "sh", "-c", FILES])?;
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
    let cases: [(&[&str], &[&str]); 13] = [
        (&["exec", "we"], &["web-up"]),
        (&["stop", "we"], &["web-up"]),
        (&["kill", "-s", "TERM", "we"], &["web-up"]),
        (&["start", "we"], &["web-down"]),
        (&["rm", "we"], &["web-down", "web-up"]),
        (&["rm", "web-up", "we"], &["web-down"]),
        (&["ls", "--filter", "status=ex"], &["status=exited"]),
        (&["kill", "-s", "SE"], &["SEGV"]),
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

fn paths(desk: &Desk) -> Outcome {
    up_and_down(desk)?;
    let home = ["a blank", "co:lon:s", "folder/", "it's \"this\"", "link"];
    let cases: [(&[&str], &[&str]); 11] = [
        (&["fs", "ls", "web-up", ""], &home),
        (&["fs", "ls", "web-up", "x", "fol"], &["folder/"]),
        (&["fs", "ls", "web-up", "."], &[".hidden"]),
        // A link is looked behind if there is no doubt which.
        (&["fs", "stat", "web-up", "li"], &["link/"]),
        (
            &["fs", "mv", "web-up", "folder/inner", "folder/in"],
            &["folder/inner"],
        ),
        (
            &["fs", "cat", "--offset", "1", "web-up", "/tmp/deep/"],
            &["/tmp/deep/sub/"],
        ),
        (&["cp", "web-up:folder/"], &["web-up:folder/inner"]),
        (&["cp", "x", "web-up:co"], &["web-up:co:lon:s"]),
        (&["cp", "web-down:"], &[]),
        (&["cp", "nobody:x"], &[]),
        (&["fs", "ls", "web-up", "no-such/"], &[]),
    ];
    for (words, expected) in cases {
        let mut found = suggested(desk, words)?;
        // Where nothing is typed yet, flags fit too.
        found.retain(|found| !found.starts_with("--"));
        ensure!(found == expected, "{words:?}: {found:?}");
    }
    // An agent that does not answer is waited for a second, and no longer.
    let supervisor = desk.supervisors()?.pop().context("no supervisor")?;
    let supervisor = Pid::from_raw(i32::try_from(supervisor)?).context("no process")?;
    kill_process(supervisor, Signal::STOP)?;
    let began = Instant::now();
    let found = suggested(desk, &["cp", "web-up:"]);
    kill_process(supervisor, Signal::CONT)?;
    ensure!(found?.is_empty(), "nobody could answer");
    ensure!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    PASSED
}
