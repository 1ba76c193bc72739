//! The agent's end of a lane: memory that the host has, too, wherever that is.

mod vsock;

use std::fs::File;
use std::io;

use agent_archive::lane::{Fetch, Fill, LaneReader, LaneWriter, Memory};

pub(crate) use self::vsock::disk_name;
use crate::linux::connection::Connection;

/// A lane.
#[derive(Debug)]
pub(crate) enum Lane {
    /// Memory that came over the stream, from a host with the same kernel. It is mapped before the
    /// operation's process is made, which so needs no right to it.
    Shared(Memory),
    /// Sectors of the lane disk, in a virtual machine.
    Vsock(vsock::Lane),
}

/// What writes through a lane.
pub(crate) type Writer = LaneWriter<Lane, File, File>;
/// What reads through a lane.
pub(crate) type Reader = LaneReader<Lane, File, File>;

impl Lane {
    /// The lane that the host has asked for over this connection; `window` is that of the lane disk, if
    /// this is a virtual machine.
    pub(crate) fn of(connection: &mut Connection, window: Option<&str>) -> io::Result<Self> {
        match (connection.take_descriptor(), window) {
            (Some(memory), _) => Memory::of_other(memory).map(Self::Shared),
            (None, Some(window)) => vsock::Lane::of_vsock(window, connection).map(Self::Vsock),
            (None, None) => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Fill for Lane {
    fn room(&mut self, slot: usize, at: usize) -> io::Result<&mut [u8]> {
        match self {
            Self::Shared(lane) => lane.room(slot, at),
            Self::Vsock(lane) => lane.room(slot, at),
        }
    }

    fn put(&mut self, slot: usize, at: usize, len: usize) -> io::Result<()> {
        match self {
            Self::Shared(lane) => lane.put(slot, at, len),
            Self::Vsock(lane) => lane.put(slot, at, len),
        }
    }

    fn complete(&mut self, slot: usize, len: usize) -> io::Result<()> {
        match self {
            Self::Shared(lane) => lane.complete(slot, len),
            Self::Vsock(lane) => lane.complete(slot, len),
        }
    }
}

impl Fetch for Lane {
    fn open(&mut self, slot: usize, len: usize) -> io::Result<()> {
        match self {
            Self::Shared(lane) => lane.open(slot, len),
            Self::Vsock(lane) => lane.open(slot, len),
        }
    }

    fn show(&mut self, at: usize) -> io::Result<&[u8]> {
        match self {
            Self::Shared(lane) => lane.show(at),
            Self::Vsock(lane) => lane.show(at),
        }
    }
}
