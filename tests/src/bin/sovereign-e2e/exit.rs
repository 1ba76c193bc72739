//! How a command's end becomes ours: the exit codes of the contract.

use std::time::Duration;

use anyhow::ensure;
use sovereign_tests::call::Sovereign;

use crate::suite::{Outcome, PASSED, Suite};

pub(crate) fn add(suite: &mut Suite) {
    suite.guest(
        "exit",
        &[
            (
                "the_commands_own_code_is_ours",
                the_commands_own_code_is_ours,
            ),
            (
                "missing_command_is_127_and_named",
                missing_command_is_127_and_named,
            ),
            (
                "file_that_cannot_run_is_126_and_named",
                file_that_cannot_run_is_126_and_named,
            ),
            ("sigkill_is_137", sigkill_is_137),
            ("timeout_is_124", timeout_is_124),
            (
                "timeout_with_kill_after_lets_the_command_clean_up",
                timeout_with_kill_after,
            ),
            ("engine_failure_is_125", engine_failure_is_125),
        ],
    );
}

fn the_commands_own_code_is_ours(sovereign: &Sovereign) -> Outcome {
    for code in [1, 3, 124, 125, 255] {
        let output = sovereign
            .run(["--", "sh", "-c", &format!("exit {code}")])
            .output()?;
        ensure!(output.code() == Some(code), "{output}");
    }
    PASSED
}

fn missing_command_is_127_and_named(sovereign: &Sovereign) -> Outcome {
    let output = sovereign.run(["--", "no-such-command", "arg"]).output()?;
    ensure!(output.code() == Some(127), "{output}");
    ensure!(output.errors().contains("no-such-command"), "{output}");
    let output = sovereign.run(["--", "/no/such/path"]).output()?;
    ensure!(output.code() == Some(127), "{output}");
    ensure!(output.errors().contains("/no/such/path"), "{output}");
    PASSED
}

fn file_that_cannot_run_is_126_and_named(sovereign: &Sovereign) -> Outcome {
    for file in ["/etc/passwd", "/tmp"] {
        let output = sovereign.run(["--", file]).output()?;
        ensure!(output.code() == Some(126), "{output}");
        ensure!(output.errors().contains(file), "{output}");
    }
    PASSED
}

fn sigkill_is_137(sovereign: &Sovereign) -> Outcome {
    let output = sovereign.run(["--", "sh", "-c", "kill -9 $$"]).output()?;
    ensure!(output.code() == Some(137), "{output}");
    PASSED
}

fn timeout_is_124(sovereign: &Sovereign) -> Outcome {
    let output = sovereign
        .run(["--timeout", "1s", "--", "sleep", "1000"])
        .output()?;
    ensure!(output.code() == Some(124), "{output}");
    ensure!(output.wall < Duration::from_secs(30), "{output}");
    PASSED
}

fn timeout_with_kill_after(sovereign: &Sovereign) -> Outcome {
    let script = "trap 'echo cleaned; exit 0' TERM; echo up; while :; do sleep 0.1; done";
    let args = [
        "--timeout",
        "1s",
        "--kill-after",
        "10s",
        "--",
        "sh",
        "-c",
        script,
    ];
    let output = sovereign.run(args).output()?;
    ensure!(output.code() == Some(124), "{output}");
    ensure!(output.text() == "up\ncleaned", "{output}");
    PASSED
}

fn engine_failure_is_125(sovereign: &Sovereign) -> Outcome {
    let output = sovereign
        .run(["--image", "no-such-image", "--", "true"])
        .output()?;
    ensure!(output.code() == Some(125), "{output}");
    ensure!(output.errors().contains("no-such-image"), "{output}");
    PASSED
}
