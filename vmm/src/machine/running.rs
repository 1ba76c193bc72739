//! A machine that runs.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use kvm_ioctls::VmFd;

use super::MachineError;
use crate::control::StopReason;
use crate::devices::serial::Console;
use crate::devices::virtio::vsock::Vsock;
use crate::memory::GuestRamHandle;
use crate::stop::StopSignal;
use crate::vcpu::Vcpus;

/// The loop that serves devices, and whatever else the machine's owner adds to it.
pub type EventLoop = EventManager<Arc<Mutex<dyn MutEventSubscriber>>>;

/// A running machine. Dropping it ends it.
pub struct Running {
    vcpus: Arc<Vcpus>,
    stop: StopSignal,
    console: Console,
    vsock: Option<Arc<Mutex<Vsock>>>,
    events: EventLoop,
    /// What the vCPUs need, and so dropped after them.
    _vm: Arc<VmFd>,
    _memory: GuestRamHandle,
}

impl Running {
    pub(super) fn new(parts: Parts, vcpus: Vcpus) -> Self {
        let Parts {
            stop,
            console,
            vsock,
            events,
            vm,
            memory,
        } = parts;
        let vcpus = Arc::new(vcpus);
        Self {
            vcpus,
            stop,
            console,
            vsock,
            events,
            _vm: vm,
            _memory: memory,
        }
    }

    /// The way to command the machine from elsewhere.
    #[must_use]
    pub fn handle(&self) -> MachineHandle {
        MachineHandle {
            vcpus: Arc::downgrade(&self.vcpus),
            stop: self.stop.clone(),
            console: self.console.clone(),
            vsock: self.vsock.clone(),
        }
    }

    /// The loop that [`Running::wait`] runs.
    pub fn events(&mut self) -> &mut EventLoop {
        &mut self.events
    }

    /// Lets the guest run and serves its devices until the machine ends; says why it did.
    ///
    /// # Errors
    /// When the host fails the event loop.
    pub fn wait(&mut self) -> Result<StopReason, MachineError> {
        self.vcpus.resume();
        loop {
            if let Some(reason) = self.stop.reason() {
                return Ok(reason.clone());
            }
            self.events.run().map_err(MachineError::Events)?;
        }
    }
}

/// What a running machine takes over from the one that was built.
pub(super) struct Parts {
    pub(super) stop: StopSignal,
    pub(super) console: Console,
    pub(super) vsock: Option<Arc<Mutex<Vsock>>>,
    pub(super) events: EventLoop,
    pub(super) vm: Arc<VmFd>,
    pub(super) memory: GuestRamHandle,
}

/// Commands a machine, from any thread. It does not keep the machine alive.
#[derive(Clone)]
pub struct MachineHandle {
    vcpus: Weak<Vcpus>,
    stop: StopSignal,
    console: Console,
    vsock: Option<Arc<Mutex<Vsock>>>,
}

impl MachineHandle {
    /// Returns when all vCPUs stand still. Devices go on with what they were asked for before.
    ///
    /// # Errors
    /// When a vCPU does not stop within its deadline.
    pub fn pause(&self) -> Result<(), MachineError> {
        match self.vcpus.upgrade() {
            Some(vcpus) => Ok(vcpus.pause()?),
            None => Ok(()),
        }
    }

    /// Lets the vCPUs run on.
    pub fn resume(&self) {
        if let Some(vcpus) = self.vcpus.upgrade() {
            vcpus.resume();
        }
    }

    /// Ends the machine, as if its plug were pulled.
    pub fn stop(&self) {
        self.stop.raise(StopReason::Requested);
    }

    /// Gives the guest's next connection to this host port the other end of `stream`, a connected
    /// stream socket. Without a socket device the stream is closed.
    pub fn accept_stream(&self, host_port: u32, stream: OwnedFd) {
        if let Some(vsock) = &self.vsock {
            let mut vsock = vsock.lock().unwrap_or_else(PoisonError::into_inner);
            vsock.accept_stream(host_port, stream);
        }
    }

    /// Joins `stream`, a connected stream socket, to a new connection to this guest port. It is closed
    /// if the guest refuses, or has no socket device.
    pub fn connect_stream(&self, guest_port: u32, stream: OwnedFd) {
        if let Some(vsock) = &self.vsock {
            let mut vsock = vsock.lock().unwrap_or_else(PoisonError::into_inner);
            vsock.connect_stream(guest_port, stream);
        }
    }

    /// Has what the guest writes to its console from now on go into this pipe as well.
    pub fn copy_console(&self, pipe: OwnedFd) {
        self.console.copy_to(pipe);
    }

    /// Passes the rest of a line on that the guest has not ended.
    pub fn finish_console(&self) {
        self.console.finish();
    }

    /// The newest `count` bytes of what the guest wrote to its console.
    #[must_use]
    pub fn console_tail(&self, count: usize) -> Vec<u8> {
        self.console.tail(count)
    }
}

/// Wakes the event loop when the machine is to end; the loop's owner then sees why.
pub(super) struct StopWatch {
    stop: StopSignal,
}

impl StopWatch {
    pub(super) fn subscribe(events: &mut EventLoop, stop: &StopSignal) {
        events.add_subscriber(Arc::new(Mutex::new(Self { stop: stop.clone() })));
    }
}

impl MutEventSubscriber for StopWatch {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        if ops
            .add(Events::new(self.stop.wake(), EventSet::IN))
            .is_err()
        {
            // Without it the machine could not be ended: it ends now.
            self.stop.raise(StopReason::Requested);
        }
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {}
}
