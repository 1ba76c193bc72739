//! What becomes of packets from the guest.

use std::os::fd::OwnedFd;
use std::time::Duration;

use vm_memory::VolatileSlice;

use super::{Muxer, window_for};
use crate::devices::virtio::vsock::connection::{Connection, Phase, Verdict};
use crate::devices::virtio::vsock::packet::Header;
use crate::devices::virtio::vsock::spec::{HOST_CID, OP_REQUEST, OP_RST, OP_RW, TYPE_STREAM};
use crate::devices::virtio::vsock::stream::HostStream;
use crate::devices::virtio::vsock::table::{EntryId, Peer};

/// How long the guest's REQUEST for a port that is served waits for a stream. Linux gives up then.
const CALLER_TIMEOUT: Duration = Duration::from_secs(2);

impl Muxer {
    /// Takes in a packet. If it has payload for a connection, says which: it is to be given to
    /// [`deliver`](Self::deliver).
    pub(in super::super) fn on_packet(&mut self, header: &Header) -> Option<EntryId> {
        if header.src_cid != u64::from(self.guest_cid) {
            // Whoever this claims to be, an answer would go to somebody else.
            return None;
        }
        // VIRTIO 1.2 §5.10.6.4: an unknown type is answered by RST. So is a CID that we do not serve,
        // as a guest that hears nothing waits.
        if header.socket_type != TYPE_STREAM || header.dst_cid != HOST_CID {
            self.owe_reset_to(header);
            return None;
        }
        let Some(id) = self.table.find(header.key()) else {
            self.on_stranger(header);
            return None;
        };
        if header.op == OP_REQUEST {
            self.on_second_request(id, header);
            return None;
        }
        let Some(connection) = self.table.connection(id) else {
            self.on_impatient_caller(id, header);
            return None;
        };
        let verdict = connection.on_packet(header);
        self.settle(id, verdict);
        (header.op == OP_RW && verdict == Verdict::Keep).then_some(id)
    }

    /// Takes in a packet whose payload is not all there.
    pub(in super::super) fn on_malformed(&mut self, header: &Header) {
        if header.src_cid != u64::from(self.guest_cid) {
            return;
        }
        if let Some(id) = self.table.find(header.key()) {
            self.drop_entry(id);
        }
        self.owe_reset_to(header);
    }

    /// Passes payload on to the host.
    pub(in super::super) fn deliver(&mut self, id: EntryId, payload: &[VolatileSlice<'_>]) {
        if let Some(connection) = self.table.connection(id) {
            connection.deliver(payload);
            self.settle(id, Verdict::Keep);
        }
    }

    fn on_stranger(&mut self, header: &Header) {
        if header.op != OP_REQUEST || self.table.is_full() {
            self.owe_reset_to(header);
        } else if let Some(stream) = self.passed.take(header.dst_port) {
            self.join(header, stream);
        } else if let Some(path) = &self.path {
            match path.dial(header.dst_port) {
                Ok(stream) => self.join(header, stream),
                Err(_) => self.owe_reset_to(header),
            }
        } else if self.passed.is_served(header.dst_port) {
            // The next stream for this port is probably on its way.
            let id = self.table.insert(Peer::Caller(*header), Some(header.key()));
            self.set_deadline(id, CALLER_TIMEOUT);
        } else {
            self.owe_reset_to(header);
        }
    }

    fn on_second_request(&mut self, id: EntryId, header: &Header) {
        // A connection of which the guest has read the end already is no obstacle: Linux frees the
        // port before we hear of it.
        let over = self
            .table
            .connection(id)
            .is_some_and(|old| old.phase() == Phase::Closing);
        self.drop_entry(id);
        if over {
            self.on_stranger(header);
        } else {
            self.owe_reset_to(header);
        }
    }

    /// The guest sends something before its request was answered.
    fn on_impatient_caller(&mut self, id: EntryId, header: &Header) {
        self.drop_entry(id);
        self.owe_reset_to(header);
    }

    /// Joins the guest's request to a stream.
    pub(super) fn join(&mut self, request: &Header, stream: OwnedFd) {
        let stream = HostStream::new(stream);
        let window = window_for(self.table.len());
        match Connection::accepted(request, stream, window) {
            Ok(connection) => {
                if self.add(connection).is_none() {
                    self.owe_reset_to(request);
                }
            }
            Err(_) => self.owe_reset_to(request),
        }
    }

    /// Answers a packet that belongs to no connection.
    pub(super) fn owe_reset_to(&mut self, header: &Header) {
        // VIRTIO 1.2 §5.10.6.4: no RST is sent in response to a RST, or it would go on for ever.
        if header.op != OP_RST {
            let reset = Header::to_guest(header.key(), header.socket_type, OP_RST);
            self.resets.push_back(Header {
                src_cid: header.dst_cid,
                ..reset
            });
        }
    }
}
