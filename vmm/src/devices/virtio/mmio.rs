//! The MMIO transport of virtio devices (virtio 1.2, section 4.2), version 2 only.
//!
//! The transport keeps the registers, follows the driver through the device's initialization and
//! hands the device its queues when the driver is done:
//!
//! ```text
//!            ACKNOWLEDGE        DRIVER            FEATURES_OK           DRIVER_OK
//!   reset ───────────────▶ ○ ───────────▶ ○ ────────────────────▶ ○ ──────────────▶ running
//!     ▲                               features are            queues are       │ nothing but
//!     │                               writable                writable         │ notify, ack,
//!     └──────────── 0 written to Status, from every state ─────────────────────┘ config, reset
//! ```
//!
//! A write that does not belong to the state is ignored. In particular nothing of a queue can change
//! once it is ready or the device runs (CVE-2026-5747). Every register can be accessed at every width
//! and offset: what the specification does not allow reads as zero and writes nothing.

#[cfg(any(test, feature = "test-support"))]
pub mod hostile;
mod registers;
mod status;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::queue::{QueueRegisters, QueueSetupError};
use super::{
    ActivateError, ActiveQueue, DeviceResources, Interrupt, VIRTIO_F_EVENT_IDX, VIRTIO_F_VERSION_1,
    VirtioDevice, report_failure,
};
use crate::devices::InterruptLine;
use crate::memory::GuestRamHandle;
use status::Transition;

pub use registers::{QUEUE_NOTIFY, REGION_LEN};

/// A transport cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MmioError {
    /// The host has no event descriptors left.
    #[error("cannot make the event descriptor of queue {queue}")]
    Kick {
        /// The queue that was to be notified by it.
        queue: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why a device did not start when its driver said that it may.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("queue {index} cannot be used")]
    Queue {
        index: usize,
        #[source]
        source: QueueSetupError,
    },
    #[error(transparent)]
    Device(#[from] ActivateError),
}

/// One device's registers, and the device behind them.
pub struct MmioTransport {
    device: Arc<Mutex<dyn VirtioDevice>>,
    memory: GuestRamHandle,
    interrupt: Interrupt,
    kicks: Vec<Arc<EventFd>>,
    /// Whether the device itself is told of notifications.
    serves_at_once: bool,

    offered_features: u64,
    max_queue_sizes: Vec<u16>,

    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    /// The driver wants a feature above bit 63, of which there are none.
    wants_unknown_features: bool,
    queue_sel: u32,
    queues: Vec<QueueRegisters>,
}

impl MmioTransport {
    /// Puts `device` behind a register window; `line` interrupts the guest.
    ///
    /// # Errors
    /// The host has no event descriptors left.
    pub fn new(
        device: Arc<Mutex<dyn VirtioDevice>>,
        memory: GuestRamHandle,
        line: Arc<dyn InterruptLine>,
    ) -> Result<Self, MmioError> {
        let (offered_features, max_queue_sizes, serves_at_once) = {
            let device = lock(&device);
            let max_queue_sizes = device.max_queue_sizes().to_vec();
            let serves_at_once = device.serves_at_once();
            (device.offered_features(), max_queue_sizes, serves_at_once)
        };
        let kicks = (0..max_queue_sizes.len())
            .map(|queue| match EventFd::new(EFD_NONBLOCK) {
                Ok(kick) => Ok(Arc::new(kick)),
                Err(source) => Err(MmioError::Kick { queue, source }),
            })
            .collect::<Result<_, _>>()?;
        let interrupt = Interrupt {
            status: Arc::new(AtomicU32::new(0)),
            device_status: Arc::new(AtomicU32::new(0)),
            line,
        };
        Ok(Self {
            device,
            memory,
            interrupt,
            kicks,
            serves_at_once,
            offered_features,
            queues: vec![QueueRegisters::default(); max_queue_sizes.len()],
            max_queue_sizes,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            wants_unknown_features: false,
            queue_sel: 0,
        })
    }

    /// What a notification of each queue signals, in order: KVM does it without leaving the kernel
    /// when each is registered as an ioeventfd at [`QUEUE_NOTIFY`] with the queue's number as
    /// `datamatch`. They stay the same for the transport's life. There are none if the device is to be
    /// told itself, by a write to that register.
    #[must_use]
    pub fn doorbells(&self) -> &[Arc<EventFd>] {
        if self.serves_at_once {
            &[]
        } else {
            &self.kicks
        }
    }

