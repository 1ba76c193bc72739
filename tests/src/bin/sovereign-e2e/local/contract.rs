//! The contract of exec, and that nothing is left: confined or not.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sovereign_tests::arguments::arguments;
use sovereign_tests::call::{Sovereign, read_exactly};
use sovereign_tests::host::processes;

use super::{Local, Traces, as_each_user};
use crate::suite::{Outcome, PASSED, Suite};

pub(crate) fn add(suite: &mut Suite) {
    suite.host(
        "local",
        &[
            ("arguments_arrive_unchanged", arguments_arrive_unchanged),
            (
                "environment_is_only_what_was_said",
                environment_is_only_what_was_said,
            ),
            (
                "exit_codes_follow_the_contract",
                exit_codes_follow_the_contract,
            ),
            (
                "input_reaches_the_command_live",
                input_reaches_the_command_live,
            ),
            (
                "killed_sovereign_leaves_nothing",
                killed_sovereign_leaves_nothing,
            ),
            ("fifty_at_once_leave_nothing", fifty_at_once_leave_nothing),
        ],
    );
}

fn arguments_arrive_unchanged(sovereign: &Sovereign) -> Outcome {
    as_each_user(sovereign, |local| {
        let mut runner = TestRunner::new(Config {
            cases: 24,
            failure_persistence: None,
            ..Config::default()
        });
        runner
            .run(&arguments(), |arguments| {
                arrive(local, &arguments).map_err(|error| TestCaseError::fail(format!("{error:#}")))
            })
            .map_err(|error| anyhow!("{error}"))?;
        PASSED
    })
}

fn arrive(local: &Local, arguments: &[Vec<u8>]) -> Result<()> {
    let start = ["-q", "--", "printf", "%s\\0"].map(OsStr::new);
    let given = arguments.iter().map(|argument| OsStr::from_bytes(argument));
    let output = local.run(start.into_iter().chain(given)).output()?;
    let mut expected = Vec::new();
    for argument in arguments {
        expected.extend(argument);
        expected.push(0);
    }
    ensure!(output.stdout == expected, "{arguments:?} became {output}");
    Ok(())
}

fn environment_is_only_what_was_said(sovereign: &Sovereign) -> Outcome {
    as_each_user(sovereign, |local| {
        let call = local.run(["-q", "-e", "A=1 2", "-e", "TAKEN", "--", "env"]);
        let output = call.env("TAKEN", "along").env("SECRET", "x").output()?;
        let text = output.text();
        let mut names: Vec<_> = text
            .lines()
            .filter_map(|line| Some(line.split_once('=')?.0))
            // Whether there is one depends on the user's home (python.rs).
            .filter(|name| *name != "PYTHONPATH")
            .collect();
        names.sort_unstable();
        ensure!(
            names == ["A", "HOME", "LOGNAME", "PATH", "TAKEN", "USER"],
            "{output}"
        );
        ensure!(
            text.contains("A=1 2\n") || text.ends_with("A=1 2"),
            "{output}"
        );
        PASSED
    })
}

fn exit_codes_follow_the_contract(sovereign: &Sovereign) -> Outcome {
    as_each_user(sovereign, |local| {
        let cases: [(&[&str], i32); 8] = [
            (&["--", "true"], 0),
            (&["--", "sh", "-c", "exit 3"], 3),
            (&["--", "sh", "-c", "kill -9 $$"], 137),
            (&["--", "sh", "-c", "kill -TERM $$"], 143),
            (&["--", "no-such-command"], 127),
            (&["--", "/usr"], 126),
            (&["-w", "/no/such/folder", "--", "true"], 125),
            (&["--timeout", "200ms", "--", "sleep", "60"], 124),
        ];
        for (args, expected) in cases {
            let output = local.run(args).output()?;
            ensure!(output.code() == Some(expected), "{output}");
        }
        PASSED
    })
}

fn input_reaches_the_command_live(sovereign: &Sovereign) -> Outcome {
    as_each_user(sovereign, |local| {
        let output = local
            .run(["-q", "-i", "--", "cat"])
            .stdin("a\nb")
            .output()?;
        ensure!(output.stdout == b"a\nb", "{output}");
        let output = local.run(["-q", "--", "cat"]).stdin("unasked").output()?;
        ensure!(
            output.stdout.is_empty() && output.code() == Some(0),
            "{output}"
        );
        PASSED
    })
}

fn killed_sovereign_leaves_nothing(sovereign: &Sovereign) -> Outcome {
    as_each_user(sovereign, |local| {
        let before = Traces::look()?;
        let script = "echo x > file; (setsid sleep 7008 &); sleep 7008 & echo up; sleep 7008";
        let mut running = local.sh(script).start()?;
        let mut stdout = running.take_stdout()?;
        ensure!(read_exactly(&mut stdout, 3)? == b"up\n");
        drop(running);
        gone("sleep\x007008\x00")?;
        before.are_gone()
    })
}

fn fifty_at_once_leave_nothing(sovereign: &Sovereign) -> Outcome {
    as_each_user(sovereign, |local| {
        let before = Traces::look()?;
        let running: Vec<_> = (0..50)
            .map(|number| local.sh(&format!("echo {number}; sleep 0.5")).start())
            .collect::<Result<_>>()?;
        for (number, mut running) in running.into_iter().enumerate() {
            let mut text = String::new();
            std::io::Read::read_to_string(&mut running.take_stdout()?, &mut text)?;
            ensure!(text.trim() == number.to_string(), "{number}: {text:?}");
            let status = running.wait()?;
            ensure!(status.success(), "{number}: {status}");
        }
        before.are_gone()
    })
}

/// That within a second no process is left with this command line.
fn gone(command_line: &str) -> Outcome {
    let end = Instant::now() + Duration::from_secs(1);
    loop {
        let left = processes()?.into_iter().find(|process| {
            let path = format!("/proc/{}/cmdline", process.pid);
            fs::read(path).is_ok_and(|line| OsStr::from_bytes(&line) == command_line)
        });
        let Some(left) = left else { return PASSED };
        if Instant::now() > end {
            return Err(anyhow!("{left:?}")).context("still running");
        }
        thread::sleep(Duration::from_millis(20));
    }
}
