//! From a start to an end, whoever is there to see it.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use sovereign_tests::host::is_running;

use rustix::process::Signal;

use super::Desk;
use crate::suite::{Outcome, PASSED};

pub(super) fn sandbox_outlives_its_creator(desk: &Desk) -> Outcome {
    let id = desk.start(&["--name", "a", "--", "sh", "-c", "echo up; exec sleep 1000"])?;
    ensure!(
        desk.says(&["ls", "-q"])? == id,
        "it is not in the list as {id}"
    );
    ensure!(desk.state_of("a")? == "running", "{}", desk.state_of("a")?);
    ensure!(
        desk.inspect("a")?["tier"] == desk.tier,
        "{}",
        desk.inspect("a")?
    );

    let output = desk.call(["exec", "-i", "a", "--", "sh", "-c", "cat; exit 3"]);
    let output = output.stdin(b"in\xff".to_vec()).output()?;
    ensure!(output.code() == Some(3), "{output}");
    ensure!(output.stdout == b"in\xff", "{output}");
    desk.eventually("its output is kept", || {
        Ok(desk.says(&["logs", "a"])? == "up")
    })?;
    ensure!(desk.says(&["top", "a"])?.contains("sleep 1000"), "top");
    ensure!(
        desk.says(&["stats", "--no-stream"])?.contains(" a "),
        "stats"
    );

    desk.says(&["kill", "a"])?;
    ensure!(desk.state_of("a")? == "exited", "{}", desk.state_of("a")?);
    desk.says(&["rm", "a"])?;
    ensure!(desk.says(&["ls", "-aq"])?.is_empty(), "it is still listed");
    PASSED
}

pub(super) fn end_is_kept_and_told(desk: &Desk) -> Outcome {
    desk.start(&[
        "--name",
        "a",
        "--",
        "sh",
        "-c",
        "sleep 0.3; echo out; echo err >&2; exit 7",
    ])?;
    ensure!(desk.says(&["wait", "a"])? == "7", "wait");
    let inspected = desk.inspect("a")?;
    ensure!(inspected["exit_code"] == 7, "{inspected}");
    let logs = desk.call(["logs", "a"]).output()?;
    ensure!(
        (logs.text(), logs.errors().trim()) == ("out".to_owned(), "err"),
        "{logs}"
    );
    ensure!(desk.says(&["logs", "--tail", "all", "a"])? == "out", "all");
    ensure!(
        desk.says(&["logs", "--tail", "0", "a"])?.is_empty(),
        "no lines were asked for"
    );
    ensure!(desk.says(&["ls", "-a"])?.contains("exited (7)"), "ls -a");
    ensure!(
        desk.says(&["wait", "a"])? == "7",
        "what has ended can be waited for"
    );
    // It starts again, in the tier that it had.
    desk.says(&["start", "a"])?;
    ensure!(desk.says(&["wait", "a"])? == "7", "wait");
    PASSED
}

pub(super) fn command_goes_on_alone_and_its_result_is_kept(desk: &Desk) -> Outcome {
    desk.start(&["--name", "a", "--", "sleep", "1000"])?;
    let script = "sleep 0.3; echo one; sleep 0.3; echo two; exit 5";
    let number = desk.says(&["exec", "-d", "a", "--", "sh", "-c", script])?;
    ensure!(
        desk.says(&["logs", "-f", "a", &number])? == "one\ntwo",
        "logs -f"
    );
    ensure!(
        desk.says(&["wait", "--command", &number, "a"])? == "5",
        "wait"
    );
    let missing = desk
        .call(["exec", "-d", "a", "--", "no-such-command"])
        .output()?;
    ensure!(missing.code() == Some(127), "{missing}");
    let commands = desk.inspect("a")?["commands"].clone();
    let known = commands.as_array().context("no commands")?;
    ensure!(known.len() == 2, "{commands}");
    ensure!(known[1]["result"]["exit_code"] == 5, "{commands}");
    let attached = desk.call(["attach", "a", &number]).output()?;
    ensure!(attached.code() == Some(5), "{attached}");
    PASSED
}

