//! The lane disk: a block device whose sectors are memory that clients share for bulk data.
//!
//! ```text
//!   client            memory (memfd)  ◀──────── write, read ────────┐
//!     │ SCM_RIGHTS      ▲                                           │
//!     ▼                 │ mapped                                    │
//!   a vsock connection ─┴─ lane N ── sectors from N * LANE_SECTORS ─┴─ guest: O_DIRECT
//! ```
//!
//! What moves through vsock is cut into packets of a few KiB, each with its header, buffer and
//! interrupt. A client that has much to move sends, with the first bytes of its stream, a descriptor
//! of memory: the connection's lane. The guest reaches it as a row of this disk's sectors, and moves a
//! MiB with one request. The lane is there for as long as its connection.
//!
//! The disk itself is only there, for a driver to find, once there has been a lane: until then its
//! window tells device 0 (virtio 1.2, section 4.2.2), and a guest boots past it in three exits.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_manager::{EventOps, Events, MutEventSubscriber};
use rustix::fs::{SealFlags, fcntl_get_seals, fstat};
use rustix::io::Errno;
use vm_memory::mmap::MmapRegion;
use vm_memory::{FileOffset, VolatileMemory, VolatileSlice};

use super::config::{ConfigSpace, SECTOR_SIZE, features};
use super::medium::Medium;
use super::request::{Disk, NoStatus};
use super::{ID_BLOCK, QUEUE_SIZE};
use crate::devices::virtio::looped::LoopedQueue;
use crate::devices::virtio::queue::{Chain, QueueError};
use crate::devices::virtio::{ActivateError, DeviceResources, TRANSPORT_FEATURES, VirtioDevice};

/// The length of one lane in bytes. A client's memory is as long.
pub const LANE_LEN: u64 = 1 << 21;

/// How many lanes can be told apart: twice as many as a side has vsock ports.
const LANES: u64 = 1 << 33;

/// How many requests are served before others on the loop get their turn: each can be a MiB.
const BATCH: u16 = 4;

/// Which lane: the port of the side that started the connection, which nobody else uses meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LaneNumber(u64);

impl LaneNumber {
    /// The lane of a connection that the host started from this port of its own.
    #[must_use]
    pub const fn of_host_port(port: u32) -> Self {
        Self(port as u64)
    }

    /// The lane of a connection that the guest started from this port of its own.
    #[must_use]
    pub const fn of_guest_port(port: u32) -> Self {
        Self(1 << 32 | port as u64)
    }

