//! The agent's end of the local tier's control socket.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use agent_protocol::local::{MAX_MESSAGE, Setup, Standing, decode, encode};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recv, recvmsg, send,
};

/// The control socket.
#[derive(Debug)]
pub(super) struct Control {
    socket: OwnedFd,
}

impl Control {
    pub(super) const fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Waits for what the agent is to make of itself; `None` if the host has gone away.
    pub(super) fn receive_setup(&self) -> io::Result<Option<Setup>> {
        let mut packet = [0; MAX_MESSAGE];
        let (length, _) =
            rustix::io::retry_on_intr(|| recv(&self.socket, &mut packet[..], RecvFlags::empty()))?;
        let message = packet.get(..length).unwrap_or_default();
        if message.is_empty() {
            return Ok(None);
        }
        decode(message).map(Some).map_err(io::Error::other)
    }

    /// Tells the host what has become of the agent.
    pub(super) fn send(&self, standing: &Standing) -> io::Result<()> {
        send(&self.socket, &encode(standing), SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

impl From<Control> for OwnedFd {
    fn from(control: Control) -> Self {
        control.socket
    }
}

/// What has come in.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A stream to serve.
    Stream(OwnedFd),
    /// Nothing after all, or nothing that is allowed.
    Nothing,
    /// The host is gone, and nothing will come any more.
    End,
}

/// Takes a packet off the control socket, if there is one.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<Incoming> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        flags,
    )?;
    let stream = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(match (message.bytes, stream) {
        (_, Some(stream)) => Incoming::Stream(stream),
        (0, None) => Incoming::End,
        (_, None) => Incoming::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Write};
    use std::os::unix::net::UnixStream;

    use agent_protocol::local::STREAM;
    use rustix::net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SocketFlags, SocketType, sendmsg,
        socketpair,
    };

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let kind = SocketType::SEQPACKET;
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn a_stream_arrives() {
        let (ours, theirs) = pair();
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [far.as_fd()];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let iov = [IoSlice::new(&[STREAM])];
        sendmsg(&ours, &iov, &mut ancillary, SendFlags::empty()).unwrap();
        drop(far);
        let Incoming::Stream(stream) = receive(&theirs).unwrap() else {
            panic!("no stream")
        };
        near.write_all(b"x").unwrap();
        assert_eq!(rustix::io::read(&stream, &mut [0; 1]), Ok(1));
    }

    #[test]
    fn a_packet_without_a_stream_is_nothing_and_the_end_is_told() {
        let (ours, theirs) = pair();
        send(&ours, b"?", SendFlags::empty()).unwrap();
        assert!(matches!(receive(&theirs), Ok(Incoming::Nothing)));
        drop(ours);
        assert!(matches!(receive(&theirs), Ok(Incoming::End)));
    }

    #[test]
    fn setup_is_read_and_a_host_that_left_is_none() {
        let (ours, theirs) = pair();
        let setup = Setup {
            writable_mib: 7,
            keep: None,
            hostname: "h".to_owned(),
            modules: None,
            processes: 9,
        };
        send(&ours, &encode(&setup), SendFlags::empty()).unwrap();
        drop(ours);
        let control = Control::new(theirs);
        assert_eq!(control.receive_setup().unwrap(), Some(setup));
        assert_eq!(control.receive_setup().unwrap(), None);
    }
}
