//! The entropy device (virtio 1.2, section 5.4): one queue of buffers that the host fills with
//! random bytes.
//!
//! It is served on the I/O event loop. The bytes come from `getrandom(2)`, a bounded number for each
//! request: the length of a buffer is the guest's word, and it may describe more than it has memory.

use std::io;

use event_manager::{EventOps, Events, MutEventSubscriber};
use rustix::rand::{GetRandomFlags, getrandom};

use super::looped::LoopedQueue;
use super::queue::{Chain, QueueError};
use super::{ActivateError, DeviceResources, TRANSPORT_FEATURES, VirtioDevice};

/// Device number (virtio 1.2, section 5).
const ID_ENTROPY: u32 = 4;

/// A driver has one request under way; more are for drivers that want more.
const QUEUE_SIZE: u16 = 16;

/// The most random bytes that one request gets. A driver that wants more asks again.
const MAX_BYTES_PER_REQUEST: usize = 64 * 1024;

/// How many bytes are drawn at once.
const CHUNK: usize = 4096;

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
    queue: LoopedQueue,
}

impl Entropy {
    /// Makes the device.
    ///
    /// # Errors
    /// The host has no event descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            queue: LoopedQueue::new(ID_ENTROPY, QUEUE_SIZE)?,
        })
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
        self.queue.activate(resources)
    }

    fn reset(&mut self) {
        self.queue.reset();
    }
}

impl MutEventSubscriber for Entropy {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        self.queue.init(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        self.queue.process(events, ops, fill);
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
