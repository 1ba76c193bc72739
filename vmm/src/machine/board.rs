//! Where devices are put and wired: addresses on the buses, interrupts and doorbells in KVM, places in
//! the event loop.

use std::sync::{Arc, Mutex};

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use kvm_ioctls::{IoEventAddress, VmFd};

use super::error::DeviceError;
use super::running::EventLoop;
use crate::arch::native::layout::{self, VirtioSlot};
use crate::bus::{Buses, MmioDevice};
use crate::devices::power::{ResetPort, SleepPorts};
use crate::devices::serial::{Console, SerialPort};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::mmio::{MmioTransport, QUEUE_NOTIFY};
use crate::kvm::{IrqLine, KvmError};
use crate::memory::GuestRamHandle;
use crate::stop::StopSignal;

/// A machine's devices while they are being put together.
pub(super) struct Board<'a> {
    vm: &'a Arc<VmFd>,
    memory: GuestRamHandle,
    pub(super) buses: Buses,
    pub(super) events: EventLoop,
    /// The virtio devices' places, in the guest's order.
    pub(super) virtio: Vec<VirtioSlot>,
}

impl<'a> Board<'a> {
    pub(super) fn new(
        vm: &'a Arc<VmFd>,
        memory: GuestRamHandle,
    ) -> Result<Self, event_manager::Error> {
        Ok(Self {
            vm,
            memory,
            buses: Buses::default(),
            events: EventManager::new()?,
            virtio: Vec::new(),
        })
    }

    /// Connects the console.
    pub(super) fn add_serial(&mut self, console: Console) -> Result<(), DeviceError> {
        let line = self.interrupt(layout::SERIAL_GSI);
        let serial = SerialPort::new(line, console);
        self.buses
            .ports
            .add(layout::SERIAL_PORT, layout::SERIAL_PORTS, serial)?;
        Ok(())
    }

    /// Connects the registers that end the machine.
    pub(super) fn add_power(&mut self, stop: &StopSignal) -> Result<(), DeviceError> {
        let (reset, sleep) = (ResetPort::new(stop.clone()), SleepPorts::new(stop.clone()));
        self.buses.ports.add(layout::RESET_PORT, 1, reset)?;
        self.buses
            .ports
            .add(layout::SLEEP_PORT, SleepPorts::COUNT, sleep)?;
        Ok(())
    }

    /// Connects a virtio device behind the next register window.
    pub(super) fn add_virtio(
        &mut self,
        device: Arc<Mutex<dyn VirtioDevice>>,
    ) -> Result<(), DeviceError> {
        let slot = VirtioSlot::all()
            .nth(self.virtio.len())
            .ok_or(DeviceError::NoSlot)?;
        let line = Arc::new(self.interrupt(slot.gsi));
        let transport = MmioTransport::new(device, self.memory.clone(), line)?;
        for (queue, kick) in (0_u32..).zip(transport.doorbells()) {
            let doorbell = IoEventAddress::Mmio(slot.base.0 + QUEUE_NOTIFY);
            self.vm
                .register_ioevent(kick, &doorbell, queue)
                .map_err(KvmError::refused("register a doorbell"))?;
        }
        self.buses
            .mmio
            .add(slot.base, layout::VIRTIO_MMIO_SIZE, Window(transport))?;
        self.virtio.push(slot);
        Ok(())
    }

    /// Gives a device its place in the event loop.
    pub(super) fn subscribe(&mut self, subscriber: Arc<Mutex<dyn MutEventSubscriber>>) {
        self.events.add_subscriber(subscriber);
    }

    fn interrupt(&self, gsi: u32) -> IrqLine {
        IrqLine::new(Arc::clone(self.vm), gsi)
    }
}

/// The register window of a virtio device.
struct Window(MmioTransport);

impl MmioDevice for Window {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.0.write(offset, data);
    }
}
