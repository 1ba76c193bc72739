//! The control socket: one JSON message a packet, with at most one descriptor.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendFlags, recv, recvmsg, sendmsg,
};

use crate::confine::{Inherited, InheritedError};
use crate::control::{CONTROL_FD, Command, Event, MAX_MESSAGE};

/// The owner cannot be understood or reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChannelError {
    #[error(transparent)]
    Inherited(#[from] InheritedError),
    #[error("receiving a command")]
    Receive(#[source] Errno),
    #[error("a command is longer than {MAX_MESSAGE} bytes, or brings more than one descriptor")]
    TooLong,
    #[error("a command is not valid")]
    Invalid(#[source] serde_json::Error),
    #[error("a command has no sense at this point, or lacks its descriptor")]
    OutOfPlace,
    #[error("sending an event")]
    Send(#[source] Errno),
    #[error("encoding an event")]
    Encode(#[source] serde_json::Error),
}

/// The VMM's end of the control socket.
#[derive(Debug)]
pub(super) struct Channel {
    socket: OwnedFd,
}

/// What there was to receive.
#[derive(Debug)]
pub(super) enum Received {
    /// A command, and the descriptor that came with it.
    Command(Command, Option<OwnedFd>),
    /// Nothing yet.
    Nothing,
    /// The owner has closed its end.
    Closed,
}

impl Channel {
    /// Takes the socket that the process was started with.
    pub(super) fn inherited() -> Result<Self, ChannelError> {
        Ok(Self::new(Inherited::take_packet_socket(CONTROL_FD)?))
    }

    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Waits for a command. The wait ends with the owner at the latest.
    pub(super) fn receive(&mut self) -> Result<Received, ChannelError> {
        self.receive_with(RecvFlags::empty())
    }

    /// Takes a command that is there already.
    pub(super) fn try_receive(&mut self) -> Result<Received, ChannelError> {
        self.receive_with(RecvFlags::DONTWAIT)
    }

    fn receive_with(&mut self, flags: RecvFlags) -> Result<Received, ChannelError> {
        // Nearly all commands are short: there is no room for the longest until one comes.
        let look = flags | RecvFlags::PEEK | RecvFlags::TRUNC;
        let size = loop {
            match recv(&self.socket, &mut [0; 0], look) {
                Ok((_, size)) => break size,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(Errno::CONNRESET) => return Ok(Received::Closed),
                Err(error) => return Err(ChannelError::Receive(error)),
            }
        };
        if size > MAX_MESSAGE {
            return Err(ChannelError::TooLong);
        }
        let mut buffer = vec![0; size];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            match recvmsg(&self.socket, &mut parts, &mut ancillary, flags) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(Errno::CONNRESET) => return Ok(Received::Closed),
                Err(error) => return Err(ChannelError::Receive(error)),
            }
        };
        let mut descriptors = ancillary.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
            _ => Vec::new(),
        });
        let descriptor = descriptors.next();
        let cut = received
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
        if cut || descriptors.next().is_some() {
            return Err(ChannelError::TooLong);
        }
        if received.bytes == 0 {
            return Ok(Received::Closed);
        }
        let message = buffer.get(..received.bytes).unwrap_or_default();
        let command = serde_json::from_slice(message).map_err(ChannelError::Invalid)?;
        Ok(Received::Command(command, descriptor))
    }

    /// Tells the owner something. An owner that does not read is not waited for.
    pub(super) fn send(&self, event: &Event) -> Result<(), ChannelError> {
        let message = serde_json::to_vec(event).map_err(ChannelError::Encode)?;
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let mut nothing = SendAncillaryBuffer::default();
        loop {
            match sendmsg(&self.socket, &[IoSlice::new(&message)], &mut nothing, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(ChannelError::Send(error)),
            }
        }
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::net::{AddressFamily, SendAncillaryMessage, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (Channel, OwnedFd) {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        (Channel::new(ours), theirs)
    }

    fn send(owner: &OwnedFd, message: &[u8], descriptors: &[&OwnedFd]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
        if !descriptors.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        }
        sendmsg(
            owner,
            &[IoSlice::new(message)],
            &mut ancillary,
            SendFlags::empty(),
        )
        .unwrap();
    }

    #[test]
    fn command_comes_with_its_descriptor() {
        let (mut channel, owner) = pair();
        let (stream, _other) = pair();
        send(
            &owner,
            br#"{"command":"accept","port":1024}"#,
            &[&stream.socket],
        );
        let received = channel.try_receive().unwrap();
        assert!(matches!(
            received,
            Received::Command(Command::Accept { port: 1024 }, Some(_))
        ));
        assert!(matches!(channel.try_receive().unwrap(), Received::Nothing));
    }

    #[test]
    fn closed_owner_is_the_end() {
        let (mut channel, owner) = pair();
        drop(owner);
        assert!(matches!(channel.receive().unwrap(), Received::Closed));
    }

    #[test]
    fn garbage_and_oversize_are_errors() {
        let (mut channel, owner) = pair();
        send(&owner, b"{\"command\":\"fly\"}", &[]);
        assert!(matches!(channel.receive(), Err(ChannelError::Invalid(_))));
        send(&owner, &vec![b' '; MAX_MESSAGE + 1], &[]);
        assert!(matches!(channel.receive(), Err(ChannelError::TooLong)));
        send(&owner, br#"{"command":"stop"}"#, &[&owner, &owner]);
        assert!(matches!(channel.receive(), Err(ChannelError::TooLong)));
    }

    #[test]
    fn owner_that_does_not_read_is_not_waited_for() {
        let (channel, _owner) = pair();
        let full = (0..100_000).any(|_| channel.send(&Event::Paused).is_err());
        assert!(full);
    }
}
