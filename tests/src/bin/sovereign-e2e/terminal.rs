//! A terminal for the command.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use sovereign_tests::call::Sovereign;
use sovereign_tests::host::is_ignored;

use crate::suite::{Outcome, PASSED, Suite};

pub(crate) fn add(suite: &mut Suite) {
    suite.host(
        "terminal",
        &[
            (
                "terminal_is_put_back_whatever_ends_us",
                terminal_is_put_back_whatever_ends_us,
            ),
            (
                "user_signals_are_the_commands",
                user_signals_are_the_commands,
            ),
        ],
    );
    suite.guest(
        "terminal",
        &[
            (
                "command_gets_a_terminal_of_our_size",
                command_gets_a_terminal_of_our_size,
            ),
            (
                "keys_reach_the_command_and_its_terminal_answers",
                keys_reach_the_command,
            ),
            (
                "our_terminal_is_as_before_afterwards",
                our_terminal_is_as_before_afterwards,
            ),
        ],
    );
}

/// A terminal of which we hold the keyboard and the screen.
pub(crate) struct Terminal {
    screen: File,
    device: File,
    shown: Vec<u8>,
}

impl Terminal {
    pub(crate) fn open() -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?.into_string()?;
        let device = File::options().read(true).write(true).open(name)?;
        let size = Winsize {
            ws_row: 41,
            ws_col: 117,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&device, size)?;
        Ok(Self {
            screen: File::from(master),
            device,
            shown: Vec::new(),
        })
    }

    pub(crate) fn stdio(&self) -> Result<Stdio> {
        Ok(Stdio::from(self.device.try_clone()?))
    }

    /// The keyboard.
    pub(crate) fn screen(&mut self) -> &mut File {
        &mut self.screen
    }

    /// What was shown so far, as far as it was read.
    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown).into_owned()
    }

    /// Takes what was shown so far for gone.
    pub(crate) fn forget(&mut self) {
        self.shown.clear();
    }

    /// Reads the screen until it shows `text`.
    pub(crate) fn wait_for(&mut self, text: &str) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(60);
        let mut buffer = [0; 4096];
        while !String::from_utf8_lossy(&self.shown).contains(text) {
            if Instant::now() > end {
                bail!(
                    "{text:?} did not appear: {:?}",
                    String::from_utf8_lossy(&self.shown)
                );
            }
            // Where nothing more comes, a read has no end.
            let mut screen = [PollFd::new(&self.screen, PollFlags::IN)];
            let moment = Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            if poll(&mut screen, Some(&moment))? == 0 {
                continue;
            }
            let count = self.screen.read(&mut buffer).with_context(|| {
                format!(
                    "the screen ended with {:?}",
                    String::from_utf8_lossy(&self.shown)
                )
            })?;
            self.shown.extend(buffer.get(..count).unwrap_or_default());
        }
        Ok(())
    }

    fn settings(&self) -> Result<String> {
        let output = Command::new("stty")
            .arg("-g")
            .stdin(self.stdio()?)
            .output()?;
        ensure!(output.status.success(), "stty: {}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Starts `sovereign run ARGS` with the terminal on all three streams.
fn start(sovereign: &Sovereign, terminal: &Terminal, args: &[&str]) -> Result<Child> {
    spawn(
        sovereign,
        terminal,
        &[&["run", "-m", "128M", "-q"], args].concat(),
    )
}

/// Starts `sovereign ARGS` with the terminal on all three streams.
fn spawn(sovereign: &Sovereign, terminal: &Terminal, args: &[&str]) -> Result<Child> {
    Command::new(sovereign.program())
        .args(args)
        .process_group(0)
        .stdin(terminal.stdio()?)
        .stdout(terminal.stdio()?)
        .stderr(terminal.stdio()?)
        .spawn()
        .context("cannot start sovereign")
}

fn command_gets_a_terminal_of_our_size(sovereign: &Sovereign) -> Outcome {
    let mut terminal = Terminal::open()?;
    let script = "test -t 0 && test -t 1 && test -t 2 && stty size && tty";
    let mut child = start(sovereign, &terminal, &["-t", "--", "sh", "-c", script])?;
    terminal.wait_for("41 117")?;
    terminal.wait_for("/dev/pts/")?;
    ensure!(child.wait()?.success());
    PASSED
}

fn keys_reach_the_command(sovereign: &Sovereign) -> Outcome {
    let mut terminal = Terminal::open()?;
    let script = "trap 'echo interrupted; exit 5' INT; read line; echo \"got $line\"; \
                  while :; do sleep 0.1; done";
    let mut child = start(
        sovereign,
        &terminal,
        &["-i", "-t", "--", "sh", "-c", script],
    )?;
    terminal.screen.write_all(b"word\r")?;
    terminal.wait_for("got word")?;
    // Ctrl-C: it is the guest's terminal that makes a signal of it, for the guest's command.
    terminal.screen.write_all(b"\x03")?;
    terminal.wait_for("interrupted")?;
    ensure!(child.wait()?.code() == Some(5));
    PASSED
}

fn our_terminal_is_as_before_afterwards(sovereign: &Sovereign) -> Outcome {
    let mut terminal = Terminal::open()?;
    let before = terminal.settings()?;
    let mut child = start(
        sovereign,
        &terminal,
        &["-i", "-t", "--", "sh", "-c", "echo up; cat"],
    )?;
    terminal.wait_for("up")?;
    ensure!(
        terminal.settings()? != before,
        "the terminal was not put into raw mode"
    );
    terminal.screen.write_all(b"\x04")?;
    ensure!(child.wait()?.success());
    ensure!(
        terminal.settings()? == before,
        "the terminal was left changed"
    );
    PASSED
}

/// Starts a command of tier `local` with a terminal, and waits until it is up.
fn up(sovereign: &Sovereign, terminal: &mut Terminal, script: &str) -> Result<Child> {
    let args = [
        "run", "-q", "-it", "--tier", "local", "--", "sh", "-c", script,
    ];
    let child = spawn(sovereign, terminal, &args)?;
    terminal.wait_for("up")?;
    Ok(child)
}

fn send(child: &Child, signal: Signal) -> Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    Ok(kill_process(pid.context("no process")?, signal)?)
}

fn terminal_is_put_back_whatever_ends_us(sovereign: &Sovereign) -> Outcome {
    for signal in [
        Signal::HUP,
        Signal::INT,
        Signal::QUIT,
        Signal::TERM,
        Signal::ALARM,
        Signal::ABORT,
        Signal::SEGV,
    ] {
        if is_ignored(signal)? {
            continue;
        }
        let mut terminal = Terminal::open()?;
        let before = terminal.settings()?;
        let mut child = up(sovereign, &mut terminal, "echo up; exec sleep 1000")?;
        ensure!(terminal.settings()? != before, "no raw mode");
        send(&child, signal)?;
        let ended = child.wait()?;
        ensure!(!ended.success(), "{signal:?}: {ended}");
        let after = terminal.settings()?;
        ensure!(
            after == before,
            "the terminal was left changed by {signal:?}"
        );
    }
    PASSED
}

fn user_signals_are_the_commands(sovereign: &Sovereign) -> Outcome {
    let mut terminal = Terminal::open()?;
    let script = "trap 'echo first' USR1; trap 'exit 7' USR2; echo up; while :; do sleep 0.1; done";
    let mut child = up(sovereign, &mut terminal, script)?;
    send(&child, Signal::USR1)?;
    terminal.wait_for("first")?;
    send(&child, Signal::USR2)?;
    ensure!(child.wait()?.code() == Some(7));
    PASSED
}
