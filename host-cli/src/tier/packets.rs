//! Control sockets: packets, each one message, and with some a descriptor.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};

/// Makes the two ends of a control socket.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = SocketType::SEQPACKET;
    Ok(socketpair(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends a packet, with a descriptor if there is one.
pub(crate) fn send(
    socket: impl AsFd,
    message: &[u8],
    descriptor: Option<BorrowedFd>,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|descriptor| [descriptor]);
    if let Some(descriptors) = &descriptors
        && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors))
    {
        return Err(io::Error::other("no room for a descriptor"));
    }
    let iov = [IoSlice::new(message)];
    rustix::io::retry_on_intr(|| sendmsg(&socket, &iov, &mut ancillary, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Takes the next packet, which has at most `limit` bytes, with the descriptor that came with it;
/// `None` at the end of the conversation.
///
/// # Errors
///
/// The system's, or that the packet is larger.
pub(crate) fn receive(
    socket: impl AsFd,
    limit: usize,
) -> io::Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
    let mut message = vec![0; limit];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = past_reset(|| {
        let mut iov = [IoSliceMut::new(&mut message)];
        recvmsg(&socket, &mut iov, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::other("a message that is too large"));
    }
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    message.truncate(received.bytes);
    Ok((received.bytes > 0).then_some((message, descriptor)))
}

/// Receives, and once more if what came was only that the other side has ended without reading all that it
/// was told. Linux says so once, at whatever moment that is, and before what the other side itself had to say
/// (`unix_release_sock` sets the error, `sock_error` clears it).
pub(crate) fn past_reset<T>(
    mut receive: impl FnMut() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    match rustix::io::retry_on_intr(&mut receive) {
        Err(Errno::CONNRESET) => rustix::io::retry_on_intr(receive),
        received => received,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_arrive_from_whom_has_not_listened_to_the_end() {
        let (ours, theirs) = pair().unwrap();
        send(&ours, b"never read", None).unwrap();
        send(&theirs, b"no", None).unwrap();
        drop(theirs);
        let (message, descriptor) = receive(&ours, 100).unwrap().unwrap();
        assert_eq!(
            (message.as_slice(), descriptor.is_none()),
            (&b"no"[..], true)
        );
        assert!(receive(&ours, 100).unwrap().is_none());
    }
}
