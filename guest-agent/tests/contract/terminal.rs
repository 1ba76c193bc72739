//! Terminals.

use std::fs::File;
use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use agent_client::Child;
use agent_protocol::message::{ExecRequest, TerminalSize};

use crate::agent::{Agent, shell};

fn start(agent: &Agent, line: &str) -> (Child, File) {
    let request = ExecRequest {
        stdin: true,
        tty: Some(TerminalSize {
            rows: 30,
            columns: 100,
        }),
        ..shell(line)
    };
    let mut child = agent.exec(request).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    (child, stdout)
}

/// Reads until this text has been shown, and returns all that has.
fn read_until(terminal: &mut File, text: &str) -> String {
    let mut shown = String::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !shown.contains(text) {
        assert!(Instant::now() < deadline, "{text:?} is not in {shown:?}");
        let mut space = [0; 1000];
        let count = terminal.read(&mut space).unwrap();
        assert!(count > 0, "it ended after {shown:?}");
        shown.push_str(&String::from_utf8_lossy(&space[..count]));
    }
    shown
}

#[test]
fn command_has_a_terminal_of_the_size_asked_for() {
    let agent = Agent::start();
    let (child, mut terminal) = start(
        &agent,
        "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && stty size && echo $TERM; echo x >&2",
    );
    let mut shown = String::new();
    terminal.read_to_string(&mut shown).unwrap();
    assert_eq!(shown, "30 100\r\nxterm\r\nx\r\n");
    assert_eq!(child.wait().unwrap().report.code, Some(0));
}

#[test]
fn resize_reaches_the_command() {
    let agent = Agent::start();
    let line = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.01; done";
    let (child, mut terminal) = start(&agent, line);
    read_until(&mut terminal, "ready");
    child
        .resize(TerminalSize {
            rows: 50,
            columns: 132,
        })
        .unwrap();
    read_until(&mut terminal, "50 132");
    child.wait().unwrap();
}

#[test]
fn interrupt_character_reaches_the_foreground_only() {
    let agent = Agent::start();
    let line = "trap ':' INT; sh -c 'echo ready; sleep 60'; echo after; exit 3";
    let (mut child, mut terminal) = start(&agent, line);
    read_until(&mut terminal, "ready");
    let mut stdin = child.stdin.take().unwrap();
    // A shell that is interrupted just before it waits for its command waits all the same, so one
    // interrupt may not be enough.
    let typist = thread::spawn(move || {
        while stdin.write_all(b"\x03").is_ok() {
            thread::sleep(Duration::from_millis(50));
        }
    });
    read_until(&mut terminal, "after");
    assert_eq!(child.wait().unwrap().report.code, Some(3));
    typist.join().unwrap();
}

#[test]
fn signal_from_the_host_goes_to_the_foreground() {
    let agent = Agent::start();
    let (child, mut terminal) = start(&agent, "echo ready; sleep 60");
    read_until(&mut terminal, "ready");
    child.signal(15).unwrap();
    assert_eq!(child.wait().unwrap().report.signal, Some(15));
}

#[test]
fn end_of_input_is_typed() {
    let agent = Agent::start();
    for typed in ["line\n", "begun"] {
        let (mut child, mut terminal) = start(&agent, "stty -echo; echo ready; cat; echo over");
        read_until(&mut terminal, "ready");
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(typed.as_bytes()).unwrap();
        drop(stdin);
        let shown = read_until(&mut terminal, "over");
        assert!(shown.contains(typed.trim_end()), "{shown:?}");
        child.wait().unwrap();
    }
}

#[test]
fn terminal_is_the_controlling_one_and_has_a_name() {
    let agent = Agent::start();
    let (child, mut terminal) = start(&agent, "tty; echo direct >/dev/tty; echo named >$(tty)");
    let mut shown = String::new();
    terminal.read_to_string(&mut shown).unwrap();
    assert!(shown.starts_with("/dev/pts/"), "{shown:?}");
    assert!(shown.ends_with("direct\r\nnamed\r\n"), "{shown:?}");
    child.wait().unwrap();
}

#[test]
fn much_output_arrives_whole() {
    let agent = Agent::start();
    let (child, mut terminal) = start(&agent, "stty -onlcr; seq 1 50000");
    let mut shown = Vec::new();
    terminal.read_to_end(&mut shown).unwrap();
    let expected: String = (1..=50_000).map(|number| format!("{number}\n")).collect();
    assert!(
        shown == expected.as_bytes(),
        "{} bytes of {}",
        shown.len(),
        expected.len()
    );
    child.wait().unwrap();
}

#[test]
fn terminal_without_reader_does_not_block_the_command() {
    let agent = Agent::start();
    let (child, terminal) = start(&agent, "seq 1 200000; exit 4");
    drop(terminal);
    assert_eq!(child.wait().unwrap().report.code, Some(4));
}

#[test]
fn slow_reader_gets_all_that_was_shown_though_a_daemon_stays() {
    let agent = Agent::start();
    // Up to some 11 KiB more than may be under way (256 KiB): that lies in the terminal when the command
    // ends, which tells of no more than 4095 bytes. Larger ones end when they are read.
    for size in (256..=268).map(|kib| kib * 1024) {
        let line = format!("trap '' HUP; sleep 2 & head -c {size} /dev/zero");
        let (child, mut terminal) = start(&agent, &line);
        thread::sleep(Duration::from_millis(300));
        let mut shown = Vec::new();
        terminal.read_to_end(&mut shown).unwrap();
        assert_eq!(shown.len(), size);
        child.wait().unwrap();
    }
}
