//! Many commands, and what they leave behind.

use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use sovereign::Exec;
use sovereign_tests::host::open_descriptors;

use crate::subject::{Runs, Subject, sh, wait_until, with_command_line};
use crate::suite::{Suite, case};

pub(crate) fn add(suite: &mut Suite) {
    suite.add(
        "processes",
        [
            case("hundred_commands_run_side_by_side", side_by_side),
            case("orphans_are_reaped", orphans),
            case("commands_in_a_row_leave_nothing_open", in_a_row),
            case("dropped_sandbox_leaves_nothing", dropped),
        ],
    );
}

fn side_by_side(subject: &Subject) -> Result<()> {
    const COUNT: usize = 100;
    let commands: Vec<Exec> = (0..COUNT)
        .map(|number| Ok(subject.exec(sh(&format!("sleep 0.5; echo {number}; exit {number}")))?))
        .collect::<Result<_>>()?;
    let outputs = thread::scope(|scope| {
        let waiting: Vec<_> = commands
            .into_iter()
            .map(|command| scope.spawn(|| command.output(b"", 1024)))
            .collect();
        waiting
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked")))
            .collect::<Result<Vec<_>>>()
    })?;
    for (number, output) in outputs.into_iter().enumerate() {
        let output = output.with_context(|| format!("command {number}"))?;
        let expected = (
            format!("{number}\n").into_bytes(),
            u8::try_from(number).ok(),
        );
        ensure!(
            (output.stdout, output.report.code) == expected,
            "command {number}"
        );
    }
    Ok(())
}

fn orphans(subject: &Subject) -> Result<()> {
    // A name that no other process of a shared machine has.
    let script = "ln -sf \"$(command -v sleep)\" orphan-7 && \
                  for i in 1 2 3 4 5 6 7 8 9 10; do (./orphan-7 0.1 &) ; done; sleep 0.3";
    subject.sh(script)?.ends_with(0)?;
    wait_until("all orphans were reaped", || {
        let left =
            subject.sh("grep -l '^Name:.orphan-7' /proc/[0-9]*/status 2>/dev/null | wc -l")?;
        Ok(left.text() == "0")
    })
}

fn in_a_row(subject: &Subject) -> Result<()> {
    subject.run(["true"])?;
    let before = open_descriptors(std::process::id())?;
    for number in 0..30 {
        let text = format!("command {number}");
        subject.run(["echo", &text])?.says(&text)?;
    }
    let after = open_descriptors(std::process::id())?;
    ensure!(
        after == before,
        "descriptors: {before} before, {after} after"
    );
    Ok(())
}

fn dropped(subject: &Subject) -> Result<()> {
    let before = open_descriptors(std::process::id())?;
    let own = subject.start(|_| ())?;
    let script = "trap '' TERM HUP INT; (setsid sleep 7006 >/dev/null 2>&1 &); sleep 7006 >/dev/null 2>&1 & echo up";
    own.sh(script)?.says("up")?;
    let running = own.exec(sh("exec sleep 7006"))?;
    drop(own);
    ensure!(
        running.output(b"", 1024).is_err(),
        "a command outlived its sandbox"
    );
    let after = open_descriptors(std::process::id())?;
    ensure!(
        after == before,
        "descriptors: {before} before, {after} after"
    );
    wait_until("no process of it is left", || {
        Ok(with_command_line(b"sleep\x007006\0")?.is_empty())
    })
}
