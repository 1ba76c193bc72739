//! The VMM process, through its control socket.

use std::fs;
use std::os::fd::OwnedFd;
use std::process::{Child, Command as Program, Stdio};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use vmm::config::MachineConfig;
use vmm::control::{Command, Event, MAX_MESSAGE, StopReason};

use crate::guest::{Guest, RESET, SPIN, TO_CONSOLE, kvm_is_here, print};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sovereign-vmm");
const DEADLINE: Duration = Duration::from_secs(30);

/// A VMM process and the owner's end of its control socket.
struct Vmm {
    process: Child,
    control: OwnedFd,
}

impl Vmm {
    fn spawn() -> Self {
        let kind = (
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
        );
        let (theirs, control) = socketpair(kind.0, kind.1, kind.2, None).unwrap();
        set_socket_timeout(&control, Timeout::Recv, Some(DEADLINE)).unwrap();
        // A shell moves the socket from standard input to where the VMM looks for it.
        let process = Program::new("sh")
            .args(["-c", "exec \"$0\" 3<&0 0</dev/null", PROGRAM])
            .stdin(theirs)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { process, control }
    }

    fn start(config: &MachineConfig) -> Self {
        let vmm = Self::spawn();
        vmm.send(&Command::Start {
            config: Box::new(config.clone()),
        });
        vmm
    }

    fn send(&self, command: &Command) {
        self.send_bytes(&serde_json::to_vec(command).unwrap());
    }

    fn send_bytes(&self, message: &[u8]) {
        send(&self.control, message, SendFlags::NOSIGNAL).unwrap();
    }

    fn event(&self) -> Event {
        let mut buffer = vec![0; MAX_MESSAGE];
        let (received, _) = recv(&self.control, buffer.as_mut_slice(), RecvFlags::empty()).unwrap();
        serde_json::from_slice(&buffer[..received]).unwrap()
    }

    fn wait(&mut self) -> Option<i32> {
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("the VMM does not end");
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn started_by_hand_it_says_so() {
    let output = Program::new(PROGRAM).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("sovereign run"), "{message}");
}

#[test]
fn machine_runs_from_start_to_reset() {
    if !kvm_is_here() {
        return;
    }
    let guest = Guest::new(&[TO_CONSOLE, &print(b'h'), &print(b'i'), RESET, SPIN]);
    let mut vmm = Vmm::start(&guest.config);
    let Event::Started { trace } = vmm.event() else {
        panic!("not started")
    };
    assert!(
        trace
            .windows(2)
            .all(|pair| pair[0].monotonic_ns <= pair[1].monotonic_ns)
    );
    let stopped = Event::Stopped {
        reason: StopReason::Reset,
        console: "hi".into(),
    };
    assert_eq!(vmm.event(), stopped);
    assert_eq!(vmm.wait(), Some(0));
}

#[test]
fn pause_resume_and_stop_are_obeyed() {
    if !kvm_is_here() {
        return;
    }
    let guest = Guest::new(&[SPIN]);
    let mut vmm = Vmm::start(&guest.config);
    assert!(matches!(vmm.event(), Event::Started { .. }));
    vmm.send(&Command::Pause);
    assert_eq!(vmm.event(), Event::Paused);
    vmm.send(&Command::Resume);
    assert_eq!(vmm.event(), Event::Resumed);
    vmm.send(&Command::Stop);
    assert!(matches!(
        vmm.event(),
        Event::Stopped {
            reason: StopReason::Requested,
            ..
        }
    ));
    assert_eq!(vmm.wait(), Some(0));
}

#[test]
fn machine_does_not_outlive_its_owner() {
    if !kvm_is_here() {
        return;
    }
    let guest = Guest::new(&[SPIN]);
    let mut vmm = Vmm::start(&guest.config);
    assert!(matches!(vmm.event(), Event::Started { .. }));
    let (_, other) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    drop(std::mem::replace(&mut vmm.control, other));
    let gone = Instant::now();
    assert_eq!(vmm.wait(), Some(0));
    assert!(gone.elapsed() < Duration::from_secs(1));
}

#[test]
fn owner_that_goes_before_the_start_leaves_nothing() {
    let mut vmm = Vmm::spawn();
    let (_, other) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    drop(std::mem::replace(&mut vmm.control, other));
    assert_eq!(vmm.wait(), Some(0));
}

#[test]
fn kernel_that_is_none_is_reported_with_a_hint() {
    if !kvm_is_here() {
        return;
    }
    let guest = Guest::new(&[SPIN]);
    fs::write(&guest.config.kernel, [7; 9999]).unwrap();
    let mut vmm = Vmm::start(&guest.config);
    let Event::Failed { message, hint } = vmm.event() else {
        panic!("not failed")
    };
    assert!(
        message.contains("neither an ELF vmlinux nor a bzImage"),
        "{message}"
    );
    assert!(hint.unwrap().contains("vmlinux"));
    assert_eq!(vmm.wait(), Some(1));
}

#[test]
fn garbage_from_the_owner_is_an_error() {
    let mut vmm = Vmm::spawn();
    vmm.send_bytes(b"{\"command\":\"fly\"}");
    let Event::Failed { message, .. } = vmm.event() else {
        panic!("not failed")
    };
    assert!(message.contains("command is not valid"), "{message}");
    assert_eq!(vmm.wait(), Some(1));
}

#[test]
fn command_other_than_start_comes_too_early() {
    let mut vmm = Vmm::spawn();
    vmm.send(&Command::Resume);
    assert!(matches!(vmm.event(), Event::Failed { .. }));
    assert_eq!(vmm.wait(), Some(1));
}

#[test]
fn every_thread_is_confined_before_the_guest_runs() {
    if !kvm_is_here() {
        return;
    }
    let mut guest = Guest::new(&[SPIN]);
    guest.config.vcpus = 2;
    guest.config.entropy = true;
    let vmm = Vmm::start(&guest.config);
    assert!(matches!(vmm.event(), Event::Started { .. }));
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{}/task", vmm.process.id())).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_default();
            line.split_whitespace()
                .nth(1)
                .unwrap_or_default()
                .to_owned()
        };
        assert_eq!(field("NoNewPrivs:"), "1", "{status}");
        assert_eq!(field("Seccomp:"), "2", "{status}");
        assert_eq!(field("CapEff:"), "0000000000000000", "{status}");
        assert_eq!(field("CapPrm:"), "0000000000000000", "{status}");
        threads.push(field("Name:"));
    }
    // Newer kernels show a worker of KVM as a thread of its process.
    threads.retain(|name| !name.starts_with("kvm-"));
    threads.sort();
    assert_eq!(threads, ["sovereign-vmm", "vcpu-0", "vcpu-1"]);
}
