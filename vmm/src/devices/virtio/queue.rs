//! Virtqueues as a device sees them (virtio 1.2, section 2.7: split virtqueues).
//!
//! `virtio_queue` reads and writes the rings; this module adds what it leaves to its user, because
//! everything in a ring was written by the guest:
//!
//! - a chain that does not end, leaves its table, nests indirect tables, is longer than the queue,
//!   points outside memory or mixes the order of its buffers is an error, never a shorter chain;
//! - an available index that runs ahead is an error, never "nothing to do";
//! - a head that is in flight cannot be taken a second time;
//! - one call serves a bounded number of chains, however fast the guest adds new ones;
//! - buffers are looked up once: what was checked is what is used.
//!
//! Every error is a guest violation. A device that gets one stops serving and calls
//! [`Interrupt::signal_needs_reset`].

mod buffers;
mod chain;
#[cfg(any(test, feature = "test-support"))]
pub mod hostile;
mod setup;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::{ActiveQueue, Interrupt};
use crate::memory::GuestRam;

pub use buffers::{BuffersTooShort, GuestBuffers};
pub use chain::Chain;
pub use setup::{QueueRegisters, QueueSetupError};

/// Flag in the available ring: the driver wants no interrupts (virtio 1.2, section 2.7.6).
const VIRTQ_AVAIL_F_NO_INTERRUPT: u16 = 1;

/// What a driver did to a ring that virtio forbids.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The available ring says that more chains wait than it has room for, or cannot be read.
    #[error("the available ring cannot be followed")]
    AvailableRing(#[source] virtio_queue::Error),
    /// A head outside the descriptor table.
    #[error("available head {head} is outside the descriptor table of {size} entries")]
    HeadOutOfRange {
        /// The head.
        head: u16,
        /// The queue's size.
        size: u16,
    },
    /// A head that the device has not given back yet.
    #[error("available head {head} is already in flight")]
    HeadInFlight {
        /// The head.
        head: u16,
    },
    /// The chain loops, leaves its table, is longer than 4 GiB, or uses indirect tables wrongly.
    #[error("the descriptor chain at head {head} has no proper end")]
    ChainBroken {
        /// The head.
        head: u16,
    },
    /// The chain has more descriptors than the device's queue can have.
    #[error("the descriptor chain at head {head} has more than {limit} descriptors")]
    ChainTooLong {
        /// The head.
        head: u16,
        /// The most descriptors that a chain may have.
        limit: u16,
    },
    /// A device-readable buffer comes after a device-writable one.
    #[error("the descriptor chain at head {head} has a readable buffer after a writable one")]
    BufferOrder {
        /// The head.
        head: u16,
    },
    /// A buffer that is not wholly in guest memory.
    #[error(
        "the descriptor chain at head {head} has a buffer of {len} bytes at {address:#x}, outside \
         guest memory"
    )]
    OutsideMemory {
        /// The head.
        head: u16,
        /// Where the buffer starts.
        address: u64,
        /// How long it is.
        len: u32,
    },
    /// The used ring cannot be written.
    #[error("the used ring cannot be written")]
    UsedRing(#[source] virtio_queue::Error),
}

/// How [`VirtQueue::serve`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// No chain is available any more; the next one comes with a kick.
    All,
    /// The limit was reached. The caller has to come back without being kicked.
    Partly,
}

/// A virtqueue that a device serves.
#[derive(Debug)]
pub struct VirtQueue {
    queue: Queue,
    kick: Arc<EventFd>,
    /// Which heads the device has taken and not yet given back.
    in_flight: Vec<bool>,
    /// Whether chains were given back since the driver was last told.
    unsignalled: bool,
}

impl VirtQueue {
    /// Takes over a queue that the transport has checked.
    #[must_use]
    pub fn new(active: ActiveQueue) -> Self {
        let in_flight = vec![false; usize::from(active.queue.size())];
        Self {
            queue: active.queue,
            kick: active.kick,
            in_flight,
            unsignalled: false,
        }
    }

    /// What is signalled when the driver notifies this queue.
    #[must_use]
    pub fn kick(&self) -> &Arc<EventFd> {
        &self.kick
    }

