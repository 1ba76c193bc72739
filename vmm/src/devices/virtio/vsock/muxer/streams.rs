//! Streams that come from the host, and what happens to them there.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use vmm_sys_util::epoll::EventSet;

use super::{Muxer, window_for};
use crate::devices::virtio::vsock::connection::{Connection, Verdict};
use crate::devices::virtio::vsock::host::{PathInterface, Request, read_request};
use crate::devices::virtio::vsock::packet::ConnectionKey;
use crate::devices::virtio::vsock::stream::HostStream;
use crate::devices::virtio::vsock::table::{Entry, EntryId, Peer};

/// How long a client of the path interface may take to send its line.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);

/// The most clients of the path interface that have not sent their line yet.
const MAX_CLIENTS: usize = 64;

/// The first port of the host's end of connections that the host starts.
pub(super) const FIRST_HOST_PORT: u32 = 1 << 30;

impl Muxer {
    /// See [`Vsock::accept_stream`](super::Vsock::accept_stream).
    pub(in super::super) fn accept_stream(&mut self, port: u32, stream: OwnedFd) {
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
    pub(in super::super) fn connect_stream(
        &mut self,
        guest_port: u32,
        stream: HostStream,
        greet: bool,
    ) {
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
            // The last number is no port: VMADDR_PORT_ANY.
            self.next_host_port = match self.next_host_port + 1 {
                u32::MAX => FIRST_HOST_PORT,
                next => next,
            };
            if self.table.find(key).is_none() {
                return key;
            }
        }
    }

    pub(super) fn add(&mut self, mut connection: Connection) -> Option<EntryId> {
        let key = connection.key();
        connection.lane().allow(self.lanes.clone());
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
    pub(in super::super) fn on_host_event(&mut self, id: EntryId, events: EventSet) {
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
    pub(in super::super) fn on_listener_event(&mut self) {
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
    pub(super) fn offer_room(&mut self) {
        if std::mem::take(&mut self.clients_wait) {
            self.reactor.wake();
        }
    }

    /// Turns a client into a stream of its own.
    fn take_client(&mut self, id: EntryId) -> Option<HostStream> {
        let entry = self.table.remove(id)?;
        if let Some(deadline) = entry.deadline {
            self.reactor.clear_deadline(id, deadline);
        }
        self.clients -= 1;
        self.offer_room();
        let Peer::Client(client) = entry.peer else {
            return None;
        };
        self.reactor.forget(&client);
        Some(client)
    }
}
