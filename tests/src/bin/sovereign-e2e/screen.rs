//! Programs that draw whole screens, driven by tmux as a user would: the same on every tier.
//!
//! Neither a sandbox nor the lab has them all, so the gate packs them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::detached::{Desk, with};
use crate::suite::{Outcome, PASSED, Suite, Test, skip};

/// The packed programs.
const PROGRAMS: &str = "SOVEREIGN_E2E_SCREEN";

/// What their folder is called in a sandbox.
const INSIDE: &str = "programs";

pub(crate) fn add(suite: &mut Suite) {
    const NAME: &str = "vim_less_and_top_work";
    let local: Test = |s| with(s, "local", vim_less_and_top_work);
    let docker: Test = |s| with(s, "docker", vim_less_and_top_work);
    let podman: Test = |s| with(s, "podman", vim_less_and_top_work);
    let microvm: Test = |s| with(s, "microvm", vim_less_and_top_work);
    suite.host("screen", &[(NAME, local)]);
    suite.engine("docker", "screen", &[(NAME, docker)]);
    suite.engine("podman", "screen", &[(NAME, podman)]);
    suite.guest("screen", &[(NAME, microvm)]);
}

/// A terminal in tmux, with a shell in it.
struct Screen<'a> {
    desk: &'a Desk,
    tmux: PathBuf,
    socket: PathBuf,
}

impl<'a> Screen<'a> {
    fn open(desk: &'a Desk, programs: &Path, columns: u16, rows: u16) -> Result<Self> {
        let screen = Self {
            desk,
            tmux: programs.join("tmux"),
            socket: desk.state.path().join("tmux"),
        };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        screen.tmux(&[
            "new-session",
            "-d",
            "-x",
            &columns,
            "-y",
            &rows,
            "env PS1= ENV= sh",
        ])?;
        Ok(screen)
    }

    fn tmux(&self, args: &[&str]) -> Result<String> {
        let output = Command::new(&self.tmux)
            .args(["-f", "/dev/null", "-S"])
            .arg(&self.socket)
            .args(args)
            .env("TERM", "xterm")
            .env("SOVEREIGN_STATE_DIR", self.desk.state.path())
            .output()
            .context("cannot start tmux")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "tmux {args:?}: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a command of a sandbox in the shell, and prints how it ended.
    fn exec(&self, sandbox: &str, command: &str) -> Result<()> {
        let sovereign = self.desk.program().display();
        self.types(&format!(
            "clear; {sovereign} exec -it {sandbox} -- {command}; echo ended-$?"
        ))?;
        self.presses("Enter")
    }

    /// Types text as it is.
    fn types(&self, text: &str) -> Result<()> {
        self.tmux(&["send-keys", "-l", text]).map(drop)
    }

    /// Presses a key by its name.
    fn presses(&self, key: &str) -> Result<()> {
        self.tmux(&["send-keys", key]).map(drop)
    }

    fn shown(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    fn shows(&self, text: &str) -> Result<()> {
        let seen = || Ok(self.shown()?.contains(text));
        self.desk
            .eventually(&format!("the screen shows {text:?}"), seen)
            .with_context(|| self.shown().unwrap_or_default())
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}

fn vim_less_and_top_work(desk: &Desk) -> Outcome {
    let Some(programs) = env::var_os(PROGRAMS).map(PathBuf::from) else {
        return skip(format!(
            "tmux, vim and less were not packed ({PROGRAMS} is not set)"
        ));
    };
    desk.start(&["--name", "a", "--", "sleep", "600"])?;
    let inside = format!("a:{INSIDE}");
    let packed = programs.display().to_string();
    desk.says(&["cp", &packed, &inside])?;
    let screen = Screen::open(desk, &programs, 80, 24)?;
    vim_edits_and_follows_the_size(desk, &screen)?;
    less_pages(desk, &screen)?;
    top_refreshes(&screen)?;
    colours_arrive(&screen)?;
    // The shell's terminal echoes and edits lines again.
    screen.types("stty -a | tr ' ' '\\n' | grep -xc 'echo\\|icanon\\|isig;\\?'")?;
    screen.presses("Enter")?;
    screen.shows("3")?;
    PASSED
}

fn vim_edits_and_follows_the_size(desk: &Desk, screen: &Screen<'_>) -> Result<()> {
    screen.exec("a", &format!("{INSIDE}/vim.tiny -u NONE note"))?;
    screen.shows("\"note\"")?;
    screen.types("ione\ntwo")?;
    screen.presses("Escape")?;
    screen.tmux(&["resize-window", "-x", "100", "-y", "30"])?;
    screen.types(":set columns?")?;
    screen.presses("Enter")?;
    screen.shows("columns=100")?;
    // To vim Ctrl-C is a key, and no end.
    screen.presses("C-c")?;
    screen.types(":wq")?;
    screen.presses("Enter")?;
    screen.shows("ended-0")?;
    let note = desk.says(&["fs", "cat", "a", "note"])?;
    ensure!(note == "one\ntwo", "{note:?}");
    Ok(())
}

fn less_pages(desk: &Desk, screen: &Screen<'_>) -> Result<()> {
    let lines = ["exec", "a", "--", "sh", "-c", "seq 1 500 > lines"];
    desk.says(&lines)?;
    screen.exec("a", &format!("{INSIDE}/less lines"))?;
    screen.shows("\n29\n")?;
    ensure!(!screen.shown()?.contains("\n31\n"), "{}", screen.shown()?);
    screen.types("G")?;
    screen.shows("\n500\n")?;
    screen.types("?^123$")?;
    screen.presses("Enter")?;
    screen.shows("123\n124\n")?;
    screen.types("q")?;
    screen.shows("ended-0")
}

fn top_refreshes(screen: &Screen<'_>) -> Result<()> {
    screen.exec("a", "top -d 0.5")?;
    screen.shows("load average")?;
    let first = screen.shown()?;
    let changed = || Ok(screen.shown()? != first);
    screen.desk.eventually("top draws again", changed)?;
    screen.types("q")?;
    screen.shows("ended-0")
}

fn colours_arrive(screen: &Screen<'_>) -> Result<()> {
    screen.exec("a", &format!("ls --color=auto -d {INSIDE}"))?;
    screen.shows("ended-0")?;
    let coloured = screen.tmux(&["capture-pane", "-pe"])?;
    ensure!(coloured.contains("\x1b[34m"), "{coloured:?}");
    Ok(())
}
