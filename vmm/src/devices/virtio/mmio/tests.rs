//! Honest and hostile drivers at the registers.

use super::registers::*;
use super::status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK};
use super::*;
use crate::devices::virtio::driver::{RingDriver, Wire, guest_memory};
use crate::devices::virtio::{
    INTERRUPT_CONFIG_CHANGE, INTERRUPT_USED_RING, STATUS_DEVICE_NEEDS_RESET, TRANSPORT_FEATURES,
};

/// A device that remembers what was done to it.
#[derive(Default)]
struct Recorder {
    resources: Option<DeviceResources>,
    activations: usize,
    resets: usize,
    refuse: bool,
    config: [u8; 8],
    serves_at_once: bool,
    notified: Vec<usize>,
}

impl VirtioDevice for Recorder {
    fn device_id(&self) -> u32 {
        42
    }

    fn max_queue_sizes(&self) -> &[u16] {
        &[16, 64]
    }

    fn offered_features(&self) -> u64 {
        TRANSPORT_FEATURES | 1
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let rest = self
            .config
            .get(usize::try_from(offset).unwrap()..)
            .unwrap_or_default();
        data.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let start = usize::try_from(offset).unwrap();
        self.config
            .iter_mut()
            .skip(start)
            .zip(data)
            .for_each(|(to, from)| *to = *from);
    }

    fn activate(&mut self, resources: DeviceResources) -> Result<(), ActivateError> {
        self.activations += 1;
        if self.refuse {
            return Err(ActivateError("it was told to refuse".into()));
        }
        self.resources = Some(resources);
        Ok(())
    }

    fn serves_at_once(&self) -> bool {
        self.serves_at_once
    }

    fn notified(&mut self, queue: usize) {
        self.notified.push(queue);
    }

    fn reset(&mut self) {
        self.resets += 1;
        self.resources = None;
    }
}

struct Machine {
    transport: MmioTransport,
    device: Arc<Mutex<Recorder>>,
    memory: GuestRamHandle,
    wire: Wire,
}

impl Machine {
    fn new() -> Self {
        Self::with(Recorder::default())
    }

    fn with(device: Recorder) -> Self {
        let device = Arc::new(Mutex::new(device));
        let memory = guest_memory();
        let wire = Wire::default();
        let line = Arc::new(wire.clone());
        let transport = MmioTransport::new(device.clone(), memory.clone(), line).unwrap();
        Self {
            transport,
            device,
            memory,
            wire,
        }
    }

    fn at(status: u32) -> Self {
        let mut machine = Self::new();
        machine.advance(status);
        machine
    }

    /// Goes through the initialization up to `status`, with valid queues.
    fn advance(&mut self, status: u32) {
        for bit in [ACKNOWLEDGE, DRIVER] {
            self.add_status(status & bit);
        }
        if status & FEATURES_OK != 0 {
            self.write_features(TRANSPORT_FEATURES);
            self.add_status(FEATURES_OK);
        }
        if status & DRIVER_OK != 0 {
            self.set_up_queue(0, &self.ring(0x1000, 16));
            self.set_up_queue(1, &self.ring(0x4000, 64));
            self.add_status(DRIVER_OK);
        }
        assert_eq!(self.get(STATUS), status);
    }

    fn ring(&self, base: u64, size: u16) -> QueueRegisters {
        RingDriver::new(&self.memory, base, size).registers()
    }

