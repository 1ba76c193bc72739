//! The contract of exec with an engine that is treated as one of another machine: everything passes
//! through its API.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::containers::{Case, stdout, text};
use crate::machine::Machine;

pub(crate) const CASES: &[Case] = &[
    ("remote::exit_codes_are_the_commands_own", exit_codes),
    ("remote::bytes_pass_unchanged_both_ways", bytes),
    ("remote::streams_are_kept_apart_and_live", streams),
    ("remote::signals_reach_the_command", signals),
    ("remote::a_timeout_ends_the_whole_tree", timeouts),
    ("remote::commands_cannot_join_the_agent", intruder),
    ("remote::the_agent_is_not_theirs_to_change", agent),
    ("remote::a_killed_engine_leaves_nothing", killed),
    ("remote::files_go_in_and_out", files),
    ("remote::input_that_nobody_takes_costs_no_output", unread),
];

fn command(machine: &Machine, arguments: &[&str]) -> Command {
    let mut command = machine.command(arguments);
    command.env(
        machine.daemon.engine().variable(),
        machine.daemon.remote_address(),
    );
    command
}

fn shell(machine: &Machine, flags: &[&str], line: &str) -> Output {
    let arguments = [flags, &["--", "sh", "-c", line]].concat();
    command(machine, &arguments).output().unwrap()
}

fn exit_codes(machine: &Machine) {
    assert_eq!(
        stdout(&shell(machine, &[], "echo one; pwd")),
        "one\n/home/sandbox\n"
    );
    let code = |line: &str| shell(machine, &[], line).status.code();
    assert_eq!(code("exit 7"), Some(7));
    assert_eq!(code("kill -9 $$"), Some(137));
    let output = command(machine, &["--", "/no/such"]).output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(machine.is_clean_soon(), "{:?}", machine.daemon.containers());
}

fn bytes(machine: &Machine) {
    let sent: Vec<u8> = (0..=255).cycle().take((3 << 20) + 7).collect();
    let mut child = command(machine, &["-i", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            input.write_all(&sent).unwrap();
            drop(input);
        });
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success());
    assert!(
        output.stdout == sent,
        "{} bytes came back",
        output.stdout.len()
    );
}

fn streams(machine: &Machine) {
    let output = shell(machine, &[], "echo out; echo err >&2");
    assert_eq!(
        (text(&output.stdout), text(&output.stderr)),
        ("out\n".to_owned(), "err\n".to_owned())
    );
    let mut child = command(machine, &["-i", "--", "sh", "-c", "echo up; wc -c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // Before the input has ended, or has even begun.
    assert_eq!(lines.next().unwrap().unwrap(), "up");
    drop(child.stdin.take());
    assert_eq!(lines.next().unwrap().unwrap().trim(), "0");
    assert!(child.wait().unwrap().success());
}

fn signals(machine: &Machine) {
    let line = "trap 'echo told; exit 9' TERM; echo up; while true; do sleep 0.05; done";
    let mut child = command(machine, &["--", "sh", "-c", line])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "up");
    let id = Pid::from_child(&child);
    kill_process(id, Signal::TERM).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "told");
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

fn timeouts(machine: &Machine) {
    let began = Instant::now();
    let line = "trap '' TERM; sleep 100 & sleep 100 & wait";
    let output = shell(machine, &["--timeout", "1s"], line);
    assert_eq!(output.status.code(), Some(124), "{output:?}");
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(machine.is_clean_soon());
}

/// Whoever has a parent in the sandbox was not sent by the host.
fn intruder(machine: &Machine) {
    let line = "/run/sovereign/agent --join < /dev/null | wc -c; echo done";
    let told = stdout(&shell(machine, &[], line));
    assert_eq!(told.split_whitespace().collect::<Vec<_>>(), ["0", "done"]);
}

fn agent(machine: &Machine) {
    let output = shell(machine, &[], "touch /run/sovereign/x /run/sovereign/agent");
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("Read-only"), "{output:?}");
}

fn killed(machine: &Machine) {
    let line = "echo up; sleep 1000 & sleep 1000";
    let mut child = command(machine, &["--", "sh", "-c", line])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "up");
    assert_eq!(machine.daemon.containers().len(), 1);
    let folders = fs::read_dir(machine.folder.path().join("runtime")).unwrap();
    assert_eq!(folders.count(), 0);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert!(machine.is_clean_soon(), "{:?}", machine.daemon.containers());
}

/// No memory of this machine reaches an agent there, so files go by the stream.
fn files(machine: &Machine) {
    let here = tempfile::tempdir().unwrap();
    let (source, back) = (here.path().join("source"), here.path().join("back"));
    let sent: Vec<u8> = (0..=250).cycle().take((3 << 20) + 7).collect();
    fs::write(&source, &sent).unwrap();
    let (source, back) = (source.to_str().unwrap(), back.to_str().unwrap());
    let tier = machine.tier();
    for arguments in [
        &[
            "run", "-q", "-d", "--name", "it", "--tier", tier, "--", "sleep", "1000",
        ][..],
        &["cp", source, "it:/tmp/copied"],
        &["cp", "it:/tmp/copied", back],
        &["rm", "-f", "it"],
    ] {
        let mut command = machine.sovereign(arguments);
        let engine = machine.daemon.engine();
        command.env(engine.variable(), machine.daemon.remote_address());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    assert!(fs::read(back).unwrap() == sent);
    assert!(machine.is_clean_soon(), "{:?}", machine.daemon.containers());
}

/// What is on its way to a session that ends would make an engine drop what the session has said.
fn unread(machine: &Machine) {
    const SAID: usize = 1 << 20;
    const ROUNDS: usize = 16;
    let run = |arguments: &[&str]| {
        let mut command = machine.sovereign(arguments);
        let engine = machine.daemon.engine();
        command.env(engine.variable(), machine.daemon.remote_address());
        command
    };
    let done = |arguments: &[&str]| {
        let output = run(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        text(&output.stdout)
    };
    let tier = machine.tier();
    done(&[
        "run", "-q", "-d", "--name", "it", "--tier", tier, "--", "sleep", "1000",
    ]);
    // The one that asks counts too.
    let joined = || {
        let line = "cat /proc/[0-9]*/cmdline";
        let told = done(&["exec", "it", "--", "sh", "-c", line]);
        told.matches("--join").count()
    };
    let before = joined();
    // It takes input to its end, so some is always under way.
    let line = format!("exec 3<&0; cat <&3 >/dev/null & head -c {SAID} /dev/zero");
    for round in 0..ROUNDS {
        let mut child = run(&["exec", "-i", "it", "--", "sh", "-c", &line])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            // Until nobody takes it.
            scope.spawn(move || while input.write_all(&[b'x'; 512]).is_ok() {});
            child.wait_with_output().unwrap()
        });
        let told = text(&output.stderr);
        assert!(output.status.success(), "round {round}: {told}");
        assert_eq!(output.stdout.len(), SAID, "round {round}");
    }
    // Whoever has passed them on has heard that we are gone, and has left.
    let have_left = (0..20).any(|_| joined() <= before);
    assert!(have_left, "programs that have passed a session on stay");
    done(&["rm", "-f", "it"]);
    assert!(machine.is_clean_soon(), "{:?}", machine.daemon.containers());
}