pub(super) fn attached_user_types_and_reads(desk: &Desk) -> Outcome {
    let script = "while read -r line; do echo \"<$line>\"; done; exit 4";
    desk.start(&["--name", "a", "-i", "--", "sh", "-c", script])?;
    let lost = desk.call(["exec", "-d", "-i", "a", "--", "cat"]);
    let lost = lost.stdin("lost\n").output()?;
    ensure!(lost.code() == Some(0), "{lost}");
    ensure!(lost.errors().contains("`sovereign attach a 1`"), "{lost}");
    let attached = desk.call(["attach", "a"]).stdin("one\ntwo\n").output()?;
    ensure!(attached.code() == Some(4), "{attached}");
    ensure!(attached.text() == "<one>\n<two>", "{attached}");
    ensure!(
        desk.says(&["wait", "a"])? == "4",
        "the sandbox ends with its command"
    );
    PASSED
}

pub(super) fn results_outlive_the_sandbox_and_numbers_go_on(desk: &Desk) -> Outcome {
    desk.start(&["--name", "a", "--", "sleep", "1000"])?;
    let left = |script: &str| desk.says(&["exec", "-d", "a", "--", "sh", "-c", script]);
    ensure!(left("echo first; exit 5")? == "1");
    ensure!(desk.says(&["wait", "--command", "1", "a"])? == "5");
    ensure!(left("sleep 1000")? == "2");
    desk.says(&["kill", "a"])?;
    ensure!(desk.says(&["wait", "--command", "1", "a"])? == "5");
    ensure!(desk.says(&["logs", "a", "1"])? == "first");
    let commands = &desk.inspect("a")?["commands"];
    ensure!(commands[1]["result"]["exit_code"] == 5, "{commands}");
    let ended_with_it = desk.call(["wait", "--command", "2", "a"]).output()?;
    ensure!(ended_with_it.code() == Some(125), "{ended_with_it}");
    ensure!(
        ended_with_it.errors().contains("command 2"),
        "{ended_with_it}"
    );
    let none = desk.call(["wait", "--command", "7", "a"]).output()?;
    ensure!(none.errors().contains("no command 7"), "{none}");
    desk.says(&["start", "a"])?;
    ensure!(left("exit 6")? == "3", "its number is another's");
    ensure!(desk.says(&["wait", "--command", "3", "a"])? == "6");
    ensure!(desk.says(&["wait", "--command", "1", "a"])? == "5");
    ensure!(desk.says(&["logs", "a", "1"])? == "first");
    PASSED
}

/// Whoever starts a command and stays with it reads all that it writes, however soon it ends.
pub(super) fn start_and_stay_tells_all(desk: &Desk) -> Outcome {
    let script = "echo out; echo err >&2; exit 3";
    let made = ["create", "--tier", desk.tier, "--name"];
    let command = ["--", "sh", "-c", script];
    desk.says(&[made.as_slice(), &["a"], &command].concat())?;
    for _ in 0..4 {
        let stayed = desk.call(["start", "-q", "-a", "a"]).output()?;
        ensure!(stayed.code() == Some(3), "{stayed}");
        ensure!(
            (stayed.text().as_str(), stayed.errors().trim()) == ("out", "err"),
            "{stayed}"
        );
        let stayed = desk.call(["start", "--json", "-a", "a"]).output()?;
        let told = stayed.json()?;
        ensure!(
            told["stdout"] == "out\n" && told["exit_code"] == 3,
            "{told}"
        );
        ensure!(told["tier"] == desk.tier, "{told}");
    }
    desk.says(&[made.as_slice(), &["b", "--rm"], &command].concat())?;
    let stayed = desk.call(["start", "-q", "-a", "b"]).output()?;
    ensure!(stayed.code() == Some(3), "{stayed}");
    ensure!(stayed.text() == "out", "{stayed}");
    desk.eventually("it is removed", || {
        Ok(desk.says(&["ls", "-aq"])?.lines().count() == 1)
    })?;
    desk.says(&[made.as_slice(), &["c"]].concat())?;
    for wrong in [["start", "-a", "c"].as_slice(), &["start", "-a", "a", "c"]] {
        let refused = desk.call(wrong).output()?;
        ensure!(refused.code() == Some(125), "{refused}");
    }
    ensure!(desk.says(&["ls", "-q"])?.is_empty(), "nothing was started");
    PASSED
}

