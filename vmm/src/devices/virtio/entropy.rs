//! The entropy device (virtio 1.2, section 5.4): one queue of buffers that the host fills with
//! random bytes.
//!
//! It is served on the I/O event loop. The bytes come from `getrandom(2)`, a bounded number for each
//! request: the length of a buffer is the guest's word, and it may describe more than it has memory.

use std::io;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use rustix::rand::{GetRandomFlags, getrandom};
use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::queue::{Chain, QueueError, Served, VirtQueue};
use super::{
    ActivateError, DeviceResources, Interrupt, TRANSPORT_FEATURES, VirtioDevice, report_failure,
};
use crate::memory::{GuestRam, GuestRamHandle};

/// Device number (virtio 1.2, section 5).
const ID_ENTROPY: u32 = 4;

/// A driver has one request under way; more are for drivers that want more.
const QUEUE_SIZE: u16 = 16;

/// The most random bytes that one request gets. A driver that wants more asks again.
const MAX_BYTES_PER_REQUEST: usize = 64 * 1024;

/// How many bytes are drawn at once.
const CHUNK: usize = 4096;

/// Events of the I/O loop.
const ACTIVATED: u32 = 0;
const KICKED: u32 = 1;

/// Why the device stopped serving.
#[derive(Debug, thiserror::Error)]
enum EntropyError {
    #[error("the request queue is broken")]
    Queue(#[from] QueueError),
    // VIRTIO 1.2 §5.4.6.1: the driver must not place driver-readable buffers into the queue.
    #[error("the request at head {head} has a buffer for the device to read")]
    ReadableBuffer { head: u16 },
    #[error("the request at head {head} has no room for a single byte")]
    NoRoom { head: u16 },
    #[error("the host gives no random bytes")]
    Host(#[source] io::Error),
}

/// The entropy device.
pub struct Entropy {
    /// Tells the I/O loop that there is a kick to watch.
    activated: EventFd,
    running: Option<Running>,
    /// The kick that the I/O loop watches. The transport keeps one for its life, so it stays
    /// registered across resets.
    watched: Option<Arc<EventFd>>,
}

struct Running {
    queue: VirtQueue,
    memory: GuestRamHandle,
    interrupt: Interrupt,
}

impl Entropy {
    /// Makes the device.
    ///
    /// # Errors
    /// The host has no event descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            activated: EventFd::new(EFD_NONBLOCK)?,
            running: None,
            watched: None,
        })
    }

    /// Watches the queue's kick, if it is not watched yet.
    fn watch(&mut self, ops: &mut EventOps<'_>) {
        let Some(running) = &self.running else { return };
        let kick = running.queue.kick();
        if self
            .watched
            .as_ref()
            .is_some_and(|watched| Arc::ptr_eq(watched, kick))
        {
            return;
        }
        if let Some(old) = self.watched.take() {
            // It fails when it is not watched, and that is the aim.
            let _ = ops.remove(Events::empty(old.as_ref()));
        }
        match ops.add(Events::with_data(kick.as_ref(), KICKED, EventSet::IN)) {
            Ok(()) => self.watched = Some(Arc::clone(kick)),
            Err(error) => self.fail(&error),
        }
    }

    fn serve(&mut self) {
        let Some(running) = &mut self.running else {
            return;
        };
        let memory = running.memory.memory();
        match running.serve(&memory) {
            Ok(Served::All) => {}
            Ok(Served::Partly) => {
                // Others on the loop get their turn first. A full counter is a kick already.
                let _ = running.queue.kick().write(1);
            }
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &dyn std::error::Error) {
        report_failure(ID_ENTROPY, error);
        if let Some(running) = self.running.take() {
            running.interrupt.signal_needs_reset();
        }
    }
}

impl Running {
    fn serve(&mut self, memory: &GuestRam) -> Result<Served, EntropyError> {
        let limit = self.queue.size();
        self.queue.serve(memory, &self.interrupt, limit, fill)
    }
}

impl VirtioDevice for Entropy {
    fn device_id(&self) -> u32 {
        ID_ENTROPY
    }

    fn max_queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn offered_features(&self) -> u64 {
        TRANSPORT_FEATURES
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, resources: DeviceResources) -> Result<(), ActivateError> {
        let DeviceResources {
            memory,
            queues,
            interrupt,
            ..
        } = resources;
        let Some(queue) = queues.into_iter().next().flatten() else {
            return Err(ActivateError("its queue is not ready".into()));
        };
        self.running = Some(Running {
            queue: VirtQueue::new(queue),
            memory,
            interrupt,
        });
        self.activated
            .write(1)
            .map_err(|error| ActivateError(format!("cannot wake the I/O loop: {error}")))
    }

    fn reset(&mut self) {
        self.running = None;
    }
}

impl MutEventSubscriber for Entropy {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::with_data(&self.activated, ACTIVATED, EventSet::IN)) {
            self.fail(&error);
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        match events.data() {
            ACTIVATED => {
                // Empty when a second activation was quicker than the loop.
                let _ = self.activated.read();
                self.watch(ops);
            }
            KICKED => {
                if let Some(kick) = &self.watched {
                    // Also when the device does not run, or the loop would be woken for ever.
                    let _ = kick.read();
                }
                self.serve();
            }
            _ => {}
        }
    }
}

/// Fills a request's buffers, up to [`MAX_BYTES_PER_REQUEST`] bytes.
fn fill(chain: &mut Chain<'_>) -> Result<u32, EntropyError> {
    let head = chain.head();
    if !chain.readable.is_empty() {
        return Err(EntropyError::ReadableBuffer { head });
    }
    if chain.writable.is_empty() {
        return Err(EntropyError::NoRoom { head });
    }
    chain.writable.truncate(MAX_BYTES_PER_REQUEST);
    let mut written = 0;
    let mut chunk = [0; CHUNK];
    while !chain.writable.is_empty() {
        let wanted = chain.writable.len().min(CHUNK);
        let Some(room) = chunk.get_mut(..wanted) else {
            break;
        };
        // Fewer than 256 bytes always come at once; a larger request can be cut by a signal.
        let count = rustix::io::retry_on_intr(|| getrandom(&mut *room, GetRandomFlags::empty()))
            .map_err(|error| EntropyError::Host(error.into()))?;
        let Some(random) = room.get(..count) else {
            break;
        };
        if chain.writable.write_all(random).is_err() {
            break;
        }
        written += random.len();
    }
    // At most 64 KiB.
    Ok(u32::try_from(written).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
