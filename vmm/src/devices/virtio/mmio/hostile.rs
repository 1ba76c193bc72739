//! A driver that does anything to the registers, for property tests and fuzzing.

use std::sync::{Arc, Mutex};

use virtio_queue::QueueT;
use vm_memory::GuestAddressSpace;

use super::registers::{
    DRIVER_FEATURES, DRIVER_FEATURES_SEL, QUEUE_DESC_LOW, QUEUE_DEVICE_LOW, QUEUE_DRIVER_LOW,
    QUEUE_NOTIFY, QUEUE_NUM, QUEUE_READY, QUEUE_SEL, STATUS,
};
use super::status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK};
use super::{MmioTransport, half};
use crate::devices::virtio::driver::{RingDriver, Script, Wire, guest_memory};
use crate::devices::virtio::{
    ActivateError, DeviceResources, STATUS_DEVICE_NEEDS_RESET, TRANSPORT_FEATURES,
    VIRTIO_F_VERSION_1, VirtioDevice,
};
use crate::memory::GuestRamHandle;

/// Where the ring of queue 0 lies.
const RING: u64 = 0x1000;

/// Plays `data` as a driver's doings at a transport with a device that checks what it is given.
///
/// # Panics
/// When the transport does what it must not do for any driver.
pub fn drive(data: &[u8]) {
    let memory = guest_memory();
    let auditor = Arc::new(Mutex::new(Auditor::default()));
    drive_device(data, &memory, auditor, |_| ());
}

/// The same with any device; `settle` lets it do what it has to do after a kick.
///
/// # Panics
/// When the transport does what it must not do for any driver.
pub fn drive_device(
    data: &[u8],
    memory: &GuestRamHandle,
    device: Arc<Mutex<dyn VirtioDevice>>,
    mut settle: impl FnMut(&MmioTransport),
) {
    let mut script = Script::new(data);
    let mut transport =
        MmioTransport::new(device, memory.clone(), Arc::new(Wire::default())).expect("a transport");
    let size = transport.max_queue_sizes.first().copied().unwrap_or(1);
    let mut driver = RingDriver::new(memory, RING, size);
    while !script.is_empty() {
        let before = (transport.status(), transport.queues.clone());
        step(&mut transport, &mut driver, &mut script);
        if transport.status() & DRIVER_OK != 0 {
            settle(&transport);
        }
        check(&transport, before.0, &before.1);
    }
    transport.write(STATUS, &0_u32.to_le_bytes());
    assert_eq!(transport.status(), 0, "a reset always works");
}

/// One thing that a driver can do, sound or not.
fn step(transport: &mut MmioTransport, driver: &mut RingDriver, script: &mut Script<'_>) {
    match script.byte() % 16 {
        0..=3 => driver.misbehave(script),
        4 => {
            let offset = u64::from(script.u16());
            let mut bytes = script.take::<16>();
            let width = usize::from(script.byte() % 17);
            transport.read(offset, &mut bytes[..width]);
        }
        5 => {
            let offset = u64::from(script.u16() % 0x200);
            let bytes = script.take::<16>();
            transport.write(offset, &bytes[..usize::from(script.byte() % 17)]);
        }
        6 => put(transport, u64::from(script.byte()) & !3, script.u32()),
        7 => put(
            transport,
            u64::from(script.byte()) & !3,
            u32::from(script.byte()),
        ),
        8 => {
            for select in 0..2 {
                put(transport, DRIVER_FEATURES_SEL, select);
                put(transport, DRIVER_FEATURES, half(TRANSPORT_FEATURES, select));
            }
        }
        9 | 10 => {
            // The next step of the initialization.
            let status = transport.status();
            let next = [ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK];
            let bit = next
                .into_iter()
                .find(|bit| status & bit == 0)
                .unwrap_or_default();
            put(transport, STATUS, status | bit);
        }
        11 | 12 => set_up_queue(transport, driver, script),
        13 | 14 => {
            put(transport, QUEUE_NOTIFY, u32::from(script.byte() % 8 == 7));
        }
        _ => {
            if script.byte() < 40 {
                put(transport, STATUS, 0);
            }
        }
    }
}

fn set_up_queue(transport: &mut MmioTransport, driver: &RingDriver, script: &mut Script<'_>) {
    let mut registers = driver.registers();
    match script.byte() % 16 {
        0 => registers.size = script.u32(),
        1 => registers.descriptor_table = script.address(),
        2 => registers.driver_area = script.address(),
        3 => registers.device_area = script.address(),
        _ => {}
    }
    put(transport, QUEUE_SEL, u32::from(script.byte() % 8 == 7));
    put(transport, QUEUE_NUM, registers.size);
    let parts = [
        (QUEUE_DESC_LOW, registers.descriptor_table),
        (QUEUE_DRIVER_LOW, registers.driver_area),
        (QUEUE_DEVICE_LOW, registers.device_area),
    ];
    for (low, address) in parts {
        put(transport, low, half(address, 0));
        put(transport, low + 4, half(address, 1));
    }
    put(transport, QUEUE_READY, 1);
}

fn put(transport: &mut MmioTransport, offset: u64, value: u32) {
    transport.write(offset, &value.to_le_bytes());
}

/// What holds after every step.
fn check(transport: &MmioTransport, status: u32, queues: &[super::QueueRegisters]) {
    let now = transport.status();
    for (bit, needed) in [
        (DRIVER, ACKNOWLEDGE),
        (FEATURES_OK, DRIVER),
        (DRIVER_OK, FEATURES_OK),
    ] {
        assert!(
            now & bit == 0 || now & needed != 0,
            "status {now:#x} was reached out of order"
        );
    }
    let was_reset = status & !now & !STATUS_DEVICE_NEEDS_RESET != 0;
    assert!(
        !was_reset || now == 0,
        "status {status:#x} became {now:#x} without a reset"
    );
    let ran = status & DRIVER_OK != 0 && now & DRIVER_OK != 0;
    assert!(
        !ran || transport.queues == queues,
        "a queue changed under a running device"
    );
    if now & FEATURES_OK != 0 {
        assert!(transport.features_are_acceptable());
    }
}

/// A device that trusts no transport.
#[derive(Default)]
struct Auditor {
    running: Option<DeviceResources>,
}

impl VirtioDevice for Auditor {
    fn device_id(&self) -> u32 {
        42
    }

    fn max_queue_sizes(&self) -> &[u16] {
        &[64, 16]
    }

    fn offered_features(&self) -> u64 {
        TRANSPORT_FEATURES
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0xee);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, resources: DeviceResources) -> Result<(), ActivateError> {
        assert!(self.running.is_none(), "activated twice");
        assert_eq!(resources.features & !self.offered_features(), 0);
        assert_ne!(resources.features & VIRTIO_F_VERSION_1, 0);
        let memory = resources.memory.memory();
        for (queue, max_size) in resources.queues.iter().zip(self.max_queue_sizes()) {
            let Some(queue) = queue else { continue };
            let size = queue.queue.size();
            assert!(size.is_power_of_two() && size <= *max_size, "size {size}");
            assert!(queue.queue.is_valid(&*memory), "a ring outside memory");
        }
        drop(memory);
        self.running = Some(resources);
        Ok(())
    }

    fn reset(&mut self) {
        self.running = None;
    }
}
