//! Peers that do not keep to the protocol.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use agent_client::{ClientError, Session, SessionOptions};
use agent_protocol::frame::{FrameError, Kind, PROTOCOL_VERSION};
use agent_protocol::from_agent::AgentFrame;
use agent_protocol::from_host::{HostFrame, OutputCredit};
use agent_protocol::message::{
    AgentError, ExecRequest, Hello, OutputStream, Request, TerminalSize,
};
use agent_protocol::reader::FrameReader;

use crate::agent::{Agent, eventually, request, runs, unique_sleep};

/// Writes these bytes and reads until the agent closes the stream; returns its error, if it has one.
fn answer(agent: &Agent, bytes: &[u8]) -> Option<AgentError> {
    let mut stream = agent.connect();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.write_all(bytes).unwrap();
    let mut reader = FrameReader::new();
    let mut last = None;
    loop {
        // A close with unread data is a reset.
        let count = stream.read(reader.space()).unwrap_or(0);
        if count == 0 {
            return last;
        }
        reader.filled(count);
        while let Some((kind, payload)) = reader.next_frame().unwrap() {
            if let AgentFrame::Error(error) = AgentFrame::decode(kind, payload).unwrap() {
                last = Some(error);
            }
        }
    }
}

fn bytes(frames: &[HostFrame<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        frame.encode(&mut bytes).unwrap();
    }
    bytes
}

fn exec(request: ExecRequest) -> HostFrame<'static> {
    HostFrame::Request(Box::new(Request::Exec(request)))
}

fn hello() -> HostFrame<'static> {
    HostFrame::Hello(Hello::new())
}

#[test]
fn ping_is_answered() {
    let agent = Agent::start();
    let hello = agent.session().ping().unwrap();
    assert_eq!(
        (hello.protocol, hello.release.as_str()),
        (PROTOCOL_VERSION, env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn violations_end_their_session_alone() {
    let agent = Agent::start();
    let sleep = unique_sleep();
    let bystander = agent.exec(request(&["sleep", "1"])).spawn().unwrap();
    let sleeper = || exec(request(&["sleep", &sleep]));
    let size = TerminalSize {
        rows: 1,
        columns: 1,
    };
    let credit = OutputCredit {
        stream: OutputStream::Stdout,
        bytes: 1,
    };
    let cases = [
        (
            [&bytes(&[hello()])[..], &[0, 0, 0, 0, 0x55, 0, 0, 0]].concat(),
            "unknown frame kind 0x55",
        ),
        (
            vec![0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0],
            "Request frame of 4294967295 bytes, at most 4194304 are allowed",
        ),
        (
            vec![2, 0, 0, 0, 0x07, 0, 0, 0, 1, 1],
            "malformed Signal frame",
        ),
        (
            bytes(&[HostFrame::Request(Box::new(Request::Ping))]),
            "unexpected Request frame",
        ),
        (bytes(&[hello(), hello()]), "unexpected HostHello frame"),
        (
            bytes(&[hello(), HostFrame::Resize(size)]),
            "unexpected Resize frame",
        ),
        (
            bytes(&[hello(), sleeper(), sleeper()]),
            "unexpected Request frame",
        ),
        (
            bytes(&[hello(), sleeper(), HostFrame::Stdin(b"x")]),
            "unexpected Stdin frame",
        ),
        (
            bytes(&[hello(), sleeper(), HostFrame::Signal(200)]),
            "malformed Signal frame",
        ),
        (
            bytes(&[hello(), sleeper(), HostFrame::Credit(credit)]),
            "credit of OutputCredit exceeded",
        ),
    ];
    for (bytes, problem) in cases {
        let error = answer(&agent, &bytes);
        assert_eq!(error, Some(AgentError::Protocol(problem.to_owned())));
    }
    eventually("their commands are gone", || {
        !runs(&format!("sleep\0{sleep}"))
    });
    assert_eq!(bystander.wait().unwrap().report.code, Some(0));
    assert_eq!(agent.shell("echo fine").stdout, b"fine\n");
}

#[test]
fn other_version_is_told_apart_by_both_sides() {
    let agent = Agent::start();
    let other = Hello {
        protocol: 77,
        ..Hello::new()
    };
    assert_eq!(
        answer(&agent, &bytes(&[HostFrame::Hello(other.clone())])),
        Some(AgentError::Protocol(format!(
            "the peer speaks protocol version 77, this is version {PROTOCOL_VERSION}"
        )))
    );
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut greeting = Vec::new();
    AgentFrame::Hello(other).encode(&mut greeting).unwrap();
    theirs.write_all(&greeting).unwrap();
    let error = Session::new(ours, SessionOptions::default())
        .ping()
        .unwrap_err();
    let expected = FrameError::Version {
        theirs: 77,
        ours: PROTOCOL_VERSION,
    };
    assert!(
        matches!(error, ClientError::Protocol(error) if error == expected),
        "{error:?}"
    );
}

#[test]
fn silent_agent_is_given_up() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let options = SessionOptions {
        answer_timeout: Duration::from_millis(100),
        ..SessionOptions::default()
    };
    let exec = Session::new(ours, options)
        .exec(request(&["true"]))
        .unwrap();
    let error = exec.output(b"", 0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the guest agent was silent for 0.1 s while waiting for its greeting"
    );
}

#[test]
fn agent_that_is_gone_is_told() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let exec = Session::new(ours, SessionOptions::default())
        .exec(request(&["true"]))
        .unwrap();
    drop(theirs);
    let error = exec.output(b"", 0).unwrap_err();
    assert!(matches!(error, ClientError::Disconnected(_)), "{error}");
}

#[test]
fn agent_serves_one_session_on_a_stream_it_is_given() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let theirs = OwnedFd::from(theirs);
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_sovereign-agent"))
        .args(["--fd", &theirs.as_raw_fd().to_string()])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    drop(theirs);
    let exec = Session::new(ours, SessionOptions::default())
        .exec(request(&["echo", "hi"]))
        .unwrap();
    let output = exec.output(b"", 100).unwrap();
    assert_eq!(
        (output.report.code, output.stdout),
        (Some(0), b"hi\n".to_vec())
    );
    assert!(process.wait().unwrap().success());
}

