//! An agent whose host is on another machine: it is reached through the API of a container engine.
//!
//! ```text
//!  host ──attached stdin───────────────▶ agent --bridge   listens; ends when its input does
//!  host ──exec: stdin, stdout──▶ agent --join ──socket──▶    serves a session
//! ```
//!
//! `--join` leaves last, when the host has no more to say: an engine that has something on its way to a
//! program which is gone drops what that program has said. Podman's monitor closes a socket with
//! unread bytes in it, so the next read at its other end fails with `ECONNRESET` before it has got
//! everything (conmon 2.1.6, `close_all_readers`); what then closes a TCP connection with unread
//! bytes in it resets that as well.
//!
//! The socket has a name that is in no file system, only in the sandbox's own network namespace. A
//! command could connect to it too, so the agent takes only those whom somebody outside has started.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use agent_protocol::bridge::{READY, SOCKET};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::net::SocketFlags;
use rustix::net::sockopt::socket_peercred;
use rustix::process::DumpableBehavior;

use crate::linux::confine::control::Incoming;
use crate::linux::listen::Listener;
use crate::linux::reason::reason;
use crate::linux::serve::{report, serve_control};
use crate::linux::stat::Stat;

/// How much `--join` moves at a time.
const PIECE: usize = 64 * 1024;

/// How long `--join` waits for the host to end as well, which an engine may not pass on.
const PATIENCE: Duration = Duration::from_secs(10);

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
    relay(input, &output, &stream, PATIENCE)
}

/// Passes input and output on, until the agent and then the host have said all that they have to say;
/// for the host this is waited no longer than so long.
fn relay(
    mut input: impl Read + Send + 'static,
    output: impl Write,
    stream: &UnixStream,
    patience: Duration,
) -> io::Result<()> {
    let there = stream.try_clone()?;
    let (ended, end) = channel::<()>();
    // It ends with this process at the latest.
    thread::Builder::new()
        .name("join-in".to_owned())
        .spawn(move || {
            let _ended = ended;
            let _ = copy(&mut input, &there);
            let _ = there.shutdown(Shutdown::Write);
            // The agent takes no more, but the engine is to have nothing left.
            let _ = copy(&mut input, io::sink());
        })?;
    let said = copy(stream, output);
    let _ = end.recv_timeout(patience);
    match said {
        // All has come, and the agent has left something of the host's unread.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        said => said,
    }
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
    let peer = socket_peercred(stream).map(|peer| peer.pid.as_raw_nonzero().get());
    let stat = peer.ok().and_then(Stat::read);
    stat.and_then(|stat| stat.parent()) == Some(0)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;

    use super::*;

    #[test]
    fn who_has_a_parent_here_is_not_from_outside() {
        let (near, _far) = UnixStream::pair().unwrap();
        assert!(!is_from_outside(&near.into()));
    }

    /// What relays ends, as a host, an agent, and a thread that says when it has returned.
    fn relayed(patience: Duration) -> (UnixStream, UnixStream, Receiver<io::Result<()>>) {
        let (host, ours) = UnixStream::pair().unwrap();
        let (agent, stream) = UnixStream::pair().unwrap();
        let (tell, returned) = channel();
        thread::spawn(move || {
            let input = ours.try_clone().unwrap();
            tell.send(relay(input, &ours, &stream, patience)).unwrap();
        });
        (host, agent, returned)
    }

    #[test]
    fn it_leaves_after_the_host_and_leaves_nothing_unread() {
        let (mut host, mut agent, returned) = relayed(Duration::MAX);
        host.write_all(b"credit").unwrap();
        agent.write_all(b"exited").unwrap();
        // With the credit unread.
        drop(agent);
        let mut said = [0; 6];
        host.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"exited");
        // The agent has gone, and the host, which may not know it, goes on for more than a socket holds.
        host.write_all(&vec![0; 2 << 20]).unwrap();
        assert!(returned.recv_timeout(Duration::from_millis(50)).is_err());
        host.shutdown(Shutdown::Write).unwrap();
        returned.recv().unwrap().unwrap();
        // Had it left something, this would be an error.
        assert_eq!(host.read(&mut said).unwrap(), 0);
    }

    #[test]
    fn a_host_whose_end_does_not_come_is_not_waited_for_forever() {
        let (_host, agent, returned) = relayed(Duration::from_millis(10));
        drop(agent);
        returned.recv().unwrap().unwrap();
    }

    #[test]
    fn bytes_are_moved_to_their_end() {
        let bytes: Vec<u8> = (0..=255).cycle().take(3 * PIECE + 7).collect();
        let mut out = Vec::new();
        copy(&bytes[..], &mut out).unwrap();
        assert_eq!(out, bytes);
    }
}
