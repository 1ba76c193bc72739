//! Ends that are not the command's own doing.

use std::thread;
use std::time::{Duration, Instant};

use agent_client::{ClientError, Control, PumpIo, control_channel};
use agent_protocol::message::ExecRequest;
use rustix::process::{Pid, Signal, kill_process};

use crate::agent::{Agent, eventually, request, runs, shell, unique_sleep};

fn timeout(request: ExecRequest, timeout: f32, kill_after: Option<f32>) -> ExecRequest {
    ExecRequest {
        timeout: Some(Duration::from_secs_f32(timeout)),
        kill_after: kill_after.map(Duration::from_secs_f32),
        ..request
    }
}

#[test]
fn timeout_kills_at_once_without_kill_after() {
    let agent = Agent::start();
    let began = Instant::now();
    let line = "trap '' TERM; sleep 60";
    let report = agent.run(timeout(shell(line), 0.2, None)).unwrap().report;
    assert_eq!(
        (report.timed_out, report.signal, report.exit_code()),
        (true, Some(9), 124)
    );
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn timeout_asks_first_with_kill_after() {
    let agent = Agent::start();
    let line = "trap 'echo asked; exit 5' TERM; while :; do sleep 0.01; done";
    let output = agent.run(timeout(shell(line), 0.3, Some(30.0))).unwrap();
    assert_eq!(output.stdout, b"asked\n");
    assert_eq!(
        (output.report.timed_out, output.report.code),
        (true, Some(5))
    );
    assert_eq!(output.report.exit_code(), 124);
}

#[test]
fn what_does_not_listen_is_killed_after() {
    let agent = Agent::start();
    let line = "trap '' TERM; while :; do sleep 0.01; done";
    let report = agent
        .run(timeout(shell(line), 0.2, Some(0.3)))
        .unwrap()
        .report;
    assert_eq!((report.timed_out, report.signal), (true, Some(9)));
    assert!(
        report.duration >= Duration::from_millis(500),
        "{:?}",
        report.duration
    );
}

#[test]
fn waiting_for_what_does_not_listen_costs_no_cpu_time() {
    let agent = Agent::start();
    let line = "(trap '' TERM; sleep 60) & wait";
    let child = agent
        .exec(timeout(shell(line), 0.2, Some(60.0)))
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(1800));
    let session = children(agent.pid());
    assert_eq!(session.len(), 1);
    // In hundredths of a second.
    assert!(cpu_time(session[0]) < 8, "{}", cpu_time(session[0]));
    assert!(!child.is_finished());
}

fn children(pid: u32) -> Vec<u32> {
    let parent = format!("PPid:\t{pid}\n");
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/status"))
            .is_ok_and(|status| status.contains(&parent))
    })
    .collect()
}

fn cpu_time(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let number = |field: &str| field.parse::<u64>().unwrap();
    fields.split(' ').skip(11).take(2).map(number).sum()
}

