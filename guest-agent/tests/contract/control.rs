//! An agent that connects to a host, and gets its streams there.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use agent_client::{Exec, Session, SessionOptions};
use agent_protocol::local::STREAM;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, accept_with, bind, listen, sendmsg, socket_with,
};

use crate::agent::{eventually, runs, shell, unique_sleep};

/// An agent, and the host's end of its control socket.
struct Host {
    control: OwnedFd,
    agent: Child,
}

impl Host {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let listener = socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
        bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&listener, 1).unwrap();
        let agent = Command::new(env!("CARGO_BIN_EXE_sovereign-agent"))
            .args(["--control", &format!("unix:{}", path.display())])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let control = accept_with(&listener, SocketFlags::CLOEXEC).unwrap();
        Self { control, agent }
    }

    fn exec(&self, line: &str) -> Exec {
        let (near, far) = UnixStream::pair().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [far.as_fd()];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let iov = [IoSlice::new(&[STREAM])];
        sendmsg(&self.control, &iov, &mut ancillary, SendFlags::empty()).unwrap();
        let session = Session::new(near, SessionOptions::default());
        session.exec(shell(line)).unwrap()
    }
}

#[test]
fn streams_that_come_by_the_control_socket_are_served() {
    let mut host = Host::start();
    for word in ["one", "two"] {
        let line = format!("echo {word}");
        let output = host.exec(&line).output(b"", 1 << 20).unwrap();
        assert_eq!(output.stdout, format!("{word}\n").into_bytes());
    }
    drop(host.control);
    assert!(host.agent.wait().unwrap().success());
}

#[test]
fn a_host_that_goes_away_ends_every_command() {
    let mut host = Host::start();
    let seconds = unique_sleep();
    let exec = host.exec(&format!("trap '' TERM; sleep {seconds} & wait"));
    eventually("the command runs", || runs(&format!("sleep\0{seconds}")));
    drop(host.control);
    assert!(host.agent.wait().unwrap().success());
    assert!(!runs(&format!("sleep\0{seconds}")));
    drop(exec);
}

#[test]
fn a_host_that_is_not_there_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_sovereign-agent"))
        .args(["--control", "unix:/nowhere/control"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        told,
        "sovereign-agent: connecting to /nowhere/control: No such file or directory\n"
    );
}
