//! Which packet belongs to which connection, whose turn it is, and what is told to those who have no
//! connection.
//!
//! Connections that have something for the guest stand in one queue and get their turns one after
//! another, so one that is busy slows the others only by its own turn, and one that is stalled (no
//! credit, nothing to read) does not stand in the queue at all.
//!
//! Everything is bounded: entries by the table, queued turns by entries, and resets owed to the guest
//! by [`Muxer::is_backlogged`], on which the device stops to take packets.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use vm_memory::VolatileSlice;
use vmm_sys_util::epoll::EventSet;

use super::VsockError;
use super::connection::{Connection, Phase, Verdict};
use super::host::{PassedStreams, PathInterface, Request, read_request};
use super::packet::{ConnectionKey, Header};
use super::reactor::{Reactor, Token};
use super::spec::{HOST_CID, OP_REQUEST, OP_RST, OP_RW, TYPE_STREAM};
use super::stream::HostStream;
use super::table::{Entry, EntryId, MAX_ENTRIES, Peer, Table};

/// How long the guest's REQUEST for a port that is served waits for a stream. Linux gives up then.
const CALLER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a client of the path interface may take to send its line.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);

/// The most clients of the path interface that have not sent their line yet.
const MAX_CLIENTS: usize = 64;

/// How many resets may be owed before the device stops to take packets.
const MAX_RESETS: usize = 1024;

/// The first port of the host's end of connections that the host starts.
const FIRST_HOST_PORT: u32 = 1 << 30;

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
}