pub(super) fn stop_is_gentle_first(desk: &Desk) -> Outcome {
    let gentle = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    desk.start(&["--name", "gentle", "--", "sh", "-c", gentle])?;
    desk.start(&["--name", "deaf", "--", "sh", "-c", deaf])?;
    for name in ["gentle", "deaf"] {
        desk.eventually("it is ready", || Ok(desk.says(&["logs", name])? == "ready"))?;
    }
    desk.says(&["stop", "-t", "1s", "gentle", "deaf"])?;
    ensure!(desk.says(&["wait", "gentle"])? == "9", "it had its say");
    ensure!(desk.says(&["wait", "deaf"])? == "143", "it was ended");
    desk.says(&["stop", "deaf"])?;
    PASSED
}

pub(super) fn killed_supervisor_leaves_a_dead_sandbox_that_can_start_again(desk: &Desk) -> Outcome {
    desk.start(&["--name", "a", "--", "sleep", "1000"])?;
    let holder = desk.inspect("a")?["process"]
        .as_u64()
        .context("no process")?;
    for pid in desk.supervisors()? {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("no process id")?;
        rustix::process::kill_process(pid, Signal::KILL)?;
    }
    desk.sees_it_die(u32::try_from(holder)?)?;
    let exec = desk.call(["exec", "a", "--", "true"]).output()?;
    ensure!(exec.code() == Some(125), "{exec}");
    ensure!(
        exec.errors().contains("killed") && exec.errors().contains("sovereign start a"),
        "{exec}"
    );
    desk.says(&["start", "a"])?;
    desk.says(&["exec", "a", "--", "true"])?;
    PASSED
}

/// A supervisor that was stopped holds nobody up, and does not keep its sandbox from being ended.
pub(super) fn stopped_supervisor_is_told_and_can_be_killed(desk: &Desk) -> Outcome {
    let stop = || -> anyhow::Result<()> {
        for pid in desk.supervisors()? {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("no process")?;
            rustix::process::kill_process(pid, Signal::STOP)?;
        }
        Ok(())
    };
    desk.start(&["--name", "a", "--", "sleep", "1000"])?;
    stop()?;
    desk.start(&["--name", "well", "--", "sleep", "1000"])?;
    for args in [
        ["exec", "a", "--", "true"].as_slice(),
        &["attach", "a"],
        &["stop", "a"],
    ] {
        let held_up = desk.call(args).deadline(Duration::from_secs(20)).output()?;
        ensure!(held_up.code() == Some(125), "{held_up}");
        ensure!(held_up.errors().contains("does not answer"), "{held_up}");
        ensure!(held_up.errors().contains("kill -CONT"), "{held_up}");
    }
    let stats = desk.says(&["stats", "--no-stream"])?;
    ensure!(stats.contains(" well "), "{stats}");
    ensure!(desk.state_of("a")? == "running", "inspect");
    desk.says(&["kill", "a"])?;
    ensure!(desk.state_of("a")? == "dead", "{}", desk.state_of("a")?);
    desk.says(&["start", "a"])?;
    stop()?;
    desk.says(&["rm", "-f", "a", "well"])?;
    PASSED
}

pub(super) fn owner_that_is_killed_takes_a_named_sandbox_along(desk: &Desk) -> Outcome {
    let mut owner = desk.run(&["--name", "a", "--", "sleep", "1000"]).start()?;
    desk.eventually("it runs", || {
        Ok(desk.says(&["ls", "-q"])?.lines().count() == 1)
    })?;
    desk.eventually("it can be used", || {
        Ok(desk.call(["exec", "a", "--", "true"]).output()?.code() == Some(0))
    })?;
    owner.signal(Signal::KILL)?;
    owner.wait()?;
    desk.eventually("it has ended", || Ok(desk.state_of("a")? == "exited"))?;
    ensure!(desk.says(&["wait", "a"])? == "137", "wait");
    desk.says(&["rm", "a"])?;
    // With its command it ends like any other, and the result is kept.
    let output = desk
        .run(&["--name", "b", "--", "sh", "-c", "exit 6"])
        .output()?;
    ensure!(output.code() == Some(6), "{output}");
    ensure!(desk.says(&["wait", "b"])? == "6", "wait");
    PASSED
}

