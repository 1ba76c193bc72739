//! Buffers of many packets, collected for one system call.

use vm_memory::VolatileSlice;

use super::packet::{ConnectionKey, Header, RxBuffer};
use super::spec::{MAX_PAYLOAD, OP_RW};
use super::stream::MAX_BUFFERS;
use super::table::EntryId;
use crate::devices::virtio::queue::Chain;

/// How many chains of a queue are served before the event loop gets its turn again.
pub(super) const TURN: u16 = 256;

/// The most payload that is gathered for one write to the host.
const MAX_BATCH: usize = 4 * MAX_PAYLOAD;

/// Payload for one connection, still in the guest's buffers.
#[derive(Default)]
pub(super) struct Batch<'m> {
    pub(super) connection: Option<(EntryId, ConnectionKey)>,
    pub(super) pieces: Vec<VolatileSlice<'m>>,
    pub(super) bytes: usize,
    /// The chains that the pieces are in, by their heads, and how many descriptors each has.
    pub(super) chains: Vec<(u16, usize)>,
}

impl<'m> Batch<'m> {
    /// Whether payload with this header can be gathered with what is there.
    pub(super) fn continues_with(&self, header: &Header) -> bool {
        header.op == OP_RW
            && self.pieces.len() < MAX_BUFFERS
            && self.bytes < MAX_BATCH
            && self.connection.is_none_or(|(_, key)| key == header.key())
    }

    pub(super) fn add(&mut self, id: EntryId, key: ConnectionKey, chain: &Chain<'m>) {
        self.connection = Some((id, key));
        self.pieces.extend_from_slice(chain.readable.slices());
        self.bytes += chain.readable.len();
        self.chains.push((chain.head(), chain.descriptors()));
    }
}

/// What is put into the RX queue before the event loop gets its turn again.
pub(super) struct Turn<'m> {
    pub(super) chains_left: u16,
    /// Bytes of payload that the guest was not told of.
    pub(super) unsignalled: usize,
    /// The buffers for the current read; kept, like the next, for their allocation.
    pub(super) buffers: Vec<RxBuffer<'m>>,
    /// The places for payload in them, together as long as `room`.
    pub(super) pieces: Vec<VolatileSlice<'m>>,
    pub(super) room: usize,
}

impl<'m> Turn<'m> {
    pub(super) fn new() -> Self {
        Self {
            chains_left: TURN,
            unsignalled: 0,
            buffers: Vec::new(),
            pieces: Vec::new(),
            room: 0,
        }
    }

    /// Adds a buffer to the read, of which no more is used than the limit allows.
    pub(super) fn add(&mut self, buffer: RxBuffer<'m>, limit: usize) {
        for piece in buffer.payload() {
            let len = piece.len().min(limit - self.room);
            // No more than one system call takes, or it would seem to have read little.
            if let Ok(piece) = piece.subslice(0, len)
                && len > 0
                && self.pieces.len() < MAX_BUFFERS
            {
                self.pieces.push(piece);
                self.room += len;
            }
        }
        self.buffers.push(buffer);
    }
}