    fn get(&mut self, offset: u64) -> u32 {
        let mut data = [0xee; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn put(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    fn add_status(&mut self, bits: u32) {
        let status = self.get(STATUS);
        if bits != 0 {
            self.put(STATUS, status | bits);
        }
    }

    fn write_features(&mut self, features: u64) {
        for select in 0..2 {
            self.put(DRIVER_FEATURES_SEL, select);
            self.put(DRIVER_FEATURES, half(features, select));
        }
    }

    fn set_up_queue(&mut self, index: u32, registers: &QueueRegisters) {
        self.put(QUEUE_SEL, index);
        self.put(QUEUE_NUM, registers.size);
        let parts = [
            (QUEUE_DESC_LOW, registers.descriptor_table),
            (QUEUE_DRIVER_LOW, registers.driver_area),
            (QUEUE_DEVICE_LOW, registers.device_area),
        ];
        for (low, address) in parts {
            self.put(low, half(address, 0));
            self.put(low + 4, half(address, 1));
        }
        self.put(QUEUE_READY, registers.ready.into());
    }

    fn is_active(&self) -> bool {
        self.device.lock().unwrap().resources.is_some()
    }
}

const READY_FOR_QUEUES: u32 = ACKNOWLEDGE | DRIVER | FEATURES_OK;
const RUNNING: u32 = READY_FOR_QUEUES | DRIVER_OK;

#[test]
fn identification_registers_say_what_the_specification_wants() {
    let mut machine = Machine::new();
    assert_eq!(machine.get(MAGIC_VALUE), 0x7472_6976);
    assert_eq!(machine.get(VERSION), 2);
    assert_eq!(machine.get(DEVICE_ID), 42);
    assert_eq!(machine.get(STATUS), 0);
    assert_eq!(machine.get(CONFIG_GENERATION), 0);
}

#[test]
fn initialization_as_in_section_3_1_1_starts_the_device() {
    let machine = Machine::at(RUNNING);
    let device = machine.device.lock().unwrap();
    let resources = device.resources.as_ref().unwrap();
    assert_eq!(resources.features, TRANSPORT_FEATURES);
    let sizes = resources.queues.iter().map(|queue| {
        let queue = &queue.as_ref().unwrap().queue;
        assert!(virtio_queue::QueueT::event_idx_enabled(queue));
        virtio_queue::QueueT::size(queue)
    });
    assert_eq!(sizes.collect::<Vec<_>>(), [16, 64]);
}

#[test]
fn queue_that_is_not_ready_is_none() {
    let mut machine = Machine::at(READY_FOR_QUEUES);
    let registers = machine.ring(0x1000, 16);
    machine.set_up_queue(0, &registers);
    machine.add_status(DRIVER_OK);
    let device = machine.device.lock().unwrap();
    let queues = &device.resources.as_ref().unwrap().queues;
    assert!(queues[0].is_some() && queues[1].is_none());
}

#[test]
fn device_features_are_read_in_halves() {
    let mut machine = Machine::new();
    let mut halves = Vec::new();
    for select in [0, 1, 2, u32::MAX] {
        machine.put(DEVICE_FEATURES_SEL, select);
        halves.push(machine.get(DEVICE_FEATURES));
    }
    assert_eq!(halves, [1 | 1 << 28 | 1 << 29, 1, 0, 0]);
}

// VIRTIO 1.2 §2.2.2: FEATURES_OK is not set when the driver wants what was not offered.
#[test]
fn features_ok_is_refused_for_features_that_were_not_offered() {
    for features in [
        TRANSPORT_FEATURES | 2,
        TRANSPORT_FEATURES | 1 << 63,
        u64::MAX,
    ] {
        let mut machine = Machine::at(ACKNOWLEDGE | DRIVER);
        machine.write_features(features);
        machine.add_status(FEATURES_OK);
        assert_eq!(machine.get(STATUS), ACKNOWLEDGE | DRIVER, "{features:#x}");
    }
}

#[test]
fn features_ok_is_refused_for_features_above_bit_63() {
    let mut machine = Machine::at(ACKNOWLEDGE | DRIVER);
    machine.write_features(TRANSPORT_FEATURES);
    machine.put(DRIVER_FEATURES_SEL, 2);
    machine.put(DRIVER_FEATURES, 1);
    machine.add_status(FEATURES_OK);
    assert_eq!(machine.get(STATUS), ACKNOWLEDGE | DRIVER);
}

// VIRTIO 1.2 §6.2: a device may refuse a driver that does not accept VERSION_1.
#[test]
fn features_ok_is_refused_without_version_1() {
    let mut machine = Machine::at(ACKNOWLEDGE | DRIVER);
    machine.write_features(1 << 28);
    machine.add_status(FEATURES_OK);
    assert_eq!(machine.get(STATUS), ACKNOWLEDGE | DRIVER);
    // The driver may think again.
    machine.write_features(VIRTIO_F_VERSION_1);
    machine.add_status(FEATURES_OK);
    assert_eq!(machine.get(STATUS), READY_FOR_QUEUES);
}

#[test]
fn features_cannot_change_after_features_ok() {
    let mut machine = Machine::at(READY_FOR_QUEUES);
    machine.write_features(u64::MAX);
    let registers = machine.ring(0x1000, 16);
    machine.set_up_queue(0, &registers);
    machine.add_status(DRIVER_OK);
    let device = machine.device.lock().unwrap();
    assert_eq!(
        device.resources.as_ref().unwrap().features,
        TRANSPORT_FEATURES
    );
}

// VIRTIO 1.2 §3.1.1: the steps, each before the next.
#[test]
fn status_bits_out_of_order_are_ignored() {
    let mut machine = Machine::new();
    for (written, reached) in [
        (DRIVER, 0),
        (DRIVER_OK, 0),
        (FEATURES_OK, 0),
        (ACKNOWLEDGE | DRIVER_OK, ACKNOWLEDGE),
        (ACKNOWLEDGE | FEATURES_OK, ACKNOWLEDGE),
        (ACKNOWLEDGE | DRIVER, ACKNOWLEDGE | DRIVER),
        (ACKNOWLEDGE | DRIVER | DRIVER_OK, ACKNOWLEDGE | DRIVER),
    ] {
        machine.put(STATUS, written);
        assert_eq!(machine.get(STATUS), reached, "after {written:#x}");
    }
    machine.write_features(TRANSPORT_FEATURES);
    machine.put(STATUS, RUNNING);
    assert_eq!(
        machine.get(STATUS),
        READY_FOR_QUEUES,
        "queues are set up between the two"
    );
    assert_eq!(machine.device.lock().unwrap().activations, 0);
}

// VIRTIO 1.2 §2.1.1: the driver does not clear a bit.
#[test]
fn status_bits_are_cleared_by_reset_alone() {
    let mut machine = Machine::at(RUNNING);
    for value in [
        ACKNOWLEDGE,
        RUNNING & !DRIVER_OK,
        RUNNING & !ACKNOWLEDGE,
        FAILED,
    ] {
        machine.put(STATUS, value);
        assert_eq!(machine.get(STATUS), RUNNING);
    }
    machine.put(STATUS, 0);
    assert_eq!(machine.get(STATUS), 0);
}

#[test]
fn unknown_status_bits_are_ignored() {
    let mut machine = Machine::at(ACKNOWLEDGE);
    machine.put(
        STATUS,
        0xffff_ff00 | STATUS_DEVICE_NEEDS_RESET | 0x30 | ACKNOWLEDGE,
    );
    assert_eq!(machine.get(STATUS), ACKNOWLEDGE);
}

#[test]
fn driver_ok_twice_starts_the_device_once() {
    let mut machine = Machine::at(RUNNING);
    machine.put(STATUS, RUNNING);
    assert_eq!(machine.device.lock().unwrap().activations, 1);
}

#[test]
fn driver_that_failed_can_only_reset() {
    let mut machine = Machine::at(READY_FOR_QUEUES);
    machine.add_status(FAILED);
    machine.add_status(DRIVER_OK);
    assert_eq!(machine.get(STATUS), READY_FOR_QUEUES | FAILED);
    machine.put(STATUS, 0);
    machine.advance(RUNNING);
    assert!(machine.is_active());
}

// CVE-2026-5747: the queue size was writable while the device ran.
#[test]
fn queue_registers_are_fixed_once_the_device_runs() {
    let mut machine = Machine::at(RUNNING);
    let before = machine.transport.queues.clone();
    for offset in (QUEUE_NUM..=QUEUE_DEVICE_HIGH)
        .step_by(4)
        .filter(|offset| *offset != STATUS)
    {
        for index in 0..3 {
            machine.put(QUEUE_SEL, index);
            machine.put(offset, 0);
            machine.put(offset, u32::MAX);
        }
    }
    assert_eq!(machine.transport.queues, before);
    assert_eq!(machine.device.lock().unwrap().activations, 1);
}

#[test]
fn queue_registers_are_fixed_once_the_queue_is_ready() {
    let mut machine = Machine::at(READY_FOR_QUEUES);
    let registers = machine.ring(0x1000, 16);
    machine.set_up_queue(0, &registers);
    let other = QueueRegisters {
        size: 8,
        ..machine.ring(0x8000, 8)
    };
    machine.set_up_queue(0, &other);
    assert_eq!(machine.transport.queues[0], registers);

    machine.put(QUEUE_READY, 0);
    machine.set_up_queue(0, &other);
    assert_eq!(
        machine.transport.queues[0], other,
        "a queue that is not ready can be set up anew"
    );
}

#[test]
fn queue_registers_are_fixed_before_features_ok() {
    let mut machine = Machine::at(ACKNOWLEDGE | DRIVER);
    let registers = machine.ring(0x1000, 16);
    machine.set_up_queue(0, &registers);
    assert_eq!(machine.transport.queues[0], QueueRegisters::default());
}

// Cloud Hypervisor #7917: the selected queue was used as an index.
#[test]
fn selecting_a_queue_that_does_not_exist_reads_zero_and_writes_nothing() {
    let mut machine = Machine::at(READY_FOR_QUEUES);
    for index in [2, 0xffff, 0x1_0000, u32::MAX] {
        let registers = machine.ring(0x1000, 16);
        machine.set_up_queue(index, &registers);
        assert_eq!(
            (machine.get(QUEUE_NUM_MAX), machine.get(QUEUE_READY)),
            (0, 0),
            "queue {index}"
        );
    }
    assert_eq!(machine.transport.queues, [QueueRegisters::default(); 2]);
    machine.put(QUEUE_SEL, 1);
    assert_eq!(machine.get(QUEUE_NUM_MAX), 64);
}

#[test]
fn queue_that_breaks_a_rule_makes_the_device_need_a_reset() {
    let mut machine = Machine::new();
    let good = machine.ring(0x1000, 16);
    let bad = [
        QueueRegisters { size: 0, ..good },
        QueueRegisters { size: 12, ..good },
        QueueRegisters { size: 32, ..good },
        QueueRegisters {
            size: 0x1_0010,
            ..good
        },
        QueueRegisters {
            descriptor_table: 0x1008,
            ..good
        },
        QueueRegisters {
            driver_area: 0x2001,
            ..good
        },
        QueueRegisters {
            device_area: 0x3002,
            ..good
        },
        QueueRegisters {
            descriptor_table: 0x10_0000,
            ..good
        },
        QueueRegisters {
            descriptor_table: 0xf_ff10,
            ..good
        },
        QueueRegisters {
            driver_area: 0xd000_0000,
            ..good
        },
        QueueRegisters {
            device_area: u64::MAX - 3,
            ..good
        },
    ];
    for registers in bad {
        machine.put(STATUS, 0);
        machine.advance(READY_FOR_QUEUES);
        machine.set_up_queue(0, &registers);
        machine.add_status(DRIVER_OK);
        let status = machine.get(STATUS);
        assert_eq!(
            status,
            RUNNING | STATUS_DEVICE_NEEDS_RESET,
            "{registers:x?}"
        );
        assert!(!machine.is_active());
        // VIRTIO 1.2 §2.1.2: the driver is told by a configuration change notification.
        assert_eq!(machine.get(INTERRUPT_STATUS), INTERRUPT_CONFIG_CHANGE);
        assert_eq!(machine.wire.pulses(), 1);
    }
    machine.put(STATUS, 0);
    machine.advance(RUNNING);
    assert!(machine.is_active(), "a reset heals it");
}

#[test]
fn device_that_cannot_start_needs_a_reset() {
    let mut machine = Machine::at(READY_FOR_QUEUES);
    machine.device.lock().unwrap().refuse = true;
    machine.add_status(DRIVER_OK);
    assert_eq!(machine.get(STATUS), RUNNING | STATUS_DEVICE_NEEDS_RESET);
}

#[test]
fn device_that_needs_a_reset_ignores_everything_else() {
    let mut machine = Machine::at(RUNNING);
    let interrupt = machine
        .device
        .lock()
        .unwrap()
        .resources
        .as_ref()
        .unwrap()
        .interrupt
        .clone();
    interrupt.signal_needs_reset();
    machine.add_status(FAILED);
    machine.put(CONFIG, 0x1234_5678);
    assert_eq!(machine.get(STATUS), RUNNING | STATUS_DEVICE_NEEDS_RESET);
    assert_eq!(machine.get(CONFIG), 0);
    machine.put(STATUS, 0);
    assert_eq!(machine.get(STATUS), 0);
}

#[test]
fn reset_forgets_everything_and_keeps_the_kicks() {
    let mut machine = Machine::at(RUNNING);
    let kicks = machine.transport.doorbells().to_vec();
    kicks[1].write(3).unwrap();
    let interrupt = machine
        .device
        .lock()
        .unwrap()
        .resources
        .as_ref()
        .unwrap()
        .interrupt
        .clone();
    interrupt.signal_used_queue();
    machine.put(DEVICE_FEATURES_SEL, 1);

    machine.put(STATUS, 0);
    assert_eq!(machine.device.lock().unwrap().resets, 1);
    assert_eq!(machine.transport.queues, [QueueRegisters::default(); 2]);
    assert_eq!((machine.get(INTERRUPT_STATUS), machine.get(STATUS)), (0, 0));
    assert!(
        kicks[1].read().is_err(),
        "a notification of the time before is gone"
    );

    machine.advance(RUNNING);
    let device = machine.device.lock().unwrap();
    for (queue, kick) in device.resources.as_ref().unwrap().queues.iter().zip(&kicks) {
        assert!(Arc::ptr_eq(&queue.as_ref().unwrap().kick, kick));
    }
}

#[test]
fn reset_works_in_every_state() {
    for status in [
        0,
        ACKNOWLEDGE,
        ACKNOWLEDGE | DRIVER,
        READY_FOR_QUEUES,
        RUNNING,
    ] {
        let mut machine = Machine::at(status);
        machine.put(STATUS, 0);
        machine.advance(RUNNING);
        assert!(machine.is_active());
    }
}

#[test]
fn notification_by_an_exit_signals_the_kick() {
    let mut machine = Machine::at(RUNNING);
    machine.put(QUEUE_NOTIFY, 1);
    for absent in [2, 0x1_0001, u32::MAX] {
        machine.put(QUEUE_NOTIFY, absent);
    }
    let kicks = machine.transport.doorbells();
    assert!(kicks[0].read().is_err());
    assert_eq!(kicks[1].read().unwrap(), 1);
}

#[test]
fn device_that_serves_at_once_is_told_itself() {
    let mut machine = Machine::with(Recorder {
        serves_at_once: true,
        ..Recorder::default()
    });
    machine.advance(RUNNING);
    for queue in [1, 2, u32::MAX, 0] {
        machine.put(QUEUE_NOTIFY, queue);
    }
    assert_eq!(machine.device.lock().unwrap().notified, [1, 0]);
    assert!(machine.transport.doorbells().is_empty());
}

#[test]
fn interrupts_are_acknowledged_bit_by_bit() {
    let mut machine = Machine::at(RUNNING);
    let interrupt = machine
        .device
        .lock()
        .unwrap()
        .resources
        .as_ref()
        .unwrap()
        .interrupt
        .clone();
    interrupt.signal_used_queue();
    interrupt.signal_config_change();
    assert_eq!(
        machine.get(INTERRUPT_STATUS),
        INTERRUPT_USED_RING | INTERRUPT_CONFIG_CHANGE
    );
    machine.put(INTERRUPT_ACK, INTERRUPT_USED_RING);
    assert_eq!(machine.get(INTERRUPT_STATUS), INTERRUPT_CONFIG_CHANGE);
    machine.put(INTERRUPT_ACK, u32::MAX);
    assert_eq!(machine.get(INTERRUPT_STATUS), 0);
}

// VIRTIO 1.2 §4.2.2: a shared memory region that does not exist has a length of all ones.
#[test]
fn there_are_no_shared_memory_regions() {
    let mut machine = Machine::new();
    for region in [0, 1, u32::MAX] {
        machine.put(0x0ac, region);
        for offset in [SHM_LEN_LOW, SHM_LEN_HIGH, SHM_BASE_LOW, SHM_BASE_HIGH] {
            assert_eq!(machine.get(offset), u32::MAX);
        }
    }
}

// VIRTIO 1.2 §4.2.2.2: control registers are accessed by aligned 32-bit words.
#[test]
fn control_registers_at_other_widths_and_offsets_read_zero_and_write_nothing() {
    let mut machine = Machine::at(ACKNOWLEDGE | DRIVER);
    for offset in 0..CONFIG {
        for width in 0..=16 {
            if width == 4 && offset % 4 == 0 {
                continue;
            }
            machine.transport.write(offset, &vec![0; width]);
            machine.transport.write(offset, &vec![0xff; width]);
            let mut data = vec![0xee; width];
            machine.transport.read(offset, &mut data);
            assert_eq!(data, vec![0; width], "{width} bytes at {offset:#x}");
        }
    }
    assert_eq!(machine.get(STATUS), ACKNOWLEDGE | DRIVER);
}

#[test]
fn write_only_and_reserved_registers_read_zero() {
    let mut machine = Machine::at(RUNNING);
    for offset in [
        QUEUE_SEL,
        QUEUE_NUM,
        QUEUE_NOTIFY,
        INTERRUPT_ACK,
        QUEUE_DESC_LOW,
        0x0c0,
        0x0f8,
    ] {
        assert_eq!(machine.get(offset), 0, "{offset:#x}");
    }
}

#[test]
fn configuration_space_is_read_and_written_at_the_width_of_its_fields() {
    let mut machine = Machine::at(ACKNOWLEDGE | DRIVER);
    machine.transport.write(CONFIG, &[1, 2, 3, 4, 5, 6, 7, 8]);
    for width in [1, 2, 4, 8] {
        let mut data = vec![0; width];
        machine.transport.read(CONFIG, &mut data);
        assert_eq!(data, [1, 2, 3, 4, 5, 6, 7, 8][..width]);
    }
    let mut beyond = [0xee; 4];
    machine.transport.read(CONFIG + 6, &mut beyond);
    assert_eq!(beyond, [7, 8, 0, 0]);
    for width in [0, 3, 5, 16] {
        let mut data = vec![0xee; width];
        machine.transport.read(CONFIG, &mut data);
        machine.transport.write(CONFIG, &vec![0xee; width]);
        assert_eq!(data, vec![0; width], "{width} bytes");
    }
    assert_eq!(machine.get(CONFIG), 0x0403_0201);
}

#[test]
fn configuration_space_is_not_written_before_there_is_a_driver() {
    let mut machine = Machine::at(ACKNOWLEDGE);
    machine.put(CONFIG, u32::MAX);
    assert_eq!(machine.get(CONFIG), 0);
}

#[test]
fn offsets_far_beyond_the_window_are_harmless() {
    let mut machine = Machine::at(RUNNING);
    for offset in [
        REGION_LEN - 1,
        REGION_LEN,
        u64::from(u32::MAX),
        u64::MAX - 3,
        u64::MAX,
    ] {
        machine.put(offset, u32::MAX);
        assert_eq!(machine.get(offset), 0);
    }
}

proptest::proptest! {
    #[test]
    fn any_driver_is_survived(script in proptest::collection::vec(proptest::num::u8::ANY, 0..2048)) {
        hostile::drive(&script);
    }
}
