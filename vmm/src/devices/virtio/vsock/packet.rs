//! The packets that cross the virtqueues (virtio 1.2, section 5.10.6).
//!
//! A packet is a header and up to [`MAX_PAYLOAD`] bytes, laid out over the buffers of one descriptor
//! chain in any way: the header alone, header and payload in one buffer, the header in pieces, the
//! payload over many buffers. Linux has used each of these at one time or another.
//!
//! The header is copied out of guest memory once; what the guest changes afterwards is not seen. The
//! payload stays where it is until it is written to a socket.

use vm_memory::VolatileSlice;

use super::spec::{HEADER_LEN, HEADER_LEN_U32, HOST_CID, MAX_PAYLOAD};
use crate::devices::virtio::queue::{Chain, GuestBuffers};

/// `struct virtio_vsock_hdr`, in the host's byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    /// The bytes of payload that follow.
    pub(super) len: u32,
    /// `type`: which kind of socket.
    pub(super) socket_type: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    /// How much the sender's receive buffer holds in all.
    pub(super) buf_alloc: u32,
    /// How many payload bytes the sender has taken out of that buffer so far, modulo 2^32.
    pub(super) fwd_cnt: u32,
}

/// A connection's name: its two ports. The CIDs are always the host's and the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConnectionKey {
    pub(super) host_port: u32,
    pub(super) guest_port: u32,
}

/// Why a chain of the TX queue holds no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum PacketError {
    /// The chain is shorter than a header.
    #[error("a packet of {len} bytes has no room for a header")]
    NoHeader {
        /// Readable bytes in the chain.
        len: usize,
    },
    /// The header announces more payload than a packet may have, or than the chain has.
    #[error("the header announces {announced} bytes of payload where {available} are possible")]
    PayloadLength {
        /// The header, with which the sender can be answered.
        header: Header,
        /// What the header says.
        announced: u32,
        /// What would have been possible.
        available: usize,
    },
}

impl Header {
    /// Reads a header from its wire format.
    pub(super) fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Self {
        let mut fields = Fields { rest: bytes };
        Self {
            src_cid: u64::from_le_bytes(fields.next()),
            dst_cid: u64::from_le_bytes(fields.next()),
            src_port: u32::from_le_bytes(fields.next()),
            dst_port: u32::from_le_bytes(fields.next()),
            len: u32::from_le_bytes(fields.next()),
            socket_type: u16::from_le_bytes(fields.next()),
            op: u16::from_le_bytes(fields.next()),
            flags: u32::from_le_bytes(fields.next()),
            buf_alloc: u32::from_le_bytes(fields.next()),
            fwd_cnt: u32::from_le_bytes(fields.next()),
        }
    }

    /// Writes a header in its wire format.
    pub(super) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut rest = bytes.as_mut_slice();
        let mut put = |field: &[u8]| {
            if let Some((now, later)) = std::mem::take(&mut rest).split_at_mut_checked(field.len())
            {
                now.copy_from_slice(field);
                rest = later;
            }
        };
        put(&self.src_cid.to_le_bytes());
        put(&self.dst_cid.to_le_bytes());
        put(&self.src_port.to_le_bytes());
        put(&self.dst_port.to_le_bytes());
        put(&self.len.to_le_bytes());
        put(&self.socket_type.to_le_bytes());
        put(&self.op.to_le_bytes());
        put(&self.flags.to_le_bytes());
        put(&self.buf_alloc.to_le_bytes());
        put(&self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// The connection that a packet from the guest belongs to.
    pub(super) fn key(&self) -> ConnectionKey {
        ConnectionKey {
            host_port: self.dst_port,
            guest_port: self.src_port,
        }
    }

    /// A packet of our own without payload, flags or credit. The guest's CID is set when it leaves.
    pub(super) fn to_guest(key: ConnectionKey, socket_type: u16, op: u16) -> Self {
        Self {
            src_cid: HOST_CID,
            src_port: key.host_port,
            dst_port: key.guest_port,
            socket_type,
            op,
            ..Self::default()
        }
    }
}

/// Takes a header out of a chain's readable buffers and leaves exactly its payload in them.
pub(super) fn take_packet(chain: &mut Chain<'_>) -> Result<Header, PacketError> {
    let mut bytes = [0; HEADER_LEN];
    let len = chain.readable.len();
    chain
        .readable
        .read_exact(&mut bytes)
        .map_err(|_| PacketError::NoHeader { len })?;
    let header = Header::from_bytes(&bytes);
    let available = chain.readable.len().min(MAX_PAYLOAD);
    let announced = header.len;
    let payload = usize::try_from(announced).unwrap_or(usize::MAX);
    if payload > available {
        return Err(PacketError::PayloadLength {
            header,
            announced,
            available,
        });
    }
    // More buffer than payload is allowed: it is not part of the packet.
    chain.readable.truncate(payload);
    Ok(header)
}

/// A chain of the RX queue that a packet can be put into.
pub(super) struct RxBuffer<'m> {
    /// Its writable buffers begin where the payload goes.
    chain: Chain<'m>,
    header: HeaderRoom<'m>,
}

/// Where a header goes.
enum HeaderRoom<'m> {
    /// As all drivers have it.
    Whole(VolatileSlice<'m>),
    /// At the beginning of these.
    Pieces(GuestBuffers<'m>),
}

impl<'m> RxBuffer<'m> {
    /// Splits a chain into room for a header and room for payload. `None` if there is no room for a
    /// header and one byte, which no driver may offer.
    pub(super) fn new(mut chain: Chain<'m>) -> Option<Self> {
        if chain.writable.len() <= HEADER_LEN {
            return None;
        }
        let first = chain.writable.slices().first()?;
        let header = match first.subslice(0, HEADER_LEN) {
            Ok(whole) => HeaderRoom::Whole(whole),
            Err(_) => HeaderRoom::Pieces(chain.writable.clone()),
        };
        chain.writable.advance(HEADER_LEN);
        Some(Self { chain, header })
    }

    /// Where the payload goes.
    pub(super) fn payload(&self) -> &[VolatileSlice<'m>] {
        self.chain.writable.slices()
    }

    /// How much payload there is room for.
    pub(super) fn room(&self) -> usize {
        self.chain.writable.len()
    }

    /// The chain's head.
    pub(super) fn head(&self) -> u16 {
        self.chain.head()
    }

    /// Writes the header and says how many bytes the packet has in all. The payload has been put in
    /// place by then.
    pub(super) fn finish(&mut self, header: &Header) -> u32 {
        let bytes = header.to_bytes();
        match &mut self.header {
            HeaderRoom::Whole(room) => room.copy_from(&bytes),
            // There is room: `new` has looked.
            HeaderRoom::Pieces(room) => drop(room.write_all(&bytes)),
        }
        header.len.saturating_add(HEADER_LEN_U32)
    }

    /// The chain, unused.
    pub(super) fn into_chain(self) -> Chain<'m> {
        self.chain
    }
}

struct Fields<'a> {
    rest: &'a [u8],
}

impl Fields<'_> {
    /// The next `N` bytes; zeros past the end, which a caller that reads one header never meets.
    fn next<const N: usize>(&mut self) -> [u8; N] {
        match self.rest.split_first_chunk() {
            Some((field, rest)) => {
                self.rest = rest;
                *field
            }
            None => [0; N],
        }
    }
}
