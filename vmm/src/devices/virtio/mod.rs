//! virtio 1.2 devices and their MMIO transport.
//!
//! A device (`block`, `entropy`, `vsock`) implements [`VirtioDevice`]; the transport (`mmio`) owns
//! the registers and the device's status, builds the queues that the driver described, checks them,
//! and hands them over in one value when the driver sets `DRIVER_OK`.

pub mod block;
#[cfg(any(test, feature = "test-support"))]
pub mod driver;
pub mod entropy;
mod looped;
pub mod mmio;
pub mod queue;
pub mod vsock;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

use crate::devices::InterruptLine;
use crate::memory::GuestRamHandle;

/// Interrupt status bits (virtio 1.2, section 4.2.2, `InterruptStatus`).
pub const INTERRUPT_USED_RING: u32 = 1;
/// See [`INTERRUPT_USED_RING`].
pub const INTERRUPT_CONFIG_CHANGE: u32 = 2;

/// Device status bit `DEVICE_NEEDS_RESET` (virtio 1.2, section 2.1).
pub const STATUS_DEVICE_NEEDS_RESET: u32 = 64;

/// Feature bit: chains may use indirect descriptor tables (virtio 1.2, section 6).
pub const VIRTIO_F_INDIRECT_DESC: u64 = 1 << 28;
/// Feature bit: `used_event` and `avail_event` suppress notifications (virtio 1.2, section 6).
pub const VIRTIO_F_EVENT_IDX: u64 = 1 << 29;
/// Feature bit: the device follows virtio 1.0 or later (virtio 1.2, section 6).
pub const VIRTIO_F_VERSION_1: u64 = 1 << 32;
/// What every device here offers: [`queue::VirtQueue`] and the transport do the work.
pub const TRANSPORT_FEATURES: u64 =
    VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC;

/// What a device behind the MMIO transport can do. All calls come from the transport, one at a time.
pub trait VirtioDevice: Send {
    /// The device's number in virtio 1.2, section 5; 0 for as long as there is none (section 4.2.2).
    fn device_id(&self) -> u32;

    /// The largest size of each queue, in order. Its length is the number of queues.
    fn max_queue_sizes(&self) -> &[u16];

    /// All feature bits that the device offers (`VIRTIO_F_VERSION_1` among them).
    fn offered_features(&self) -> u64;

    /// Reads from the device's configuration space. Bytes beyond it read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// A number that changes with every change of the configuration space, so that a driver can tell
    /// whether fields that it read one by one belong together (virtio 1.2, section 2.5.1). Only a
    /// device whose configuration space changes has to say more than the default.
    fn config_generation(&self) -> u32 {
        0
    }

    /// Writes to the device's configuration space. What cannot be written is ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// Starts the device: the driver has set `DRIVER_OK`, and every queue that is ready was checked
    /// to lie in guest memory.
    ///
    /// # Errors
    /// Says why the device cannot start; the transport then sets `DEVICE_NEEDS_RESET`.
    fn activate(&mut self, resources: DeviceResources) -> Result<(), ActivateError>;

    /// Whether the vCPU that notifies a queue serves it, too. Only for what never waits and soon ends:
    /// then that is quicker than to wake another thread, and the vCPU by an interrupt.
    fn serves_at_once(&self) -> bool {
        false
    }

    /// The driver has notified this queue. Only if the device [serves at once](Self::serves_at_once).
    fn notified(&mut self, _queue: usize) {}

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
    /// The device's interrupt line.
    pub line: Arc<dyn InterruptLine>,
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
        self.device_status
            .fetch_or(STATUS_DEVICE_NEEDS_RESET, Ordering::SeqCst);
        self.raise(INTERRUPT_CONFIG_CHANGE);
    }

    fn raise(&self, bit: u32) {
        self.status.fetch_or(bit, Ordering::SeqCst);
        self.line.pulse();
    }
}

/// Failures that one VMM process reports; a guest that goes on is not worth a full log.
const MAX_REPORTS: u32 = 8;

/// Writes to stderr how a device failed, a few times in the life of the process.
pub(crate) fn report_failure(device_id: u32, failure: &dyn std::error::Error) {
    static REPORTS: AtomicU32 = AtomicU32::new(0);
    // Stops at the limit instead of wrapping to zero one day.
    let counted = REPORTS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
        (count < MAX_REPORTS).then_some(count + 1)
    });
    if counted.is_err() {
        return;
    }
    let mut message = format!("virtio device {device_id} failed: {failure}");
    let mut cause = failure.source();
    while let Some(error) = cause {
        message.push_str(&format!(": {error}"));
        cause = error.source();
    }
    // Nobody may read stderr; the guest learns of it by DEVICE_NEEDS_RESET anyway.
    let _ = writeln!(std::io::stderr(), "{message}");
}
