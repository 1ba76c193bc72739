//! From what a driver wrote to a queue's registers to rings that can be served.

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::memory::GuestRam;

/// A queue's registers as the driver wrote them, unchecked (virtio 1.2, section 4.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueRegisters {
    /// `QueueNum`.
    pub size: u32,
    /// `QueueReady`.
    pub ready: bool,
    /// `QueueDescLow` and `QueueDescHigh`.
    pub descriptor_table: u64,
    /// `QueueDriverLow` and `QueueDriverHigh`: the available ring.
    pub driver_area: u64,
    /// `QueueDeviceLow` and `QueueDeviceHigh`: the used ring.
    pub device_area: u64,
}

/// Why a queue cannot be served as its driver described it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueueSetupError {
    /// VIRTIO 1.2 §2.7: the size is a power of two, at most what the device offers.
    #[error("queue size {size} is not a power of two between 1 and {max}")]
    Size {
        /// What the driver asked for.
        size: u32,
        /// The most that the device offers.
        max: u16,
    },
    /// VIRTIO 1.2 §2.7: tables are aligned to 16, 2 and 4 bytes.
    #[error("the {part} at {address:#x} is not aligned to {alignment} bytes")]
    Alignment {
        /// Which part of the queue.
        part: &'static str,
        /// Where the driver put it.
        address: u64,
        /// What it has to be aligned to.
        alignment: u64,
    },
    /// A part that is not wholly in guest memory.
    #[error("the {part} of {len} bytes at {address:#x} is outside guest memory")]
    OutsideMemory {
        /// Which part of the queue.
        part: &'static str,
        /// Where the driver put it.
        address: u64,
        /// How long it is.
        len: u64,
    },
}

impl QueueRegisters {
    /// Checks the registers against guest memory and builds the queue.
    ///
    /// # Errors
    /// Says which rule of virtio 1.2, section 2.7, the driver broke.
    pub fn build(
        &self,
        max_size: u16,
        event_idx: bool,
        memory: &GuestRam,
    ) -> Result<Queue, QueueSetupError> {
        let wrong_size = QueueSetupError::Size {
            size: self.size,
            max: max_size,
        };
        let size = u16::try_from(self.size).map_err(|_| wrong_size)?;
        if !size.is_power_of_two() || size > max_size {
            return Err(wrong_size);
        }
        // VIRTIO 1.2 §2.7: 16*size, 6+2*size and 6+8*size bytes.
        let entries = u64::from(size);
        check(
            memory,
            "descriptor table",
            self.descriptor_table,
            16,
            16 * entries,
        )?;
        check(
            memory,
            "available ring",
            self.driver_area,
            2,
            6 + 2 * entries,
        )?;
        check(memory, "used ring", self.device_area, 4, 6 + 8 * entries)?;

        let mut queue = Queue::new(max_size).map_err(|_| wrong_size)?;
        queue.set_size(size);
        let (low, high) = halves(self.descriptor_table);
        queue.set_desc_table_address(Some(low), Some(high));
        let (low, high) = halves(self.driver_area);
        queue.set_avail_ring_address(Some(low), Some(high));
        let (low, high) = halves(self.device_area);
        queue.set_used_ring_address(Some(low), Some(high));
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        Ok(queue)
    }
}

fn check(
    memory: &GuestRam,
    part: &'static str,
    address: u64,
    alignment: u64,
    len: u64,
) -> Result<(), QueueSetupError> {
    if !address.is_multiple_of(alignment) {
        return Err(QueueSetupError::Alignment {
            part,
            address,
            alignment,
        });
    }
    let outside = QueueSetupError::OutsideMemory { part, address, len };
    let bytes = usize::try_from(len).map_err(|_| outside)?;
    // Address 0 is in memory, but `virtio_queue` takes it for "not set up".
    if address == 0 || !memory.check_range(GuestAddress(address), bytes) {
        return Err(outside);
    }
    Ok(())
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the halves are what is wanted"
)]
fn halves(address: u64) -> (u32, u32) {
    (address as u32, (address >> 32) as u32)
}
