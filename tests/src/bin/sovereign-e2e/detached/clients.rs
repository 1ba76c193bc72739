//! What is asked of a supervisor while clients run commands in its sandbox.

use std::fs;
use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
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

/// A supervisor without descriptors lets those at its door wait, and its sandbox lives.
pub(super) fn clients_wait_for_descriptors(desk: &Desk) -> Outcome {
    desk.start(&["--name", "a", "--", "sleep", "1000"])?;
    let supervisor = *desk.supervisors()?.first().context("no supervisor")?;
    let pid = Pid::from_raw(i32::try_from(supervisor)?);
    let limit = prlimit_of(supervisor)?;
    // What runs in a sandbox has the same limit whenever it began.
    let ulimit = ["sh", "-c", "ulimit -n"];
    let inside = desk.says(&[&["exec", "a", "--"][..], &ulimit].concat())?;
    let first = desk.good(desk.run(&[&["--"][..], &ulimit].concat()))?;
    ensure!(inside == first, "{inside}, and {first}");

    let open = fs::read_dir(format!("/proc/{supervisor}/fd"))?.count();
    let few = Rlimit {
        current: Some(u64::try_from(open)? + 4),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    prlimit(pid, Resource::Nofile, few)?;
    let waiting = (0..12).map(|_| desk.call(["exec", "a", "--", "sleep", "1"]).start());
    let waiting: Vec<_> = waiting.collect::<Result<_, _>>()?;
    thread::sleep(Duration::from_millis(500));
    for mut exec in waiting {
        // Some are told that there is no room for them.
        exec.wait()?;
    }
    ensure!(desk.state_of("a")? == "running", "{}", desk.state_of("a")?);
    ensure!(limit.0 == limit.1, "{limit:?} is not what it may have");
    desk.says(&["exec", "a", "--", "true"])?;
    PASSED
}

/// The limit of a process's descriptors, soft and hard.
fn prlimit_of(process: u32) -> anyhow::Result<(String, String)> {
    let limits = fs::read_to_string(format!("/proc/{process}/limits"))?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let mut words = line.context("no limit")?.split_whitespace().skip(3);
    let mut next = || Some(words.next()?.to_owned());
    next().zip(next()).context("no limits")
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
    thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    desk.says(&["stop", "-t", "20s", "b"])?;
    ensure!(
        begun.elapsed() < Duration::from_secs(15),
        "it was waited for"
    );
    watch.wait()?;
    PASSED
}

/// However long commands are and however many, they can be held and asked for.
pub(super) fn many_long_commands_are_held_and_told(desk: &Desk) -> Outcome {
    desk.start(&["--name", "a", "--", "sleep", "1000"])?;
    let (long, huge) = ("x".repeat(6000), "y".repeat(100_000));
    for _ in 0..40 {
        desk.says(&["exec", "-d", "a", "--", "true", &long])?;
    }
    let huge = ["exec", "-d", "a", "--", "sh", "-c", "exit 3", &huge, &huge];
    let number = desk.says(&huge)?;
    desk.says(&["wait", "--command", &number, "a"])?;
    let commands = desk.inspect("a")?["commands"].clone();
    let known = commands.as_array().context("no commands")?;
    ensure!(known.len() > 32, "{} commands", known.len());
    let last = known.last().context("no command")?["argv"].clone();
    let argv = last.as_array().context("no arguments")?;
    ensure!(argv.len() == 4 && argv[2] == "exit 3", "{last}");
    let is_cut = argv[3].as_str().is_some_and(|it| it.ends_with('…'));
    ensure!(is_cut, "{last}");
    let attached = desk.call(["attach", "a", &number]).output()?;
    ensure!(attached.code() == Some(3), "{attached}");
    PASSED
}

/// A command that reads nothing of its input shows what it writes, and gets signals.
pub(super) fn what_nobody_reads_holds_nobody_up(desk: &Desk) -> Outcome {
    let script = "trap 'exit 7' TERM; while :; do echo tick; sleep 0.05; done";
    desk.start(&["--name", "a", "-i", "--", "sh", "-c", script])?;
    let mut attached = desk.call(["attach", "a"]).start()?;
    let mut typed = attached.take_stdin()?;
    let feeder = thread::spawn(move || {
        // It ends when nobody reads any more.
        let _ = typed.write_all(&vec![b'x'; 8 << 20]);
    });
    let mut stdout = attached.take_stdout()?;
    thread::sleep(Duration::from_secs(2));
    attached.signal(Signal::TERM)?;
    let status = attached.wait_for(Duration::from_secs(20))?;
    let status = status.context("the signal was not passed on")?;
    ensure!(status.code() == Some(7), "{status}");
    let mut shown = String::new();
    stdout.read_to_string(&mut shown)?;
    ensure!(shown.lines().count() > 2, "{shown}");
    feeder.join().ok().context("the feeder panicked")?;
    // What is read slowly arrives whole.
    let script = "sleep 1; wc -c";
    desk.start(&["--name", "b", "-i", "--", "sh", "-c", script])?;
    let attached = desk.call(["attach", "b"]).stdin(vec![b'x'; 3 << 20]);
    let attached = attached.output()?;
    ensure!(attached.text() == (3 << 20).to_string(), "{attached}");
    PASSED
}
