//! The device on an event loop, with honest and hostile drivers.

use std::sync::{Arc, Mutex};

use event_manager::{EventManager, SubscriberOps};
use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::devices::virtio::Interrupt;
use crate::devices::virtio::driver::{
    Buffer, REGION_LEN, RingDriver, Wire, guest_memory, interrupt, needs_reset,
};
use crate::devices::virtio::mmio::hostile;
use crate::memory::GuestRamHandle;

const RING: u64 = 0x1000;
const DATA: u64 = 0x2_0000;

struct Machine {
    device: Arc<Mutex<Entropy>>,
    events: EventManager<Arc<Mutex<dyn MutEventSubscriber + Send>>>,
    memory: GuestRamHandle,
    driver: RingDriver,
    wire: Wire,
    interrupt: Interrupt,
    kick: Arc<EventFd>,
}

impl Machine {
    fn new() -> Self {
        let device = Arc::new(Mutex::new(Entropy::new().unwrap()));
        let mut events: EventManager<Arc<Mutex<dyn MutEventSubscriber + Send>>> =
            EventManager::new().unwrap();
        events.add_subscriber(device.clone());
        let memory = guest_memory();
        let driver = RingDriver::new(&memory, RING, QUEUE_SIZE);
        let wire = Wire::default();
        let mut machine = Self {
            device,
            events,
            memory,
            driver,
            interrupt: wire.interrupt(),
            wire,
            kick: Arc::new(crate::devices::virtio::driver::event_fd()),
        };
        machine.activate();
        machine
    }

    fn activate(&mut self) {
        self.driver = RingDriver::new(&self.memory, RING, QUEUE_SIZE);
        self.driver.write(RING, &[0; 0x400]);
        let mut queue = self.driver.active_queue(true);
        queue.kick = self.kick.clone();
        let resources = DeviceResources {
            memory: self.memory.clone(),
            queues: vec![Some(queue)],
            interrupt: self.interrupt.clone(),
            features: TRANSPORT_FEATURES,
        };
        self.device.lock().unwrap().activate(resources).unwrap();
    }

    /// Runs the loop until nothing is left to do. Returns how many rounds that took.
    fn run(&mut self) -> usize {
        (0..100)
            .find(|_| self.events.run_with_timeout(0).unwrap() == 0)
            .expect("the loop spins")
    }

    fn kick(&mut self) {
        self.kick.write(1).unwrap();
        self.run();
    }
}

#[test]
fn request_is_filled_with_random_bytes() {
    let mut machine = Machine::new();
    machine.driver.submit(&[
        Buffer::Writable(DATA, 64),
        Buffer::Writable(DATA + 0x100, 64),
    ]);
    machine.kick();
    assert_eq!(
        machine
            .driver
            .take_used()
            .iter()
            .map(|used| used.len)
            .collect::<Vec<_>>(),
        [128]
    );
    let (first, second) = (
        machine.driver.read::<64>(DATA),
        machine.driver.read::<64>(DATA + 0x100),
    );
    assert_ne!(first, second);
    assert_ne!(first, [0; 64]);
    assert_eq!(
        machine.driver.read::<16>(DATA + 64),
        [0; 16],
        "no byte beyond the buffer"
    );
    assert_eq!(machine.wire.pulses(), 1);
}

// Firecracker #5762: a chain that is longer than guest memory made the host allocate as much.
#[test]
fn request_is_capped_at_64_kib() {
    let mut machine = Machine::new();
    let len = u32::try_from(REGION_LEN - DATA).unwrap();
    machine.driver.submit(&[Buffer::Writable(DATA, len); 8]);
    machine.kick();
    assert_eq!(machine.driver.take_used()[0].len, 64 * 1024);
    let untouched = machine.driver.read::<64>(DATA + 64 * 1024);
    assert_eq!(untouched, [0; 64]);
    assert_ne!(machine.driver.read::<64>(DATA + 64 * 1024 - 64), [0; 64]);
}

// VIRTIO 1.2 §5.4.6.1: no readable buffers.
#[test]
fn readable_buffer_makes_the_device_need_a_reset() {
    let mut machine = Machine::new();
    machine
        .driver
        .submit(&[Buffer::Readable(DATA, 8), Buffer::Writable(DATA, 8)]);
    machine.kick();
    assert!(needs_reset(&machine.interrupt));
}

#[test]
fn broken_requests_make_the_device_need_a_reset_and_stop_it() {
    let broken: [&[Buffer]; 3] = [
        &[Buffer::Writable(DATA, 0)],
        &[Buffer::Writable(REGION_LEN - 1, 2)],
        &[Buffer::Writable(u64::MAX, 1)],
    ];
    for buffers in broken {
        let mut machine = Machine::new();
        machine.driver.submit(buffers);
        machine.driver.submit(&[Buffer::Writable(DATA, 8)]);
        machine.kick();
        machine.kick();
        assert!(needs_reset(&machine.interrupt), "{buffers:?}");
        assert!(machine.driver.take_used().is_empty(), "{buffers:?}");
    }
}

#[test]
fn many_requests_are_served_in_turns() {
    let mut machine = Machine::new();
    for _ in 0..QUEUE_SIZE {
        machine.driver.submit(&[Buffer::Writable(DATA, 8)]);
    }
    machine.kick();
    assert_eq!(machine.driver.take_used().len(), usize::from(QUEUE_SIZE));
    assert_eq!(machine.wire.pulses(), 1, "one interrupt for all");
}

#[test]
fn reset_stops_and_activation_starts_again() {
    let mut machine = Machine::new();
    machine.run();
    machine.device.lock().unwrap().reset();
    machine.driver.submit(&[Buffer::Writable(DATA, 8)]);
    machine.kick();
    assert!(machine.driver.take_used().is_empty());

    machine.activate();
    machine.driver.submit(&[Buffer::Writable(DATA, 8)]);
    machine.kick();
    assert_eq!(machine.driver.take_used().len(), 1);
}

#[test]
fn kick_before_activation_is_seen() {
    let mut machine = Machine::new();
    machine.device.lock().unwrap().reset();
    machine.kick.write(1).unwrap();
    machine.activate();
    machine.driver.submit(&[Buffer::Writable(DATA, 8)]);
    machine.run();
    assert_eq!(machine.driver.take_used().len(), 1);
}

#[test]
fn activation_without_a_queue_is_refused() {
    let mut device = Entropy::new().unwrap();
    let resources = DeviceResources {
        memory: guest_memory(),
        queues: vec![None],
        interrupt: interrupt(),
        features: TRANSPORT_FEATURES,
    };
    assert!(device.activate(resources).is_err());
}

proptest::proptest! {
    #[test]
    fn any_driver_is_survived(script in proptest::collection::vec(proptest::num::u8::ANY, 0..2048)) {
        let memory = guest_memory();
        let device = Arc::new(Mutex::new(Entropy::new().unwrap()));
        let mut events: EventManager<Arc<Mutex<dyn MutEventSubscriber + Send>>> =
            EventManager::new().unwrap();
        events.add_subscriber(device.clone());
        hostile::drive_device(&script, &memory, device, |_| {
            // A driver may keep the device busy, but each turn ends.
            for _ in 0..3 {
                events.run_with_timeout(0).unwrap();
            }
        });
    }
}
