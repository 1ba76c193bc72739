//! Which packet belongs to which connection, whose turn it is, and what is told to those who have no
//! connection.
//!
//! Connections that have something for the guest stand in one queue and get their turns one after
//! another, so one that is busy slows the others only by its own turn, and one that is stalled (no
//! credit, nothing to read) does not stand in the queue at all.
//!
//! Everything is bounded: entries by the table, queued turns by entries, and resets owed to the guest
//! by [`Muxer::is_backlogged`], on which the device stops to take packets.

mod packets;
mod streams;

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use self::streams::FIRST_HOST_PORT;
use super::VsockError;
use super::connection::{Connection, Phase, Verdict};
use super::host::{PassedStreams, PathInterface};
use super::packet::Header;
use super::reactor::{Reactor, Token};
use super::spec::{OP_RST, TYPE_STREAM};
use super::table::{Entry, EntryId, MAX_ENTRIES, Peer, Table};
use crate::devices::virtio::block::lanes::Lanes;

/// How many resets may be owed before the device stops to take packets.
const MAX_RESETS: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Muxer {
    guest_cid: u32,
    pub(super) reactor: Reactor,
    table: Table,
    /// Entries that wait for their turn at the RX queue.
    turns: VecDeque<EntryId>,
    /// Resets that the guest is yet to get.
    resets: VecDeque<Header>,
    passed: PassedStreams,
    path: Option<PathInterface>,
    clients: usize,
    /// Clients may be waiting to be let in, for whom there was no room.
    clients_wait: bool,
    next_host_port: u32,
    lanes: Option<Lanes>,
}

impl Muxer {
    pub(super) fn new(
        guest_cid: u32,
        path: Option<&Path>,
        lanes: Option<Lanes>,
    ) -> Result<Self, VsockError> {
        let reactor = Reactor::new().map_err(VsockError::Reactor)?;
        let path = path.map(PathInterface::listen).transpose()?;
        if let Some(path) = &path {
            reactor
                .watch_input(path, Token::Listener)
                .map_err(VsockError::Reactor)?;
        }
        Ok(Self {
            guest_cid,
            reactor,
            table: Table::default(),
            turns: VecDeque::new(),
            resets: VecDeque::new(),
            passed: PassedStreams::default(),
            path,
            clients: 0,
            clients_wait: false,
            next_host_port: FIRST_HOST_PORT,
            lanes,
        })
    }

    // ---- packets to the guest -------------------------------------------------------------------

    /// Whether so many resets are owed that no packets should be taken until some were sent.
    pub(super) fn is_backlogged(&self) -> bool {
        self.resets.len() >= MAX_RESETS
    }

    pub(super) fn owes_reset(&self) -> bool {
        !self.resets.is_empty()
    }

    /// The next reset that is owed. It counts as sent.
    pub(super) fn next_reset(&mut self) -> Option<Header> {
        self.resets.pop_front()
    }

    /// The next entry whose turn it is. It is queued again by [`settle`](Self::settle) or
    /// [`give_turn_back`](Self::give_turn_back).
    pub(super) fn next_turn(&mut self) -> Option<EntryId> {
        while let Some(id) = self.turns.pop_front() {
            if let Some(entry) = self.table.get_mut(id) {
                entry.queued = false;
                return Some(id);
            }
        }
        None
    }

    /// Undoes [`next_turn`](Self::next_turn): the guest has no buffers now.
    pub(super) fn give_turn_back(&mut self, id: EntryId) {
        if let Some(entry) = self.table.get_mut(id)
            && !entry.queued
        {
            entry.queued = true;
            self.turns.push_front(id);
        }
    }

    pub(super) fn connection(&mut self, id: EntryId) -> Option<&mut Connection> {
        self.table.connection(id)
    }

    /// Draws the consequences of whatever happened to a connection.
    pub(super) fn settle(&mut self, id: EntryId, verdict: Verdict) {
        if verdict != Verdict::Keep {
            self.end(id, verdict);
        }
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let Entry {
            peer: Peer::Connection(connection),
            queued,
            watching_room,
            deadline,
        } = entry
        else {
            return;
        };
        connection.request_credit();
        let mut failed = false;
        if connection.is_blocked() && !*watching_room {
            failed |= self
                .reactor
                .watch_room(connection.stream(), id, true)
                .is_err();
            *watching_room = true;
        }
        if connection.deadline() != *deadline {
            if let Some(old) = deadline.take() {
                self.reactor.clear_deadline(id, old);
            }
            *deadline = connection.deadline();
            if let Some(new) = *deadline {
                failed |= self.reactor.set_deadline(id, new).is_err();
            }
        }
        if !*queued && connection.has_work() {
            *queued = true;
            self.turns.push_back(id);
        }
        if failed {
            // The kernel has no memory for us: better no connection than one that hangs.
            self.end(id, Verdict::Reset);
            self.remove(id);
        }
    }

