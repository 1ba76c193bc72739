//! An agent whose host is on another machine: it is reached through the API of a container engine.
//!
//! ```text
//!  host ──attached stdin───────────────▶ agent --bridge   listens; ends when its input does
//!  host ──exec: stdin, stdout──▶ agent --join ──socket──▶    serves a session
//! ```
//!
//! The socket has a name that is in no file system, only in the sandbox's own network namespace. A
//! command could connect to it too, so the agent takes only those whom somebody outside has started.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::ExitCode;
use std::thread;

use agent_protocol::bridge::{READY, SOCKET};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::net::SocketFlags;
use rustix::net::sockopt::socket_peercred;
use rustix::process::DumpableBehavior;

use crate::linux::confine::control::Incoming;
use crate::linux::listen::Listener;
use crate::linux::reason::reason;
use crate::linux::serve::{report, serve_control};

/// How much `--join` moves at a time.
const PIECE: usize = 64 * 1024;

/// What is waited for, by the numbers that epoll gives back.
const INPUT: u64 = 0;
const SOCKET_EVENT: u64 = 1;

/// The agent's end of a bridge.
#[derive(Debug)]
pub(crate) struct Bridge {
    socket: UnixListener,
    input: OwnedFd,
    /// Readable when one of the two is.
    pub(crate) either: OwnedFd,
}

impl Bridge {
    fn open() -> io::Result<Self> {
        let address = SocketAddr::from_abstract_name(SOCKET)?;
        let socket = UnixListener::bind_addr(&address)?;
        socket.set_nonblocking(true)?;
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        let either = epoll::create(CreateFlags::CLOEXEC)?;
        let wanted = EventFlags::IN;
        epoll::add(&either, &input, EventData::new_u64(INPUT), wanted)?;
        epoll::add(&either, &socket, EventData::new_u64(SOCKET_EVENT), wanted)?;
        Ok(Self {
            socket,
            input,
            either,
        })
    }

    /// What has come.
    pub(crate) fn accept(&self) -> io::Result<Incoming> {
        let mut events = [Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(SOCKET_EVENT),
        }; 1];
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let count = epoll::wait(&self.either, &mut events[..], Some(&now))?;
        match events
            .first()
            .filter(|_| count > 0)
            .map(|event| event.data.u64())
        {
            None => Ok(Incoming::Nothing),
            Some(INPUT) => match rustix::io::read(&self.input, &mut [0; 64]) {
                Ok(1..) => Ok(Incoming::Nothing),
                Ok(0) | Err(_) => Ok(Incoming::End),
            },
            Some(_) => {
                let stream = rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC)?;
                Ok(if is_from_outside(&stream) {
                    Incoming::Stream(stream)
                } else {
                    Incoming::Nothing
                })
            }
        }
    }
}

/// Serves those who `--join`, until standard input ends.
pub(crate) fn serve() -> ExitCode {
    let serving = Bridge::open()
        .and_then(|bridge| {
            let mut stdout = io::stdout();
            stdout.write_all(READY)?;
            stdout.flush()?;
            Ok(Listener::Bridge(bridge))
        })
        .map_err(|error| format!("opening a bridge: {}", reason(error)));
    report(serving.and_then(serve_control))
}

/// Passes standard input and output on to an agent with `--bridge`.
pub(crate) fn join() -> ExitCode {
    report(pass_on().map_err(|error| format!("joining the agent: {}", reason(error))))
}

fn pass_on() -> io::Result<()> {
    // What passes here is not for commands, which may be of the same user.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(SOCKET)?)?;
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let there = stream.try_clone()?;
    // It ends with this process, whose work is done when the agent has said its last word.
    thread::Builder::new()
        .name("join-in".to_owned())
        .spawn(move || {
            let _ = copy(&input, &there);
            let _ = there.shutdown(std::net::Shutdown::Write);
        })?;
    copy(&stream, &output)
}

/// Moves bytes until there are no more; each at once, for somebody waits for it.
fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let count = match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(piece.get(..count).unwrap_or_default())?;
    }
}

/// Whether the process that has connected was put into this sandbox by somebody outside: then it has
/// no parent here. Whatever starts in a sandbox has one, be it the agent.
fn is_from_outside(stream: &OwnedFd) -> bool {
    let peer = socket_peercred(stream).map(|peer| peer.pid.as_raw_nonzero());
    peer.ok()
        .and_then(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok())
        .is_some_and(|stat| parent_of(&stat) == Some(0))
}

/// proc(5): the number, the name in parentheses, which may be anything, the state, the parent.
fn parent_of(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_told_behind_any_name() {
        assert_eq!(parent_of("7 (a) S 0 7 7 0"), Some(0));
        assert_eq!(parent_of("7 (a) S 0 ) R 12 7 7 0"), Some(12));
        assert_eq!(parent_of("7 (a"), None);
    }

    #[test]
    fn who_has_a_parent_here_is_not_from_outside() {
        let (near, _far) = UnixStream::pair().unwrap();
        assert!(!is_from_outside(&near.into()));
    }

    #[test]
    fn bytes_are_moved_to_their_end() {
        let bytes: Vec<u8> = (0..=255).cycle().take(3 * PIECE + 7).collect();
        let mut out = Vec::new();
        copy(&bytes[..], &mut out).unwrap();
        assert_eq!(out, bytes);
    }
}
