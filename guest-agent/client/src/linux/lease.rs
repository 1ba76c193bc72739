//! The lease of a session: open for as long as the session lasts, for somebody else to see.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// One end of a packet socket. Whoever has the other one may send signals for the session's command by
/// it, each a packet of one byte.
#[derive(Debug)]
pub(crate) struct Lease {
    socket: OwnedFd,
    /// Whether something may still come.
    speaks: bool,
}

impl Lease {
    /// A lease on a session, which has a command or not.
    pub(crate) const fn new(socket: OwnedFd, has_command: bool) -> Self {
        Self {
            socket,
            speaks: has_command,
        }
    }

    /// Becomes readable when there is something to take.
    pub(crate) fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.speaks.then(|| self.socket.as_fd())
    }

    /// The next signal, if one is waiting.
    pub(crate) fn take(&mut self) -> Option<u8> {
        while self.speaks {
            let mut packet = [0];
            match recv(&self.socket, &mut packet[..], RecvFlags::DONTWAIT) {
                Ok((1.., _)) => {
                    let [number] = packet;
                    // Another number would be an error of ours at the agent.
                    if (1..=64).contains(&number) {
                        return Some(number);
                    }
                }
                Err(Errno::AGAIN) => return None,
                Err(Errno::INTR) => {}
                // The other end is gone, and says no more. The session lasts for as long as its stream.
                Ok((0, _)) | Err(_) => self.speaks = false,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let kind = SocketType::SEQPACKET;
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn signals_come_in_order_and_nothing_else_does() {
        let (ours, theirs) = pair();
        let mut lease = Lease::new(ours, true);
        assert_eq!(lease.take(), None);
        for packet in [&[15][..], &[0], &[65], b"\x01 word"] {
            send(&theirs, packet, SendFlags::empty()).unwrap();
        }
        assert_eq!((lease.take(), lease.take()), (Some(15), Some(1)));
        assert_eq!(lease.take(), None);
        assert!(lease.poll_fd().is_some());
        drop(theirs);
        assert_eq!(lease.take(), None);
        assert!(lease.poll_fd().is_none(), "its end would be seen for ever");
    }

    #[test]
    fn session_without_a_command_hears_none() {
        let (ours, theirs) = pair();
        let mut lease = Lease::new(ours, false);
        send(&theirs, &[15], SendFlags::empty()).unwrap();
        assert_eq!((lease.take(), lease.poll_fd().is_none()), (None, true));
    }
}