    /// The driver reads `data.len()` bytes at `offset` of the register window.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(registers::CONFIG) {
            if is_config_width(data.len()) {
                lock(&self.device).read_config(offset, data);
            }
        } else if let Ok(bytes) = <&mut [u8; 4]>::try_from(data) {
            // VIRTIO 1.2 §4.2.2.2: only aligned 32-bit accesses to these registers.
            *bytes = self.read_register(offset).to_le_bytes();
        }
    }

    /// The driver writes `data` at `offset` of the register window.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(registers::CONFIG) {
            let state = self.status();
            let allowed = state & status::DRIVER != 0 && !status::is_broken(state);
            if allowed && is_config_width(data.len()) {
                lock(&self.device).write_config(offset, data);
            }
        } else if let Ok(bytes) = <[u8; 4]>::try_from(data) {
            self.write_register(offset, u32::from_le_bytes(bytes));
        }
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            registers::MAGIC_VALUE => registers::MAGIC,
            registers::VERSION => registers::VERSION_2,
            // Read anew: a device may come later than its window.
            registers::DEVICE_ID => lock(&self.device).device_id(),
            registers::VENDOR_ID => registers::VENDOR,
            registers::DEVICE_FEATURES => half(self.offered_features, self.device_features_sel),
            registers::QUEUE_NUM_MAX => self.queue_num_max(),
            registers::QUEUE_READY => self
                .selected_queue()
                .is_some_and(|queue| queue.ready)
                .into(),
            registers::INTERRUPT_STATUS => self.interrupt.status.load(Ordering::SeqCst),
            registers::STATUS => self.status(),
            // VIRTIO 1.2 §4.2.2: all ones tell that there is no such region; there are none.
            registers::SHM_LEN_LOW
            | registers::SHM_LEN_HIGH
            | registers::SHM_BASE_LOW
            | registers::SHM_BASE_HIGH => u32::MAX,
            registers::CONFIG_GENERATION => lock(&self.device).config_generation(),
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            registers::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            registers::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            registers::DRIVER_FEATURES => self.write_driver_features(value),
            registers::QUEUE_SEL => self.queue_sel = value,
            registers::QUEUE_NUM => self.write_queue(|queue| queue.size = value),
            registers::QUEUE_READY => self.write_queue_ready(value),
            QUEUE_NOTIFY => self.notify(value),
            registers::INTERRUPT_ACK => {
                self.interrupt.status.fetch_and(!value, Ordering::SeqCst);
            }
            registers::STATUS => self.write_status(value),
            registers::QUEUE_DESC_LOW => {
                self.write_queue(|queue| set_low(&mut queue.descriptor_table, value));
            }
            registers::QUEUE_DESC_HIGH => {
                self.write_queue(|queue| set_high(&mut queue.descriptor_table, value));
            }
            registers::QUEUE_DRIVER_LOW => {
                self.write_queue(|queue| set_low(&mut queue.driver_area, value));
            }
            registers::QUEUE_DRIVER_HIGH => {
                self.write_queue(|queue| set_high(&mut queue.driver_area, value));
            }
            registers::QUEUE_DEVICE_LOW => {
                self.write_queue(|queue| set_low(&mut queue.device_area, value));
            }
            registers::QUEUE_DEVICE_HIGH => {
                self.write_queue(|queue| set_high(&mut queue.device_area, value));
            }
            _ => {}
        }
    }

    fn status(&self) -> u32 {
        self.interrupt.device_status.load(Ordering::SeqCst)
    }

    fn write_driver_features(&mut self, value: u32) {
        if !status::features_are_writable(self.status()) {
            return;
        }
        match self.driver_features_sel {
            0 => set_low(&mut self.driver_features, value),
            1 => set_high(&mut self.driver_features, value),
            _ => self.wants_unknown_features |= value != 0,
        }
    }

    /// VIRTIO 1.2 §2.2.2 and §6.2: only what was offered, and never less than version 1.
    fn features_are_acceptable(&self) -> bool {
        self.driver_features & !self.offered_features == 0
            && self.driver_features & VIRTIO_F_VERSION_1 != 0
            && !self.wants_unknown_features
    }

    fn queue_num_max(&self) -> u32 {
        let index = usize::try_from(self.queue_sel).ok();
        index
            .and_then(|index| self.max_queue_sizes.get(index))
            .copied()
            .unwrap_or(0)
            .into()
    }

    fn selected_queue(&self) -> Option<&QueueRegisters> {
        self.queues.get(usize::try_from(self.queue_sel).ok()?)
    }

    fn selected_queue_mut(&mut self) -> Option<&mut QueueRegisters> {
        if !status::queues_are_writable(self.status()) {
            return None;
        }
        self.queues.get_mut(usize::try_from(self.queue_sel).ok()?)
    }

    fn write_queue(&mut self, write: impl FnOnce(&mut QueueRegisters)) {
        match self.selected_queue_mut() {
            Some(queue) if !queue.ready => write(queue),
            _ => {}
        }
    }

    /// A deviation: a driver that sets `QueueReady` to 0 while the device runs is ignored. It has to
    /// reset the device, which is what drivers do.
    fn write_queue_ready(&mut self, value: u32) {
        if let Some(queue) = self.selected_queue_mut() {
            queue.ready = value == 1;
        }
    }

    /// A notification that KVM did not take for itself.
    fn notify(&self, queue: u32) {
        let index = usize::try_from(queue).ok();
        let Some((index, kick)) = index.and_then(|index| Some((index, self.kicks.get(index)?)))
        else {
            return;
        };
        if self.serves_at_once {
            lock(&self.device).notified(index);
        } else {
            // It fails only when the counter is full, and then the device is about to look anyway.
            let _ = kick.write(1);
        }
    }

    fn write_status(&mut self, value: u32) {
        match status::transition(self.status(), value, self.features_are_acceptable()) {
            Transition::Reset => self.reset(),
            Transition::Add(bits) => {
                self.interrupt
                    .device_status
                    .fetch_or(bits, Ordering::SeqCst);
                if bits & status::DRIVER_OK != 0 {
                    self.start();
                }
            }
        }
    }

    fn start(&mut self) {
        let started = self
            .active_queues()
            .map(|queues| DeviceResources {
                memory: self.memory.clone(),
                queues,
                interrupt: self.interrupt.clone(),
                features: self.driver_features,
            })
            .and_then(|resources| Ok(lock(&self.device).activate(resources)?));
        if let Err(error) = started {
            let device_id = lock(&self.device).device_id();
            report_failure(device_id, &error);
            self.interrupt.signal_needs_reset();
        }
    }

    fn active_queues(&self) -> Result<Vec<Option<ActiveQueue>>, StartError> {
        let memory = self.memory.memory();
        let event_idx = self.driver_features & VIRTIO_F_EVENT_IDX != 0;
        let queues = self
            .queues
            .iter()
            .zip(&self.max_queue_sizes)
            .zip(&self.kicks)
            .enumerate();
        queues
            .map(|(index, ((registers, max_size), kick))| {
                if !registers.ready {
                    return Ok(None);
                }
                let queue = registers
                    .build(*max_size, event_idx, &memory)
                    .map_err(|source| StartError::Queue { index, source })?;
                Ok(Some(ActiveQueue {
                    queue,
                    kick: Arc::clone(kick),
                }))
            })
            .collect()
    }

    /// Everything is as it was before the driver came.
    fn reset(&mut self) {
        lock(&self.device).reset();
        for kick in &self.kicks {
            // Notifications of the queues that were; it fails when there are none.
            let _ = kick.read();
        }
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = 0;
        self.wants_unknown_features = false;
        self.queue_sel = 0;
        self.queues.fill(QueueRegisters::default());
        self.interrupt.status.store(0, Ordering::SeqCst);
        self.interrupt.device_status.store(0, Ordering::SeqCst);
    }
}

fn lock<'a>(
    device: &'a Arc<Mutex<dyn VirtioDevice + 'static>>,
) -> MutexGuard<'a, dyn VirtioDevice + 'static> {
    // A device keeps no invariant across a panic that its own methods would not check again.
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

/// VIRTIO 1.2 §4.2.2.2: configuration space is read in the widths of its fields.
fn is_config_width(len: usize) -> bool {
    matches!(len, 1 | 2 | 4 | 8)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the half is what is wanted"
)]
fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_low(register: &mut u64, value: u32) {
    *register = (*register & !u64::from(u32::MAX)) | u64::from(value);
}

fn set_high(register: &mut u64, value: u32) {
    *register = (*register & u64::from(u32::MAX)) | (u64::from(value) << 32);
}