/// A relay that is not told so would be woken by the closed pipe again and again.
#[test]
fn command_that_closes_its_input_is_told_of_at_once() {
    let agent = Agent::start();
    let mut stream = agent.connect();
    let patience = Some(Duration::from_secs(20));
    stream.set_read_timeout(patience).unwrap();
    let command = ExecRequest {
        stdin: true,
        ..request(&["sh", "-c", "exec <&-; sleep 60"])
    };
    stream.write_all(&bytes(&[hello(), exec(command)])).unwrap();
    let mut reader = FrameReader::new();
    let mut is_told = false;
    while !is_told {
        let count = stream.read(reader.space()).unwrap();
        assert!(count > 0, "the session goes on");
        reader.filled(count);
        while let Some((kind, _)) = reader.next_frame().unwrap() {
            is_told |= kind == Kind::StdinClosed;
        }
    }
}

#[test]
fn terminal_of_a_host_that_read_nothing_and_went_away_ends() {
    let agent = Agent::start();
    let sleep = unique_sleep();
    // Frames of a byte each: they fill the stream soon, and then what waits for it.
    let line = format!("sleep {sleep} & while :; do printf x; done");
    let mut request = request(&["sh", "-c", &line]);
    request.tty = Some(TerminalSize {
        rows: 24,
        columns: 80,
    });
    let mut stream = agent.connect();
    stream.write_all(&bytes(&[hello(), exec(request)])).unwrap();
    eventually("it runs", || runs(&format!("sleep\0{sleep}")));
    std::thread::sleep(Duration::from_secs(2));
    drop(stream);
    let children = format!("/proc/{0}/task/{0}/children", agent.pid());
    eventually("the session is gone", || {
        std::fs::read_to_string(&children).is_ok_and(|children| children.trim().is_empty())
    });
    assert!(!runs(&format!("sleep\0{sleep}")));
}
