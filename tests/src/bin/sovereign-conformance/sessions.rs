//! Commands that go on without whoever asked for them, and sessions that do not hold each other up.

use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use sovereign::supervisor::About;
use sovereign::{Detached, DetachedError, ExecRequest};

use crate::desk::{files, written};
use crate::subject::{Runs, Subject, request, sh, take, wait_until};
use crate::suite::{Suite, case};

pub(crate) fn add(suite: &mut Suite) {
    suite.add(
        "sessions",
        [
            case("results_are_collected_afterwards", collected),
            case("running_commands_are_come_back_to", come_back_to),
            case("commands_that_cannot_run_are_told_at_once", cannot_run),
            case("signals_reach_the_whole_group", signals),
            case("what_stalls_slows_no_other", stalled),
        ],
    );
}

/// Has a command go on without us.
fn hold(sandbox: &Detached, request: ExecRequest) -> Result<u32> {
    let about = About::of(&request);
    let held = sandbox.hold(Detached::exec(sandbox, request)?, about);
    Ok(held.map_err(|error| match error {
        DetachedError::Client(error) => sandbox.explain(error),
        error => error,
    })?)
}

fn collected(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    let number = hold(&own, sh("sleep 0.3; echo one; sleep 0.3; echo two; exit 5"))?;
    let other = hold(&own, sh("echo other"))?;
    ensure!(number != other, "two commands of one number");
    for _ in 0..2 {
        let report = own.wait_command(number, None)?;
        ensure!(report.exit_code() == 5, "{report:?}");
        ensure!(written(&own, number)? == ("one\ntwo\n".to_owned(), true));
    }
    ensure!(own.wait_command(other, None)?.exit_code() == 0);
    let known = own.commands()?;
    let known = known.iter().find(|known| known.command == number);
    let report = known.and_then(|known| known.report.as_ref());
    ensure!(
        report.is_some_and(|report| report.code == Some(5)),
        "{known:?}"
    );
    ensure!(
        own.output(9999).is_err(),
        "a command that never was wrote something"
    );
    Ok(())
}

fn come_back_to(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    let request = ExecRequest {
        stdin: true,
        ..sh("while read -r line; do echo \"<$line>\"; done; exit 4")
    };
    let number = hold(&own, request)?;
    let mut expected = String::new();
    for line in ["one", "two"] {
        // Each time somebody else.
        let mut input = File::from(own.input(number)?);
        input.write_all(format!("{line}\n").as_bytes())?;
        drop(input);
        expected.push_str(&format!("<{line}>\n"));
        wait_until("the answer is there", || {
            Ok(written(&own, number)? == (expected.clone(), false))
        })?;
    }
    own.close_input(number)?;
    let report = own.wait_command(number, None)?;
    ensure!(report.exit_code() == 4, "{report:?}");
    Ok(())
}

fn cannot_run(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    let missing = request(["no-such-command"]);
    let about = About::of(&missing);
    match own.hold(Detached::exec(&own, missing)?, about) {
        Err(error @ DetachedError::Client(_)) => ensure!(error.problem().exit_code == 127),
        other => return Err(anyhow!("not told: {other:?}")),
    }
    Ok(())
}

fn signals(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    let script = "sleep 7021 & trap 'echo told; exit 9' TERM; echo up; wait";
    let number = hold(&own, sh(script))?;
    wait_until("it is up", || Ok(written(&own, number)?.0 == "up\n"))?;
    own.signal(Some(number), 15)?;
    let report = own.wait_command(number, None)?;
    ensure!(report.exit_code() == 9, "{report:?}");
    ensure!(written(&own, number)?.0 == "up\ntold\n");
    // A name that no other process of a shared machine has.
    wait_until("the rest of its group is gone", || {
        let script = "for line in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $line; echo; done \
                      2>/dev/null | grep -c '^sleep 7021 '";
        Ok(own.sh(script)?.text() == "0")
    })
}

/// Takes the first piece, says so, and nothing more until it is told.
struct Stalled {
    began: mpsc::Sender<()>,
    go_on: mpsc::Receiver<()>,
}

impl Write for Stalled {
    fn write(&mut self, _data: &[u8]) -> io::Result<usize> {
        // It waits in vain, and then gives up.
        let _ = self.began.send(());
        let _ = self.go_on.recv();
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn stalled(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    own.sh("head -c 3000000 /dev/zero > big; echo small > small")?
        .ends_with(0)?;
    let mut child = own.spawn("exec cat /dev/zero")?;
    let _unread = take(&mut child.stdout)?;
    let reading = files(&own)?;
    let (began, has_begun) = mpsc::channel();
    let (release, go_on) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let stuck =
            scope.spawn(move || reading.read(b"big", 0, None, &mut Stalled { began, go_on }));
        let checked = has_begun
            .recv()
            .map_err(|_| anyhow!("nothing was read"))
            .and_then(|()| others_go_on(&own));
        drop(release);
        let outcome = stuck.join().map_err(|_| anyhow!("a thread panicked"))?;
        ensure!(
            outcome.is_err(),
            "a reader that failed is told of no success"
        );
        checked
    })
}

fn others_go_on(own: &Detached) -> Result<()> {
    let start = Instant::now();
    for number in 0..5 {
        let text = number.to_string();
        own.run(["echo", &text])?.says(&text)?;
        let mut small = Vec::new();
        files(own)?.read(b"small", 0, None, &mut small)?;
        ensure!(small == b"small\n");
    }
    let took = start.elapsed();
    ensure!(
        took < Duration::from_secs(60),
        "they were held up for {took:?}"
    );
    Ok(())
}
