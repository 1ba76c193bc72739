//! virtio 1.2 devices and their MMIO transport.
//!
//! A device (`block`, `entropy`, `vsock`) implements [`VirtioDevice`]; the transport (`mmio`) owns
//! the registers and the device's status, builds the queues that the driver described, checks them,
//! and hands them over in one value when the driver sets `DRIVER_OK`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

use crate::memory::GuestRamHandle;

/// Interrupt status bits (virtio 1.2, section 4.2.2, `InterruptStatus`).
pub const INTERRUPT_USED_RING: u32 = 1;
/// See [`INTERRUPT_USED_RING`].
pub const INTERRUPT_CONFIG_CHANGE: u32 = 2;

/// Device status bit `DEVICE_NEEDS_RESET` (virtio 1.2, section 2.1).
pub const STATUS_DEVICE_NEEDS_RESET: u32 = 64;

/// What a device behind the MMIO transport can do. All calls come from the transport, one at a time.
pub trait VirtioDevice: Send {
    /// The device's number in virtio 1.2, section 5.
    fn device_id(&self) -> u32;

    /// The largest size of each queue, in order. Its length is the number of queues.
    fn max_queue_sizes(&self) -> &[u16];

    /// All feature bits that the device offers (`VIRTIO_F_VERSION_1` among them).
    fn offered_features(&self) -> u64;

    /// Reads from the device's configuration space. Bytes beyond it read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes to the device's configuration space. What cannot be written is ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// Starts the device: the driver has set `DRIVER_OK`, and every queue that is ready was checked
    /// to lie in guest memory.
    ///
    /// # Errors
    /// Says why the device cannot start; the transport then sets `DEVICE_NEEDS_RESET`.
    fn activate(&mut self, resources: DeviceResources) -> Result<(), ActivateError>;

    /// Stops the device and forgets everything that the driver told it. When it returns, nothing of
    /// the device touches guest memory any more.
    fn reset(&mut self);
}

/// All that a started device holds. Dropping it lets go of guest memory.
#[derive(Debug)]
pub struct DeviceResources {
    /// The guest's memory.
    pub memory: GuestRamHandle,
    /// The queues in order; `None` for one that the driver did not make ready.
    pub queues: Vec<Option<ActiveQueue>>,
    /// The way to interrupt the guest.
    pub interrupt: Interrupt,
    /// The feature bits that driver and device agreed on.
    pub features: u64,
}

/// A queue that the driver made ready.
#[derive(Debug)]
pub struct ActiveQueue {
    /// The rings.
    pub queue: Queue,
    /// Signalled by KVM (ioeventfd) when the driver notifies this queue.
    pub kick: Arc<EventFd>,
}

/// A device cannot start.
#[derive(Debug, thiserror::Error)]
#[error("virtio device cannot start: {0}")]
pub struct ActivateError(pub String);

/// A device's way to interrupt its driver (virtio 1.2, section 4.2.3.3 `Interrupt handling`).
#[derive(Debug, Clone)]
pub struct Interrupt {
    /// The transport's `InterruptStatus` register.
    pub status: Arc<AtomicU32>,
    /// The transport's device status; devices only ever add [`STATUS_DEVICE_NEEDS_RESET`].
    pub device_status: Arc<AtomicU32>,
    /// Raises the device's interrupt line in KVM (irqfd).
    pub irqfd: Arc<EventFd>,
}

impl Interrupt {
    /// Tells the driver that a used ring has new entries.
    pub fn signal_used_queue(&self) {
        self.raise(INTERRUPT_USED_RING);
    }

    /// Tells the driver that the configuration space has changed.
    pub fn signal_config_change(&self) {
        self.raise(INTERRUPT_CONFIG_CHANGE);
    }

    /// Marks the device as broken: the driver did what the specification forbids, and has to reset
    /// the device before it serves again (virtio 1.2, section 2.1.2).
    pub fn signal_needs_reset(&self) {
        self.device_status.fetch_or(STATUS_DEVICE_NEEDS_RESET, Ordering::SeqCst);
        self.raise(INTERRUPT_CONFIG_CHANGE);
    }

    fn raise(&self, bit: u32) {
        self.status.fetch_or(bit, Ordering::SeqCst);
        // An eventfd write fails only when its counter is at its maximum, and then the interrupt is
        // pending already.
        let _ = self.irqfd.write(1);
    }
}
