//! Our end of the control socket: one JSON message a packet, and with some a descriptor.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, recv, recvmsg};
use vmm::control::{Command, Event, MAX_MESSAGE};

use crate::tier::packets::{self, past_reset};

/// How to learn how long the next message is, if there is one.
const PEEK: RecvFlags = RecvFlags::PEEK
    .union(RecvFlags::TRUNC)
    .union(RecvFlags::DONTWAIT);

/// The owner's end of a VMM process's control socket.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) socket: OwnedFd,
}

/// What can go wrong on the control socket.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControlError {
    /// The system refused.
    #[error("control socket of the VMM")]
    Socket(#[from] io::Error),
    /// The other side said something that this release does not know.
    #[error("a message of the VMM makes no sense: {0:?}")]
    Unintelligible(String),
    /// What we would say does not fit into a packet.
    #[error("a message to the VMM is too large: {size} bytes, at most {MAX_MESSAGE}")]
    TooLarge {
        /// Its size.
        size: usize,
    },
}

impl Control {
    /// Makes a pair: our end, and the one for the VMM process.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (socket, theirs) = packets::pair()?;
        Ok((Self { socket }, theirs))
    }

    /// Sends a command, with a descriptor if it takes one.
    ///
    /// # Errors
    ///
    /// If the command is too large or the VMM is gone.
    pub(super) fn send(
        &self,
        command: &Command,
        descriptor: Option<BorrowedFd>,
    ) -> Result<(), ControlError> {
        let message = serde_json::to_vec(command).map_err(io::Error::other)?;
        if message.len() > MAX_MESSAGE {
            return Err(ControlError::TooLarge {
                size: message.len(),
            });
        }
        Ok(packets::send(&self.socket, &message, descriptor)?)
    }

    /// Takes the next event that has arrived; `None` at the end of the conversation.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] if nothing has arrived, or the message makes no sense.
    pub(super) fn receive(&self) -> Result<Option<Event>, ControlError> {
        // Most events are short, and zeroing room for the longest costs more than to look first.
        let size = match past_reset(|| recv(&self.socket, &mut [0; 0], PEEK)) {
            Ok((_, size)) => size.min(MAX_MESSAGE),
            Err(Errno::CONNRESET) => 0,
            Err(errno) => return Err(io::Error::from(errno).into()),
        };
        let mut message = vec![0; size];
        let mut ancillary = RecvAncillaryBuffer::default();
        let received = past_reset(|| {
            let mut iov = [IoSliceMut::new(&mut message)];
            recvmsg(&self.socket, &mut iov, &mut ancillary, RecvFlags::DONTWAIT)
        });
        let length = match received {
            Ok(received) => received.bytes,
            Err(Errno::CONNRESET) => 0,
            Err(errno) => return Err(io::Error::from(errno).into()),
        };
        if length == 0 {
            return Ok(None);
        }
        message.truncate(length);
        serde_json::from_slice(&message).map(Some).map_err(|_| {
            let start = message.get(..200).unwrap_or(&message);
            ControlError::Unintelligible(String::from_utf8_lossy(start).into_owned())
        })
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::mem::MaybeUninit;
    use std::os::unix::net::UnixStream;

    use rustix::net::{RecvAncillaryMessage, SendFlags, recv, send};
    use vmm::control::StopReason;

    use super::*;

    #[test]
    fn a_command_arrives_with_its_descriptor() {
        let (control, theirs) = Control::pair().unwrap();
        let (ours, passed) = UnixStream::pair().unwrap();
        control
            .send(&Command::Accept { port: 1024 }, Some(passed.as_fd()))
            .unwrap();
        drop(passed);

        let mut buffer = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut iov = [IoSliceMut::new(&mut buffer)];
        let length = recvmsg(&theirs, &mut iov, &mut ancillary, RecvFlags::empty())
            .unwrap()
            .bytes;
        let Some(RecvAncillaryMessage::ScmRights(mut fds)) = ancillary.drain().next() else {
            panic!("no descriptor");
        };
        let received = UnixStream::from(fds.next().unwrap());
        assert_eq!(
            serde_json::from_slice::<Command>(&buffer[..length]).unwrap(),
            Command::Accept { port: 1024 }
        );
        io::Write::write_all(&mut &received, b"x").unwrap();
        let mut byte = [0];
        (&ours).read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn events_arrive_whole_and_in_order_and_then_the_end() {
        let (control, theirs) = Control::pair().unwrap();
        let stopped = Event::Stopped {
            reason: StopReason::Reset,
            console: "last words".to_owned(),
        };
        for event in [&Event::Paused, &stopped] {
            send(
                &theirs,
                &serde_json::to_vec(event).unwrap(),
                SendFlags::empty(),
            )
            .unwrap();
        }
        drop(theirs);
        assert_eq!(control.receive().unwrap(), Some(Event::Paused));
        assert_eq!(control.receive().unwrap(), Some(stopped));
        assert_eq!(control.receive().unwrap(), None);
    }

    #[test]
    fn last_words_arrive_from_a_vmm_that_did_not_listen_to_the_end() {
        let (control, theirs) = Control::pair().unwrap();
        control.send(&Command::Resume, None).unwrap();
        let failed = Event::Failed {
            message: "no kernel".to_owned(),
            hint: None,
        };
        let message = serde_json::to_vec(&failed).unwrap();
        send(&theirs, &message, SendFlags::empty()).unwrap();
        drop(theirs);
        assert_eq!(control.receive().unwrap(), Some(failed));
        assert_eq!(control.receive().unwrap(), None);
    }

    /// The VMM may end between a look at how long its last message is and the message itself.
    #[test]
    fn last_words_arrive_from_a_vmm_that_ends_at_any_moment() {
        let failed = Event::Failed {
            message: "no kernel".to_owned(),
            hint: None,
        };
        let message = serde_json::to_vec(&failed).unwrap();
        for _ in 0..2000 {
            let (control, theirs) = Control::pair().unwrap();
            control.send(&Command::Resume, None).unwrap();
            send(&theirs, &message, SendFlags::empty()).unwrap();
            let ending = std::thread::spawn(move || drop(theirs));
            assert_eq!(control.receive().unwrap(), Some(failed.clone()));
            ending.join().unwrap();
        }
    }

    #[test]
    fn nothing_arrived_is_not_the_end() {
        let (control, _theirs) = Control::pair().unwrap();
        let Err(ControlError::Socket(error)) = control.receive() else {
            panic!("an event")
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn nonsense_is_an_error_that_quotes_it() {
        let (control, theirs) = Control::pair().unwrap();
        send(&theirs, b"{\"event\":\"sing\"}", SendFlags::empty()).unwrap();
        assert!(control.receive().unwrap_err().to_string().contains("sing"));
    }

    #[test]
    fn a_vmm_that_is_gone_is_an_error_and_not_a_signal() {
        let (control, theirs) = Control::pair().unwrap();
        drop(theirs);
        assert!(control.send(&Command::Stop, None).is_err());
        let _ = recv(control.as_fd(), &mut [0; 1][..], RecvFlags::DONTWAIT);
    }
}
