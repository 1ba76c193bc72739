//! The bounded set of everything that has, or wants, a stream: found by number or by ports.

use std::collections::BTreeMap;
use std::time::Instant;

use super::connection::Connection;
use super::packet::{ConnectionKey, Header};
use super::stream::HostStream;

/// The most entries at a time.
pub(super) const MAX_ENTRIES: usize = 1023;

/// An entry's number. It is never given to another entry, so an event that comes too late finds
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EntryId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// One who has, or wants, a stream.
#[derive(Debug)]
pub(super) enum Peer {
    /// A client of the path interface that has not said yet to which port it wants.
    Client(HostStream),
    /// A REQUEST of the guest for which no stream is there yet.
    Caller(Header),
    /// Two joined ends.
    Connection(Connection),
}

/// A peer and what the muxer notes about it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) peer: Peer,
    /// Whether it waits for its turn at the RX queue.
    pub(super) queued: bool,
    /// Whether epoll watches for room in the socket.
    pub(super) watching_room: bool,
    /// The deadline that the reactor knows of.
    pub(super) deadline: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Table {
    cells: Vec<Cell>,
    free: Vec<u32>,
    keys: BTreeMap<ConnectionKey, EntryId>,
    /// The key found last: packets of one connection come in rows.
    last: Option<(ConnectionKey, EntryId)>,
}

#[derive(Debug)]
struct Cell {
    generation: u32,
    entry: Option<Entry>,
}

impl Table {
    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.cells.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= MAX_ENTRIES
    }

    /// Adds an entry, under a name if it has one. `None`, and the entry is dropped, if the table is
    /// full.
    pub(super) fn insert(&mut self, peer: Peer, key: Option<ConnectionKey>) -> Option<EntryId> {
        if self.is_full() {
            return None;
        }
        let entry = Entry {
            peer,
            queued: false,
            watching_room: false,
            deadline: None,
        };
        let id = if let Some(index) = self.free.pop() {
            let cell = self.cells.get_mut(usize::try_from(index).ok()?)?;
            cell.entry = Some(entry);
            EntryId {
                index,
                generation: cell.generation,
            }
        } else {
            let index = u32::try_from(self.cells.len()).ok()?;
            self.cells.push(Cell {
                generation: 0,
                entry: Some(entry),
            });
            EntryId {
                index,
                generation: 0,
            }
        };
        if let Some(key) = key {
            self.keys.insert(key, id);
        }
        Some(id)
    }

    pub(super) fn get_mut(&mut self, id: EntryId) -> Option<&mut Entry> {
        let cell = self.cells.get_mut(usize::try_from(id.index).ok()?)?;
        if cell.generation != id.generation {
            return None;
        }
        cell.entry.as_mut()
    }

    pub(super) fn contains(&self, id: EntryId) -> bool {
        usize::try_from(id.index)
            .ok()
            .and_then(|index| self.cells.get(index))
            .is_some_and(|cell| cell.generation == id.generation && cell.entry.is_some())
    }

    /// The connection with this number, if it is one.
    pub(super) fn connection(&mut self, id: EntryId) -> Option<&mut Connection> {
        match self.get_mut(id) {
            Some(Entry {
                peer: Peer::Connection(connection),
                ..
            }) => Some(connection),
            _ => None,
        }
    }

    pub(super) fn find(&mut self, key: ConnectionKey) -> Option<EntryId> {
        if let Some((last, id)) = self.last
            && last == key
        {
            return Some(id);
        }
        let id = self.keys.get(&key).copied()?;
        self.last = Some((key, id));
        Some(id)
    }

    /// Makes a name free for another entry.
    pub(super) fn forget_key(&mut self, key: ConnectionKey) {
        self.keys.remove(&key);
        self.last = None;
    }

    /// Takes an entry out. Its name is the caller's to forget.
    pub(super) fn remove(&mut self, id: EntryId) -> Option<Entry> {
        let cell = self.cells.get_mut(usize::try_from(id.index).ok()?)?;
        if cell.generation != id.generation {
            return None;
        }
        let entry = cell.entry.take()?;
        cell.generation = cell.generation.wrapping_add(1);
        self.free.push(id.index);
        Some(entry)
    }

    /// The numbers of the entries that `wanted` picks.
    pub(super) fn ids(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<EntryId> {
        let number = |(index, cell): (usize, &Cell)| {
            cell.entry.as_ref().filter(|entry| wanted(entry))?;
            Some(EntryId {
                index: u32::try_from(index).ok()?,
                generation: cell.generation,
            })
        };
        self.cells.iter().enumerate().filter_map(number).collect()
    }
}