impl Muxer {
    pub(super) fn new(guest_cid: u32, path: Option<&Path>) -> Result<Self, VsockError> {
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
        })
    }

    // ---- packets from the guest -----------------------------------------------------------------

    /// Takes in a packet. If it has payload for a connection, says which: it is to be given to
    /// [`deliver`](Self::deliver).
    pub(super) fn on_packet(&mut self, header: &Header) -> Option<EntryId> {
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
    pub(super) fn on_malformed(&mut self, header: &Header) {
        if header.src_cid != u64::from(self.guest_cid) {
            return;
        }
        if let Some(id) = self.table.find(header.key()) {
            self.drop_entry(id);
        }
        self.owe_reset_to(header);
    }

    /// Passes payload on to the host.
    pub(super) fn deliver(&mut self, id: EntryId, payload: &[VolatileSlice<'_>]) {
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
    fn join(&mut self, request: &Header, stream: OwnedFd) {
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
    fn owe_reset_to(&mut self, header: &Header) {
        // VIRTIO 1.2 §5.10.6.4: no RST is sent in response to a RST, or it would go on for ever.
        if header.op != OP_RST {
            let reset = Header::to_guest(header.key(), header.socket_type, OP_RST);
            self.resets.push_back(Header {
                src_cid: header.dst_cid,
                ..reset
            });
        }
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
            failed |= self
                .reactor
                .set_deadline(id, *deadline, connection.deadline())
                .is_err();
            *deadline = connection.deadline();
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
        if entry.deadline.is_some() {
            // Taking a deadline away cannot fail: the timer is left as it is.
            let _ = self.reactor.set_deadline(id, entry.deadline, None);
        }
        if matches!(entry.peer, Peer::Client(_)) {
            self.clients -= 1;
        }
        self.offer_room();
        if self.turns.len() > 2 * MAX_ENTRIES {
            self.turns.retain(|id| self.table.contains(*id));
        }
    }

    // ---- the host's side ------------------------------------------------------------------------

    /// See [`Vsock::accept_stream`](super::Vsock::accept_stream).
    pub(super) fn accept_stream(&mut self, port: u32, stream: OwnedFd) {
        let called = |entry: &Entry| matches!(&entry.peer, Peer::Caller(request) if request.dst_port == port);
        let mut callers = self.table.ids(called);
        callers.sort_unstable_by_key(|id| self.table.get_mut(*id).and_then(|entry| entry.deadline));
        let Some(id) = callers.first().copied() else {
            self.passed.put(port, stream);
            return;
        };
        if let Some(Entry {
            peer: Peer::Caller(request),
            ..
        }) = self.table.get_mut(id)
        {
            let request = *request;
            self.drop_entry(id);
            self.join(&request, stream);
        }
    }

    /// See [`Vsock::connect_stream`](super::Vsock::connect_stream).
    pub(super) fn connect_stream(&mut self, guest_port: u32, stream: HostStream, greet: bool) {
        let key = self.free_key(guest_port);
        let window = window_for(self.table.len());
        let id = self.add(Connection::requesting(key, stream, window, greet));
        if let Some(id) = id {
            self.settle(id, Verdict::Keep);
        }
    }

    fn free_key(&mut self, guest_port: u32) -> ConnectionKey {
        // There are more ports than connections, so this ends.
        loop {
            let key = ConnectionKey {
                host_port: self.next_host_port,
                guest_port,
            };
            self.next_host_port = self.next_host_port.wrapping_add(1).max(FIRST_HOST_PORT);
            if self.table.find(key).is_none() {
                return key;
            }
        }
    }

    fn add(&mut self, connection: Connection) -> Option<EntryId> {
        let key = connection.key();
        let id = self.table.insert(Peer::Connection(connection), Some(key))?;
        let watched = self
            .table
            .connection(id)
            .map(|connection| self.reactor.watch_stream(connection.stream(), id));
        if !matches!(watched, Some(Ok(()))) {
            self.drop_entry(id);
            return None;
        }
        self.settle(id, Verdict::Keep);
        Some(id)
    }

    /// Takes in what epoll says of an entry's socket.
    pub(super) fn on_host_event(&mut self, id: EntryId, events: EventSet) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        match &mut entry.peer {
            Peer::Client(_) => self.on_client_event(id, events),
            Peer::Caller(_) => {}
            Peer::Connection(connection) => {
                let waited = connection.is_blocked();
                let verdict = connection.on_host_event(events);
                if events.contains(EventSet::OUT) && !waited && entry.watching_room {
                    // The reader keeps up again: do not wake for each of its reads.
                    entry.watching_room = false;
                    // If it fails, the next one tries again.
                    let _ = self.reactor.watch_room(connection.stream(), id, false);
                }
                self.settle(id, verdict);
            }
        }
    }

    /// Lets clients of the path interface in.
    pub(super) fn on_listener_event(&mut self) {
        self.clients_wait = false;
        loop {
            if self.clients >= MAX_CLIENTS || self.table.is_full() {
                self.clients_wait = true;
                return;
            }
            let Some(client) = self.path.as_ref().and_then(PathInterface::accept) else {
                return;
            };
            let Some(id) = self.table.insert(Peer::Client(client), None) else {
                return;
            };
            self.clients += 1;
            self.set_deadline(Some(id), CLIENT_TIMEOUT);
            let watched = match self.table.get_mut(id) {
                Some(Entry {
                    peer: Peer::Client(client),
                    ..
                }) => self.reactor.watch_stream(client, id),
                _ => Err(io::ErrorKind::NotFound.into()),
            };
            match watched {
                // It has probably sent its line by now.
                Ok(()) => self.on_client_event(id, EventSet::IN),
                Err(_) => self.remove(id),
            }
        }
    }

    fn on_client_event(&mut self, id: EntryId, events: EventSet) {
        let Some(Entry {
            peer: Peer::Client(client),
            ..
        }) = self.table.get_mut(id)
        else {
            return;
        };
        match read_request(client) {
            Request::Connect(port) => {
                let Some(entry) = self.take_client(id) else {
                    return;
                };
                self.connect_stream(port, entry, true);
            }
            Request::Incomplete if !events.contains(EventSet::READ_HANG_UP) => {}
            Request::Incomplete | Request::Invalid => self.remove(id),
        }
    }

    /// Has clients let in that wait for room.
    fn offer_room(&mut self) {
        if std::mem::take(&mut self.clients_wait) {
            self.reactor.wake();
        }
    }

    /// Turns a client into a stream of its own.
    fn take_client(&mut self, id: EntryId) -> Option<HostStream> {
        let entry = self.table.remove(id)?;
        let _ = self.reactor.set_deadline(id, entry.deadline, None);
        self.clients -= 1;
        self.offer_room();
        let Peer::Client(client) = entry.peer else {
            return None;
        };
        self.reactor.forget(&client);
        Some(client)
    }

    // ---- time and the end -----------------------------------------------------------------------

    fn set_deadline(&mut self, id: Option<EntryId>, after: Duration) {
        let Some(id) = id else { return };
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let deadline = Some(Instant::now() + after);
        let old = std::mem::replace(&mut entry.deadline, deadline);
        if self.reactor.set_deadline(id, old, deadline).is_err() {
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
        let _ = self.reactor.rearm();
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

    #[cfg(test)]
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
