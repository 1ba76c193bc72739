//! A command that its session's owner leaves, and somebody else goes on with.

use std::io::Write;
use std::os::fd::AsFd;

use agent_client::{Exec, InputSource, OutputTarget, PumpIo, Pumped};
use agent_protocol::message::ExecRequest;

use crate::agent::{Agent, shell};

const KEYS: &[u8] = b"\x10\x11";

fn interactive(line: &str) -> ExecRequest {
    ExecRequest {
        stdin: true,
        ..shell(line)
    }
}

#[test]
fn command_is_left_by_keys_and_goes_on_elsewhere() {
    let agent = Agent::start();
    let exec = agent.exec(interactive(
        "while read -r line; do echo \"<$line>\"; done; exit 7",
    ));
    let (read, mut typed) = std::io::pipe().unwrap();
    typed.write_all(b"one\n\x10\x11").unwrap();
    let mut before = Vec::new();
    let io = PumpIo {
        stdin: InputSource::Fd(read.as_fd()),
        stdout: OutputTarget::Collect {
            into: &mut before,
            limit: 1000,
        },
        detach_keys: KEYS,
        ..PumpIo::default()
    };
    let Pumped::Detached(exec) = exec.pump_until_detached(io).unwrap() else {
        panic!("it has ended")
    };
    let (stream, handover) = exec.hand_over().unwrap();
    let elsewhere = Exec::take_over(stream, handover).unwrap();
    let output = elsewhere.output(b"two\n", 1000).unwrap();
    assert_eq!(output.report.code, Some(7));
    let all = [before, output.stdout].concat();
    assert!(
        String::from_utf8_lossy(&all).ends_with("<two>\n"),
        "{all:?}"
    );
}

#[test]
fn what_was_read_and_not_passed_on_is_not_lost() {
    let agent = Agent::start();
    for _ in 0..20 {
        let exec = agent.exec(shell("seq 1 20000")).wait_until_runs().unwrap();
        let (stream, handover) = exec.hand_over().unwrap();
        let output = Exec::take_over(stream, handover)
            .unwrap()
            .output(b"", 1 << 20)
            .unwrap();
        let lines = output.stdout.split(|byte| *byte == b'\n').count();
        assert_eq!((output.report.code, lines), (Some(0), 20_001));
    }
}

#[test]
fn command_that_cannot_run_is_told_before_it_is_handed_over() {
    let agent = Agent::start();
    let request = crate::agent::request(&["no-such-command"]);
    let error = agent.exec(request).hand_over().unwrap_err();
    assert_eq!(error.exit_code(), 127);
}
