//! One descriptor chain, checked and looked up in memory.

use virtio_queue::DescriptorChain;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{GuestMemoryBackend, VolatileSlice};

use super::{GuestBuffers, QueueError};
use crate::memory::GuestRam;

/// A descriptor chain: buffers for the device to read, then buffers for it to write.
///
/// The descriptors were read once, and the buffers are known to lie in guest memory. What is *in*
/// the buffers can change at any time.
#[derive(Debug)]
pub struct Chain<'m> {
    head: u16,
    descriptors: usize,
    /// What the driver tells the device.
    pub readable: GuestBuffers<'m>,
    /// Where the device answers.
    pub writable: GuestBuffers<'m>,
}

impl<'m> Chain<'m> {
    /// Follows `descriptors` to their end.
    pub(super) fn parse(
        memory: &'m GuestRam,
        descriptors: DescriptorChain<&'m GuestRam>,
        limit: u16,
    ) -> Result<Self, QueueError> {
        let head = descriptors.head_index();
        let mut parts = Parts::default();
        // The iterator ends alike for a chain's proper end and for every error; only the last
        // descriptor's NEXT flag tells them apart.
        let mut complete = false;
        let mut length = 0;
        for (count, descriptor) in descriptors.enumerate() {
            if count == usize::from(limit) {
                return Err(QueueError::ChainTooLong { head, limit });
            }
            complete = !descriptor.has_next();
            length = count + 1;
            parts.add(memory, head, &descriptor)?;
        }
        if !complete {
            return Err(QueueError::ChainBroken { head });
        }
        Ok(Self {
            head,
            descriptors: length,
            readable: GuestBuffers::new(parts.readable),
            writable: GuestBuffers::new(parts.writable),
        })
    }

    /// The index of the chain's first descriptor, by which it is given back.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// How many descriptors it has, those in an indirect table included.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.descriptors
    }
}

#[derive(Default)]
struct Parts<'m> {
    readable: Vec<VolatileSlice<'m>>,
    writable: Vec<VolatileSlice<'m>>,
    seen_writable: bool,
}

impl<'m> Parts<'m> {
    fn add(
        &mut self,
        memory: &'m GuestRam,
        head: u16,
        descriptor: &Descriptor,
    ) -> Result<(), QueueError> {
        // VIRTIO 1.2 §2.7.4.2: all device-writable elements come after the device-readable ones.
        if descriptor.is_write_only() {
            self.seen_writable = true;
        } else if self.seen_writable {
            return Err(QueueError::BufferOrder { head });
        }
        let side = if self.seen_writable {
            &mut self.writable
        } else {
            &mut self.readable
        };
        // A buffer may cross from one memory region into the next, so it can be several slices.
        for slice in memory.get_slices(descriptor.addr(), descriptor.len() as usize) {
            side.push(slice.map_err(|_| QueueError::OutsideMemory {
                head,
                address: descriptor.addr().0,
                len: descriptor.len(),
            })?);
        }
        Ok(())
    }
}