    /// The number of entries that the driver gave the queue.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Takes the next available chain, or `None` when there is none. The chain is in flight until
    /// [`push_used`](Self::push_used) or [`put_back`](Self::put_back).
    ///
    /// # Errors
    /// The driver has violated the ring format.
    pub fn pop<'m>(&mut self, memory: &'m GuestRam) -> Result<Option<Chain<'m>>, QueueError> {
        let limit = self.queue.max_size();
        let size = self.queue.size();
        let mut available = self.queue.iter(memory).map_err(QueueError::AvailableRing)?;
        let Some(descriptors) = available.next() else {
            return Ok(None);
        };
        let head = descriptors.head_index();
        let in_flight = self
            .in_flight
            .get_mut(usize::from(head))
            .ok_or(QueueError::HeadOutOfRange { head, size })?;
        if *in_flight {
            return Err(QueueError::HeadInFlight { head });
        }
        let chain = Chain::parse(memory, descriptors, limit)?;
        *in_flight = true;
        Ok(Some(chain))
    }

    /// Undoes the last [`pop`](Self::pop): its chain is the next one again. Only the chain that was
    /// popped last can be put back, and only once.
    pub fn put_back(&mut self, chain: Chain<'_>) {
        let Some(in_flight) = self.in_flight.get_mut(usize::from(chain.head())) else {
            return;
        };
        if *in_flight {
            *in_flight = false;
            self.queue.go_to_previous_position();
        }
    }

    /// Gives the chain with this head back to the driver; `written` is how many bytes the device
    /// has written to its writable buffers, from their beginning.
    ///
    /// # Errors
    /// The used ring cannot be written.
    pub fn push_used(
        &mut self,
        memory: &GuestRam,
        head: u16,
        written: u32,
    ) -> Result<(), QueueError> {
        if let Some(in_flight) = self.in_flight.get_mut(usize::from(head)) {
            *in_flight = false;
        }
        self.queue
            .add_used(memory, head, written)
            .map_err(QueueError::UsedRing)?;
        self.unsignalled = true;
        Ok(())
    }

    /// Interrupts the driver if chains were given back since the last call and it wants to know
    /// (virtio 1.2, section 2.7.7.2).
    ///
    /// # Errors
    /// The available ring cannot be read.
    pub fn signal(&mut self, memory: &GuestRam, interrupt: &Interrupt) -> Result<(), QueueError> {
        if self.is_signal_due(memory)? {
            interrupt.signal_used_queue();
        }
        Ok(())
    }

    /// Whether [`signal`](Self::signal) would interrupt the driver; it is asked once, and the interrupt
    /// is then the caller's to send: for several queues one will do.
    ///
    /// # Errors
    /// The available ring cannot be read.
    pub fn is_signal_due(&mut self, memory: &GuestRam) -> Result<bool, QueueError> {
        if !self.unsignalled {
            return Ok(false);
        }
        self.unsignalled = false;
        // It also holds the fence between writing the used ring and reading what the driver wants.
        let due = self
            .queue
            .needs_notification(memory)
            .map_err(QueueError::AvailableRing)?;
        Ok(due && (self.queue.event_idx_enabled() || !self.interrupts_suppressed(memory)?))
    }

    /// Asks the driver to kick when it adds chains. Returns whether there are some already, for
    /// which no kick may come.
    ///
    /// # Errors
    /// The rings cannot be accessed.
    pub fn enable_kicks(&mut self, memory: &GuestRam) -> Result<bool, QueueError> {
        self.queue
            .enable_notification(memory)
            .map_err(QueueError::UsedRing)
    }

    /// Asks the driver not to kick, as the device is looking anyway. The driver may do it still.
    ///
    /// # Errors
    /// The used ring cannot be written.
    pub fn disable_kicks(&mut self, memory: &GuestRam) -> Result<(), QueueError> {
        self.queue
            .disable_notification(memory)
            .map_err(QueueError::UsedRing)
    }

    /// Serves at most `limit` chains: `request` does the work of one and returns how many bytes it
    /// has written to the chain's writable buffers. One interrupt tells the driver of all of them.
    ///
    /// # Errors
    /// The driver has violated the ring format, or `request` failed; the queue must not be served
    /// any more.
    pub fn serve<E: From<QueueError>>(
        &mut self,
        memory: &GuestRam,
        interrupt: &Interrupt,
        limit: u16,
        mut request: impl FnMut(&mut Chain<'_>) -> Result<u32, E>,
    ) -> Result<Served, E> {
        self.disable_kicks(memory)?;
        let mut served = Served::Partly;
        for _ in 0..limit {
            let Some(mut chain) = self.pop(memory)? else {
                if self.enable_kicks(memory)? {
                    continue;
                }
                served = Served::All;
                break;
            };
            let written = request(&mut chain)?;
            self.push_used(memory, chain.head(), written)?;
        }
        self.signal(memory, interrupt)?;
        Ok(served)
    }

    fn interrupts_suppressed(&self, memory: &GuestRam) -> Result<bool, QueueError> {
        let flags: u16 = memory
            .load(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed)
            .map_err(|error| QueueError::AvailableRing(virtio_queue::Error::GuestMemory(error)))?;
        Ok(u16::from_le(flags) & VIRTQ_AVAIL_F_NO_INTERRUPT != 0)
    }
}
