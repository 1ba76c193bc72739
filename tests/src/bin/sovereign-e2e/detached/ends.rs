//! Ends that come when nobody has asked for them, or from where nobody expects them.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
    connect, recv, send, shutdown, socket_with, socketpair,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::Desk;
use crate::suite::{Outcome, PASSED};

/// Why a sandbox broke is told as its tier knows it, also if its command is what is waited for.
pub(super) fn why_it_broke_is_told(desk: &Desk) -> Outcome {
    for _ in 0..4 {
        desk.start(&["--name", "a", "--", "sleep", "1000"])?;
        let process = desk.inspect("a")?["process"].as_u64();
        let process = i32::try_from(process.context("no process")?)?;
        kill_process(Pid::from_raw(process).context("no process")?, Signal::KILL)?;
        desk.call(["wait", "a"]).output()?;
        let ending = &desk.inspect("a")?["ending"];
        ensure!(ending["error"]["code"] == "agent-died", "{ending}");
        desk.says(&["rm", "a"])?;
    }
    PASSED
}

/// Whoever is gone in the moment in which the sandbox has started is gone in order.
pub(super) fn owner_that_hears_of_no_start_is_gone(desk: &Desk) -> Outcome {
    let id = desk.good(desk.call(["create", "--tier", desk.tier, "--rm", "--name", "a"]))?;
    let kind = SocketType::SEQPACKET;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    // What the supervisor says fails as it does to one who is gone, and it cannot see that before.
    shutdown(&ours, Shutdown::Read)?;
    let mut supervisor = Command::new(desk.program())
        .args(["supervise".as_ref(), desk.state.path().as_os_str()])
        .args([id.as_str(), "--stay"])
        .env("SOVEREIGN_STATE_DIR", desk.state.path())
        .stdin(Stdio::from(theirs))
        .spawn()?;
    desk.eventually("it has started", || {
        let has_ended = supervisor.try_wait()?.is_some();
        ensure!(!has_ended, "its supervisor went away");
        Ok(desk.state_of("a")? == "running")
    })?;
    desk.says(&["exec", "a", "--", "true"])?;
    drop(ours);
    ensure!(supervisor.wait()?.success(), "its supervisor failed");
    ensure!(desk.says(&["ls", "-aq"])?.is_empty(), "it was not removed");
    PASSED
}

/// Whatever the release of a client, it can end the sandbox; of all else it is told why not.
pub(super) fn client_of_another_release_can_kill(desk: &Desk) -> Outcome {
    let id = desk.start(&["--name", "a", "--", "sleep", "1000"])?;
    let door = desk.state.path().join("sandboxes").join(id).join("door");
    let ask = |request: &str| -> anyhow::Result<Value> {
        let kind = SocketType::SEQPACKET;
        let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &SocketAddrUnix::new(&door)?)?;
        send(&socket, request.as_bytes(), SendFlags::empty())?;
        let mut answer = vec![0; 64 << 10];
        let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
        Ok(serde_json::from_slice(
            answer.get(..length).unwrap_or_default(),
        )?)
    };
    let refused = ask(r#"{"version":99,"request":"sing"}"#)?;
    ensure!(refused["problem"]["code"] == "other-release", "{refused}");
    let ended = ask(r#"{"version":99,"request":"kill"}"#)?;
    ensure!(ended["reply"] == "ended", "{ended}");
    PASSED
}

/// Whoever waits for a command when the sandbox ends is told what is known of the command.
pub(super) fn waiting_for_a_command_outlives_the_sandbox(desk: &Desk) -> Outcome {
    desk.start(&["--name", "a", "--", "sleep", "1000"])?;
    desk.says(&["exec", "-d", "a", "--", "sleep", "1000"])?;
    thread::scope(|scope| {
        let waiting = scope.spawn(|| desk.call(["wait", "--command", "1", "a"]).output());
        thread::sleep(Duration::from_millis(500));
        desk.says(&["kill", "a"])?;
        let told = waiting.join().ok().context("a thread panicked")??;
        ensure!(told.code() == Some(125), "{told}");
        ensure!(told.errors().contains("before command 1 did"), "{told}");
        PASSED
    })
}