pub(super) fn lives_are_bounded(desk: &Desk) -> Outcome {
    desk.start(&[
        "--name",
        "long",
        "--max-duration",
        "1s",
        "--",
        "sleep",
        "1000",
    ])?;
    ensure!(desk.says(&["wait", "long"])? == "124", "its time was over");
    let attached = desk.run(&["--max-duration", "1s", "--", "sleep", "50"]);
    let attached = attached.output()?;
    ensure!(attached.code() == Some(124), "{attached}");
    ensure!(attached.errors().contains("--max-duration"), "{attached}");
    let attached = desk.run(&[
        "--rm",
        "--json",
        "--max-duration",
        "1s",
        "--",
        "sleep",
        "50",
    ]);
    let told = attached.output()?.json()?;
    ensure!(told["tier"] == desk.tier, "{told}");
    ensure!(told["exit_code"] == 124, "{told}");
    desk.good(desk.call([
        "create",
        "--tier",
        desk.tier,
        "--name",
        "idle",
        "--idle-timeout",
        "1s",
    ]))?;
    desk.says(&["start", "idle"])?;
    desk.says(&["exec", "idle", "--", "sleep", "2"])?;
    ensure!(
        desk.says(&["wait", "idle"])? == "124",
        "it had nothing to do"
    );
    PASSED
}

pub(super) fn removed_when_it_ends_if_asked(desk: &Desk) -> Outcome {
    desk.start(&["--rm", "--name", "a", "--", "true"])?;
    desk.eventually("it is gone", || Ok(desk.says(&["ls", "-aq"])?.is_empty()))?;
    desk.eventually("its folder is gone", || {
        let mut left = fs::read_dir(desk.state.path().join("sandboxes"))?;
        Ok(left.next().is_none())
    })?;
    PASSED
}

pub(super) fn removed_folder_ends_its_sandbox(desk: &Desk) -> Outcome {
    desk.start(&["--name", "a", "--", "sleep", "1000"])?;
    let holder = desk.inspect("a")?["process"]
        .as_u64()
        .context("no process")?;
    let sandboxes = desk.state.path().join("sandboxes");
    // Elsewhere, it goes on.
    let elsewhere = desk.state.path().join("elsewhere");
    fs::rename(&sandboxes, &elsewhere)?;
    thread::sleep(Duration::from_secs(11));
    ensure!(desk.supervisors()?.len() == 1, "it has ended");
    fs::rename(&elsewhere, &sandboxes)?;
    ensure!(desk.state_of("a")? == "running", "inspect");
    // Removed, it ends.
    fs::remove_dir_all(&sandboxes)?;
    desk.eventually("its supervisor has ended", || {
        Ok(desk.supervisors()?.is_empty())
    })?;
    let holder = u32::try_from(holder)?;
    desk.eventually("its process is gone", || Ok(!is_running(holder)))?;
    PASSED
}

/// With an agent that takes its time, for which a start waits.
pub(super) fn interrupted_start_leaves_nothing(desk: &Desk) -> Outcome {
    let beside = || desk.program().with_file_name("sovereign-agent");
    let agent = env::var_os("SOVEREIGN_AGENT").map_or_else(beside, Into::into);
    let slow = desk.state.path().join("slow-agent");
    let script = format!("#!/bin/sh\nsleep 2\nexec {} \"$@\"\n", agent.display());
    fs::write(&slow, script)?;
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755))?;
    let begun = desk.run(&["--name", "a", "--", "true"]);
    let mut begun = begun.env("SOVEREIGN_AGENT", &slow).start()?;
    desk.eventually("it is being started", || {
        Ok(!desk.supervisors()?.is_empty())
    })?;
    begun.signal(Signal::INT)?;
    let status = begun.wait()?;
    ensure!(status.code() == Some(130), "{status}");
    let listed = desk.says(&["ls", "-aq"])?;
    ensure!(listed.is_empty(), "it is still listed: {listed}");
    let again = desk.good(desk.run(&["--name", "a", "--", "echo", "up"]))?;
    ensure!(again == "up", "{again}");
    PASSED
}
