//! Limits of single commands.

use anyhow::ensure;

use super::Desk;
use crate::suite::{Outcome, PASSED};

/// How often a shell can start one more.
const FORKS: &str =
    "i=0; while [ $i -lt 30 ]; do sleep 7019 & i=$((i+1)); done 2>/dev/null; echo all";

pub(super) fn limits_of_a_command_hold(desk: &Desk) -> Outcome {
    let limits = [
        "--rlimit=nofile=77:99",
        "--rlimit=core=0",
        "--rlimit=fsize=1K",
    ];
    let script =
        "ulimit -Sn; ulimit -Hn; ulimit -c; (yes | head -c 4096 > big) 2>/dev/null; wc -c < big";
    let own = ["--name", "a", "--", "sh", "-c", "ulimit -Sn; sleep 1000"];
    desk.start(&[&limits[..], &own].concat())?;
    desk.eventually("its own command's limit is kept", || {
        Ok(desk.says(&["logs", "a"])?.trim() == "77")
    })?;
    // Every command has its own, and none is anybody else's.
    let limited = [
        &["exec"],
        limits.as_slice(),
        &["a", "--", "sh", "-c", script],
    ]
    .concat();
    let said = desk.says(&limited)?;
    let words: Vec<_> = said.split_whitespace().collect();
    ensure!(words == ["77", "99", "0", "1024"], "{said}");
    let free = desk.says(&["exec", "a", "--", "sh", "-c", "ulimit -Sn"])?;
    ensure!(free.trim() == "1024", "{free}");

    let above = desk
        .call(["exec", "--rlimit=nofile=99999999999", "a", "--", "true"])
        .output()?;
    ensure!(above.code() == Some(125), "{above}");
    ensure!(
        above
            .errors()
            .contains("cannot limit the command to nofile=99999999999: the "),
        "{above}"
    );
    desk.says(&["rm", "-f", "a"])?;
    PASSED
}

pub(super) fn pid_limit_holds_or_is_refused(desk: &Desk) -> Outcome {
    desk.start(&["--name", "a", "--", "sleep", "1000"])?;
    let bounded = ["exec", "--pid-limit=8", "a", "--", "sh", "-c", FORKS];
    let output = desk.call(bounded).output()?;
    if desk.tier != "microvm" {
        ensure!(output.code() == Some(125), "{output}");
        let words = format!("tier {} cannot honour --pid-limit", desk.tier);
        ensure!(output.errors().contains(&words), "{output}");
        let refused = desk.run(&["--pid-limit=8", "--", "true"]).output()?;
        ensure!(refused.code() == Some(125), "{refused}");
        ensure!(refused.errors().contains(&words), "{refused}");
        return PASSED;
    }
    // A shell that cannot fork gives up.
    ensure!(
        output.code() != Some(0) && output.text() != "all",
        "{output}"
    );
    let running = desk.says(&[
        "exec",
        "a",
        "--",
        "sh",
        "-c",
        "ps -eo args | grep -c '^sleep 7019'",
    ])?;
    ensure!(running.trim() == "7", "{running} of 8 are not the shell");
    // What was left behind is bound on; the next command has a bound of its own.
    let others = desk.call(bounded).output()?;
    ensure!(others.text() != "all", "{others}");
    let free = desk.says(&["exec", "a", "--", "sh", "-c", FORKS])?;
    ensure!(free.trim() == "all", "{free}");
    let one = desk.says(&["exec", "--pid-limit=1", "a", "--", "echo", "alone"])?;
    ensure!(one.trim() == "alone", "{one}");
    desk.says(&["rm", "-f", "a"])?;
    PASSED
}
