//! A device with one queue that is served on the I/O event loop.
//!
//! ```text
//!   vCPU thread                                  I/O loop
//!   activate ── queue, memory, "activated" ────▶ watch the queue's kick
//!   (ioeventfd) ── kick ───────────────────────▶ serve
//! ```
//!
//! A device may serve on the vCPU's thread, too; then the loop does what is left over.

use std::error::Error;
use std::io;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events};
use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::queue::{Chain, QueueError, Served, VirtQueue};
use super::{ActivateError, DeviceResources, Interrupt, report_failure};
use crate::memory::GuestRamHandle;

/// Events of the I/O loop.
const ACTIVATED: u32 = 0;
const KICKED: u32 = 1;

/// The queue of a device, and what the I/O loop watches for it.
pub(super) struct LoopedQueue {
    device_id: u32,
    /// How many requests are served before others on the loop get their turn.
    batch: u16,
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

impl LoopedQueue {
    /// A queue that no driver has made ready.
    ///
    /// # Errors
    /// The host has no event descriptors left.
    pub(super) fn new(device_id: u32, batch: u16) -> io::Result<Self> {
        Ok(Self {
            device_id,
            batch,
            activated: EventFd::new(EFD_NONBLOCK)?,
            running: None,
            watched: None,
        })
    }

    /// The driver is ready. From a vCPU's thread.
    ///
    /// # Errors
    /// Says why the device cannot start.
    pub(super) fn activate(&mut self, resources: DeviceResources) -> Result<(), ActivateError> {
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

    /// Lets go of everything that the driver gave.
    pub(super) fn reset(&mut self) {
        self.running = None;
    }

    /// Has the loop watch for the driver.
    pub(super) fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::with_data(&self.activated, ACTIVATED, EventSet::IN)) {
            self.fail(&error);
        }
    }

    /// Does what the loop was woken for; `request` does the work of one chain, as for
    /// [`VirtQueue::serve`].
    pub(super) fn process<E: Error + From<QueueError>>(
        &mut self,
        events: Events,
        ops: &mut EventOps<'_>,
        request: impl FnMut(&mut Chain<'_>) -> Result<u32, E>,
    ) {
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
                self.serve(request);
            }
            _ => {}
        }
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

    /// Serves what has come, as [`Self::process`] does when it was kicked.
    pub(super) fn serve<E: Error + From<QueueError>>(
        &mut self,
        request: impl FnMut(&mut Chain<'_>) -> Result<u32, E>,
    ) {
        let batch = self.batch;
        let Some(Running {
            queue,
            memory,
            interrupt,
        }) = &mut self.running
        else {
            return;
        };
        match queue.serve(&memory.memory(), interrupt, batch, request) {
            Ok(Served::All) => {}
            Ok(Served::Partly) => {
                // Others on the loop get their turn first. A full counter is a kick already.
                let _ = queue.kick().write(1);
            }
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &dyn Error) {
        report_failure(self.device_id, error);
        if let Some(running) = self.running.take() {
            running.interrupt.signal_needs_reset();
        }
    }
}