    /// How many lanes lie before it on the disk.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The lanes of a machine. Clones are the same lanes.
#[derive(Debug, Clone, Default)]
pub struct Lanes(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<LaneNumber, Arc<MmapRegion>>,
    /// Whether there has ever been one.
    shown: bool,
}

/// A lane that is there until this is dropped.
#[derive(Debug)]
pub struct OpenLane {
    lanes: Lanes,
    number: LaneNumber,
}

impl Lanes {
    /// Makes `memory` this lane; `None` if there is one, or the memory is not such that it can be mapped
    /// safely: a file of at least [`LANE_LEN`] bytes that nobody can make shorter.
    #[must_use]
    pub fn open(&self, number: LaneNumber, memory: OwnedFd) -> Option<OpenLane> {
        let mut state = self.lock();
        let Entry::Vacant(place) = state.open.entry(number) else {
            return None;
        };
        // Else its owner could have us killed by SIGBUS.
        let seals = fcntl_get_seals(&memory).ok()?;
        let size = u64::try_from(fstat(&memory).ok()?.st_size).ok()?;
        if !seals.contains(SealFlags::SHRINK) || size < LANE_LEN {
            return None;
        }
        let length = usize::try_from(LANE_LEN).ok()?;
        let memory = FileOffset::new(memory.into(), 0);
        place.insert(Arc::new(MmapRegion::from_file(memory, length).ok()?));
        state.shown = true;
        Some(OpenLane {
            lanes: self.clone(),
            number,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory at this place of the disk, and the place in it.
    fn find(&self, offset: u64) -> io::Result<Place> {
        let number = LaneNumber(offset / LANE_LEN);
        let memory = self.lock().open.get(&number).cloned();
        let at = usize::try_from(offset % LANE_LEN).map_err(io::Error::other)?;
        // What the guest asks for is not there: no failure of the host's.
        let memory = memory.ok_or(Errno::NXIO)?;
        Ok(Place { memory, at })
    }
}

/// A place in a lane.
struct Place {
    memory: Arc<MmapRegion>,
    at: usize,
}

impl Place {
    /// Has `copy` copy between the lane, from this place on, and `buffers`, until one of them ends.
    /// Returns how many bytes that were.
    fn copy(
        &self,
        buffers: &[VolatileSlice<'_>],
        copy: impl Fn(VolatileSlice<'_>, VolatileSlice<'_>),
    ) -> io::Result<usize> {
        let mut at = self.at;
        for buffer in buffers {
            let count = buffer.len().min(self.memory.len() - at);
            let ours = self.memory.get_slice(at, count).map_err(io::Error::other)?;
            let theirs = buffer.subslice(0, count).map_err(io::Error::other)?;
            copy(ours, theirs);
            at += count;
        }
        Ok(at - self.at)
    }
}

impl Drop for OpenLane {
    fn drop(&mut self) {
        self.lanes.lock().open.remove(&self.number);
    }
}

impl Medium for Lanes {
    fn sectors(&self) -> u64 {
        LANES * (LANE_LEN / SECTOR_SIZE)
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn punches_holes(&self) -> bool {
        false
    }

    fn read_at(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<usize> {
        let lane = self.find(offset)?;
        lane.copy(buffers, |lane, buffer| lane.copy_to_volatile_slice(buffer))
    }

    fn write_at(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<usize> {
        let lane = self.find(offset)?;
        lane.copy(buffers, |lane, buffer| buffer.copy_to_volatile_slice(lane))
    }

    /// Memory outlives no crash.
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn punch_hole(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Err(Errno::OPNOTSUPP.into())
    }

    fn zero_range(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Err(Errno::OPNOTSUPP.into())
    }
}

/// The lane disk; see the [module](self). Memory never makes anybody wait, so the vCPU that has a request
/// serves it itself: neither another thread nor the vCPU has to be woken. What is more than a few requests
/// is the I/O loop's.
pub struct LaneDisk {
    lanes: Lanes,
    config: ConfigSpace,
    queue: LoopedQueue,
    disk: Disk<Lanes>,
}

/// Why the device stopped serving.
#[derive(Debug, thiserror::Error)]
enum LaneError {
    #[error("the request queue is broken")]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Request(#[from] NoStatus),
}

impl LaneDisk {
    /// Makes the disk of these lanes.
    ///
    /// # Errors
    /// The host has no event descriptors left.
    pub fn new(lanes: Lanes) -> io::Result<Self> {
        Ok(Self {
            config: ConfigSpace::new(lanes.sectors(), QUEUE_SIZE),
            queue: LoopedQueue::new(ID_BLOCK, BATCH)?,
            // Whether a driver knows of a cache makes no difference: there is none.
            disk: Disk::new(Arc::new(lanes.clone()), "sovereign-lanes", u64::MAX),
            lanes,
        })
    }
}

impl VirtioDevice for LaneDisk {
    fn device_id(&self) -> u32 {
        if self.lanes.lock().shown { ID_BLOCK } else { 0 }
    }

    fn max_queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn offered_features(&self) -> u64 {
        TRANSPORT_FEATURES | features(self.lanes.is_read_only(), self.lanes.punches_holes())
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, resources: DeviceResources) -> Result<(), ActivateError> {
        self.queue.activate(resources)
    }

    fn serves_at_once(&self) -> bool {
        true
    }

    fn notified(&mut self, _queue: usize) {
        let disk = &mut self.disk;
        self.queue.serve(|chain| execute(disk, chain));
    }

    fn reset(&mut self) {
        self.queue.reset();
    }
}

impl MutEventSubscriber for LaneDisk {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        self.queue.init(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let disk = &mut self.disk;
        self.queue
            .process(events, ops, |chain| execute(disk, chain));
    }
}

fn execute(disk: &mut Disk<Lanes>, chain: &mut Chain<'_>) -> Result<u32, LaneError> {
    Ok(disk.execute(chain)?)
}
