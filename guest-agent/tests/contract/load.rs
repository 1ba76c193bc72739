//! Many at a time, and one after the other.

use std::thread;

use crate::agent::{Agent, eventually, request, shell};

#[test]
fn hundred_commands_side_by_side_do_not_disturb_each_other() {
    let agent = Agent::start();
    thread::scope(|scope| {
        let running: Vec<_> = (0..100)
            .map(|number| {
                let agent = &agent;
                scope.spawn(move || {
                    let line = format!("sleep 0.2; seq {number} 1000; exit {number}");
                    (number, agent.shell(&line))
                })
            })
            .collect();
        for run in running {
            let (number, output) = run.join().unwrap();
            assert_eq!(output.report.code, Some(number));
            let expected: String = (u32::from(number)..=1000)
                .map(|n| format!("{n}\n"))
                .collect();
            assert_eq!(output.stdout, expected.as_bytes());
        }
    });
}

#[test]
fn nothing_piles_up() {
    let agent = Agent::start();
    let descriptors = || {
        std::fs::read_dir(format!("/proc/{}/fd", agent.pid()))
            .unwrap()
            .count()
    };
    let children =
        || std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", agent.pid())).unwrap();
    // The agent lets go of a session when it reaps it: only then is there something to compare.
    let run = |times| {
        for _ in 0..times {
            agent.run(request(&["true"])).unwrap();
        }
        eventually("all sessions are reaped", || children().is_empty());
    };
    run(1);
    let before = descriptors();
    run(200);
    eventually("no descriptor is left of them", || descriptors() <= before);
}

#[test]
fn idle_agent_is_small() {
    let agent = Agent::start();
    agent.shell("true");
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon:"))
        .unwrap();
    let kib: u32 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 512, "{kib} KiB");
}

#[test]
fn stalled_session_slows_no_other() {
    let agent = Agent::start();
    let stalled = agent.exec(shell("yes")).spawn().unwrap();
    for _ in 0..20 {
        assert_eq!(agent.shell("echo x").stdout, b"x\n");
    }
    drop(stalled);
}