#[test]
fn timeout_reaches_grandchildren_that_hold_the_pipes() {
    let agent = Agent::start();
    let sleep = unique_sleep();
    // In a session of their own, reparented, deaf to SIGTERM and with our pipes.
    let line = format!(
        "(trap '' TERM; setsid sh -c \"sleep {sleep}; :\" & setsid sleep {sleep} &) ; sleep {sleep}"
    );
    let began = Instant::now();
    for kill_after in [None, Some(0.1)] {
        let report = agent
            .run(timeout(shell(&line), 0.3, kill_after))
            .unwrap()
            .report;
        assert!(report.timed_out);
        assert!(!runs(&format!("sleep\0{sleep}")), "a grandchild is left");
    }
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn stopped_processes_are_ended_too() {
    let agent = Agent::start();
    let sleep = unique_sleep();
    let line = format!("sleep {sleep} & kill -STOP $!; kill -STOP $$; true");
    let report = agent
        .run(timeout(shell(&line), 0.3, Some(0.5)))
        .unwrap()
        .report;
    assert!(report.timed_out);
    assert!(!runs(&format!("sleep\0{sleep}")));
}

#[test]
fn tree_that_grows_is_overtaken() {
    let agent = Agent::start();
    let sleep = unique_sleep();
    // Each process leaves two behind and sleeps; the depth keeps it finite.
    let line = format!(
        "grow() {{ [ $1 -gt 0 ] || return 0; (grow $(($1 - 1))) & (grow $(($1 - 1))) & \
         trap '' TERM; sleep {sleep}; }}; grow 6"
    );
    let report = agent.run(timeout(shell(&line), 0.1, None)).unwrap().report;
    assert!(report.timed_out);
    assert!(!runs(&format!("sleep\0{sleep}")));
}

#[test]
fn host_that_goes_away_takes_the_tree_along() {
    let agent = Agent::start();
    let sleep = unique_sleep();
    let line = format!("trap '' TERM HUP; setsid sleep {sleep} & sleep {sleep}");
    let child = agent.exec(shell(&line)).spawn().unwrap();
    eventually("it runs", || runs(&format!("sleep\0{sleep}")));
    drop(child);
    eventually("it is gone", || !runs(&format!("sleep\0{sleep}")));
}

#[test]
fn cancelling_takes_the_tree_along() {
    let agent = Agent::start();
    let sleep = unique_sleep();
    let (sender, receiver) = control_channel().unwrap();
    let exec = agent.exec(request(&["sleep", &sleep]));
    let result = thread::scope(|scope| {
        let pump = scope.spawn(|| {
            exec.pump(PumpIo {
                controls: Some(&receiver),
                ..PumpIo::default()
            })
        });
        eventually("it runs", || runs(&format!("sleep\0{sleep}")));
        sender.send(Control::Cancel).unwrap();
        pump.join().unwrap()
    });
    assert!(matches!(result, Err(ClientError::Cancelled)));
    eventually("it is gone", || !runs(&format!("sleep\0{sleep}")));
}

#[test]
fn agent_that_is_told_to_end_ends_everything() {
    let mut agent = Agent::start();
    let sleep = unique_sleep();
    let child = agent
        .exec(shell(&format!("trap '' TERM; sleep {sleep}; :")))
        .spawn()
        .unwrap();
    eventually("it runs", || runs(&format!("sleep\0{sleep}")));
    agent.session().power_off().unwrap();
    assert!(agent.process().wait().unwrap().success());
    assert!(!runs(&format!("sleep\0{sleep}")));
    assert!(matches!(child.wait(), Err(ClientError::Disconnected(_))));
}

#[test]
fn agent_that_is_killed_takes_its_commands_along() {
    let mut agent = Agent::start();
    let sleep = unique_sleep();
    let child = agent
        .exec(shell(&format!("setsid sleep {sleep}")))
        .spawn()
        .unwrap();
    eventually("it runs", || runs(&format!("sleep\0{sleep}")));
    agent.process().kill().unwrap();
    eventually("it is gone", || !runs(&format!("sleep\0{sleep}")));
    assert!(matches!(child.wait(), Err(ClientError::Disconnected(_))));
}

#[test]
fn daemon_survives_its_command_and_not_the_agent() {
    let mut agent = Agent::start();
    let sleep = unique_sleep();
    let output = agent.shell(&format!("sleep {sleep} >/dev/null 2>&1 &"));
    assert_eq!(output.report.code, Some(0));
    assert!(
        runs(&format!("sleep\0{sleep}")),
        "the daemon was killed with its command"
    );
    let pid = Pid::from_raw(i32::try_from(agent.pid()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert!(agent.process().wait().unwrap().success());
    assert!(!runs(&format!("sleep\0{sleep}")));
}

#[test]
fn orphans_are_reaped_while_the_command_runs() {
    let agent = Agent::start();
    let line = "for i in 1 2 3 4 5 6 7 8 9 10; do (true &) ; done; sleep 0.3; \
                grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | while read f; do \
                grep -q \"^PPid:.$PPID$\" $f && echo zombie; done; true";
    assert_eq!(agent.shell(line).stdout, b"");
}