    fn end(&mut self, id: EntryId, verdict: Verdict) {
        let Some(connection) = self.table.connection(id) else {
            return;
        };
        if verdict == Verdict::Reset && connection.phase() != Phase::Draining {
            self.resets
                .push_back(Header::to_guest(connection.key(), TYPE_STREAM, OP_RST));
        }
        self.drop_entry(id);
    }

    /// Ends an entry, except that what the guest has sent goes on to the host.
    fn drop_entry(&mut self, id: EntryId) {
        let drains = match self.table.get_mut(id) {
            Some(Entry {
                peer: Peer::Connection(connection),
                ..
            }) => {
                let key = connection.key();
                let named = connection.phase() != Phase::Draining;
                let drains = connection.start_draining();
                if named {
                    self.table.forget_key(key);
                }
                drains
            }
            Some(Entry {
                peer: Peer::Caller(request),
                ..
            }) => {
                let key = request.key();
                self.table.forget_key(key);
                false
            }
            _ => false,
        };
        if !drains {
            self.remove(id);
        }
    }

    /// Takes an entry out of everything. Its socket is closed.
    fn remove(&mut self, id: EntryId) {
        let Some(entry) = self.table.remove(id) else {
            return;
        };
        if let Some(deadline) = entry.deadline {
            self.reactor.clear_deadline(id, deadline);
        }
        if matches!(entry.peer, Peer::Client(_)) {
            self.clients -= 1;
        }
        self.offer_room();
        if self.turns.len() > 2 * MAX_ENTRIES {
            self.turns.retain(|id| self.table.contains(*id));
        }
    }

    // ---- time and the end -----------------------------------------------------------------------

    fn set_deadline(&mut self, id: Option<EntryId>, after: Duration) {
        let Some(id) = id else { return };
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let deadline = Instant::now() + after;
        entry.deadline = Some(deadline);
        if self.reactor.set_deadline(id, deadline).is_err() {
            self.drop_entry(id);
        }
    }

    /// Ends whatever has let its deadline pass.
    pub(super) fn on_timer(&mut self, now: Instant) {
        while let Some(id) = self.reactor.take_expired(now) {
            let Some(entry) = self.table.get_mut(id) else {
                continue;
            };
            entry.deadline = None;
            match &entry.peer {
                Peer::Caller(request) => {
                    let request = *request;
                    self.drop_entry(id);
                    self.owe_reset_to(&request);
                }
                Peer::Client(_) => self.remove(id),
                Peer::Connection(_) => self.settle(id, Verdict::Reset),
            }
        }
        // If it fails, deadlines are kept when the next one is set.
        let _ = self.reactor.rearm(now);
    }

    /// The driver has reset the device: it knows of no connection any more. Streams that it has not
    /// heard of stay, and so does what is on its way to the host.
    pub(super) fn forget_guest(&mut self) {
        self.resets.clear();
        let known = |entry: &Entry| match &entry.peer {
            Peer::Client(_) => false,
            Peer::Caller(_) => true,
            Peer::Connection(connection) => connection.is_exposed(),
        };
        for id in self.table.ids(known) {
            self.drop_entry(id);
        }
    }

    /// The driver is broken: closes every stream.
    pub(super) fn close_all(&mut self) {
        self.forget_guest();
        self.passed.clear();
        for id in self.table.ids(|_| true) {
            self.drop_entry(id);
            self.remove(id);
        }
    }

    #[cfg(any(test, feature = "test-support"))]
    pub(super) fn entries(&self) -> usize {
        self.table.len()
    }
}

/// How much a new connection may have under way from the guest, when there are so many others: the
/// whole may not grow beyond 16 + 12 + 12 MiB.
fn window_for(others: usize) -> u32 {
    match others {
        0..64 => 256 * 1024,
        64..256 => 64 * 1024,
        _ => 16 * 1024,
    }
}
