//! What is asked of a supervisor while clients run commands in its sandbox.

use std::time::{Duration, Instant};

use anyhow::ensure;
use sovereign_tests::call::read_exactly;

use super::Desk;
use crate::suite::{Outcome, PASSED};

/// The time without use begins when what a client ran has ended, not when it began.
pub(super) fn long_command_is_use_to_its_end(desk: &Desk) -> Outcome {
    let idle = ["--idle-timeout", "2s"];
    desk.says(&[&["create", "--tier", desk.tier, "--name", "a"][..], &idle].concat())?;
    desk.says(&["start", "a"])?;
    desk.says(&["exec", "a", "--", "sleep", "3"])?;
    let begun = Instant::now();
    ensure!(desk.says(&["wait", "a"])? == "124", "it had nothing to do");
    let idle = begun.elapsed();
    ensure!(
        idle > Duration::from_millis(1500),
        "it ended after {idle:?}"
    );
    PASSED
}

/// Says `ready` and `hup`, and ends with 9 when it is asked to.
const GENTLE: &str =
    "trap 'exit 9' TERM; trap 'echo hup' HUP; echo ready; while :; do sleep 0.05; done";

pub(super) fn what_a_client_runs_is_told_to_end(desk: &Desk) -> Outcome {
    let mut own = desk
        .run(&["--name", "a", "--", "sh", "-c", GENTLE])
        .start()?;
    let mut stdout = own.take_stdout()?;
    ensure!(read_exactly(&mut stdout, 6)? == b"ready\n");
    desk.says(&["kill", "-s", "HUP", "a"])?;
    ensure!(read_exactly(&mut stdout, 4)? == b"hup\n");
    desk.says(&["stop", "a"])?;
    ensure!(own.wait()?.code() == Some(9), "it had its say");
    ensure!(desk.says(&["wait", "a"])? == "9", "its result is kept");

    desk.good(desk.call(["create", "--tier", desk.tier, "--name", "b"]))?;
    desk.says(&["start", "b"])?;
    let mut exec = desk.call(["exec", "b", "--", "sh", "-c", GENTLE]).start()?;
    let mut stdout = exec.take_stdout()?;
    ensure!(read_exactly(&mut stdout, 6)? == b"ready\n");
    desk.says(&["kill", "-s", "HUP", "b"])?;
    ensure!(read_exactly(&mut stdout, 4)? == b"hup\n");
    desk.says(&["stop", "b"])?;
    ensure!(exec.wait()?.code() == Some(9), "it had its say");

    // Whoever watches files is not told to end, and is not waited for.
    desk.says(&["start", "b"])?;
    let mut watch = desk.call(["fs", "watch", "b", "."]).start()?;
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    desk.says(&["stop", "-t", "20s", "b"])?;
    ensure!(
        begun.elapsed() < Duration::from_secs(15),
        "it was waited for"
    );
    watch.wait()?;
    PASSED
}
