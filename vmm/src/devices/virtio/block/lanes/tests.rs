//! Lanes, with a driver on an event loop.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use event_manager::{EventManager, SubscriberOps};
use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};

use super::*;
use crate::devices::virtio::driver::{
    Buffer, RingDriver, Wire, event_fd, guest_memory, interrupt, needs_reset,
};
use crate::devices::virtio::mmio::MmioTransport;
use crate::devices::virtio::{ActiveQueue, Interrupt};
use crate::memory::GuestRamHandle;

const RING: u64 = 0x1000;
const HEADER: u64 = 0x8000;
const STATUS: u64 = 0x9000;
const DATA: u64 = 0x2_0000;

const IN: u32 = 0;
const OUT: u32 = 1;
const OK: u8 = 0;
const IOERR: u8 = 1;

/// `DeviceID` (virtio 1.2, section 4.2.2).
const DEVICE_ID: u64 = 0x008;

/// Memory as a client makes it.
fn memory(len: u64) -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = memfd_create("lane", flags).unwrap();
    ftruncate(&memory, len).unwrap();
    fcntl_add_seals(&memory, SealFlags::GROW | SealFlags::SHRINK).unwrap();
    memory.into()
}

fn sent(memory: &File) -> OwnedFd {
    memory.as_fd().try_clone_to_owned().unwrap()
}

/// The first sector of a lane.
fn first_sector(number: LaneNumber) -> u64 {
    number.0 * (LANE_LEN / SECTOR_SIZE)
}

struct Machine {
    lanes: Lanes,
    device: Arc<Mutex<LaneDisk>>,
    events: EventManager<Arc<Mutex<dyn MutEventSubscriber + Send>>>,
    driver: RingDriver,
    interrupt: Interrupt,
}

impl Machine {
    fn new() -> Self {
        let lanes = Lanes::default();
        let device = Arc::new(Mutex::new(LaneDisk::new(lanes.clone()).unwrap()));
        let mut events: EventManager<Arc<Mutex<dyn MutEventSubscriber + Send>>> =
            EventManager::new().unwrap();
        events.add_subscriber(device.clone());
        let memory: GuestRamHandle = guest_memory();
        let driver = RingDriver::new(&memory, RING, QUEUE_SIZE);
        let machine = Self {
            lanes,
            device,
            events,
            interrupt: interrupt(),
            driver,
        };
        let resources = DeviceResources {
            memory,
            queues: vec![Some(ActiveQueue {
                queue: machine.driver.active_queue(true).queue,
                kick: Arc::new(event_fd()),
            })],
            interrupt: machine.interrupt.clone(),
            features: TRANSPORT_FEATURES,
        };
        machine.device.lock().unwrap().activate(resources).unwrap();
        machine
    }

    /// Has a request done by whoever makes it, and returns its status.
    fn request(&mut self, kind: u32, sector: u64, data: Buffer) -> u8 {
        self.submit(kind, sector, data);
        self.device.lock().unwrap().notified(0);
        assert!(!needs_reset(&self.interrupt));
        assert_eq!(self.driver.take_used().len(), 1);
        self.driver.read::<1>(STATUS)[0]
    }

    fn submit(&mut self, kind: u32, sector: u64, data: Buffer) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.driver.write(HEADER, &header);
        self.driver.write(STATUS, &[0xee]);
        let buffers = [
            Buffer::Readable(HEADER, 16),
            data,
            Buffer::Writable(STATUS, 1),
        ];
        self.driver.submit(&buffers);
    }
}

#[test]
fn the_disk_is_there_once_there_was_a_lane() {
    let lanes = Lanes::default();
    let device = Arc::new(Mutex::new(LaneDisk::new(lanes.clone()).unwrap()));
    let mut window = MmioTransport::new(device, guest_memory(), Arc::new(Wire::default())).unwrap();
    assert!(window.doorbells().is_empty(), "it serves at once");
    let mut device_id = || {
        let mut id = [0xee; 4];
        window.read(DEVICE_ID, &mut id);
        u32::from_le_bytes(id)
    };
    assert_eq!(device_id(), 0);
    let lane = lanes.open(LaneNumber::of_host_port(7), sent(&memory(LANE_LEN)));
    assert_eq!(device_id(), ID_BLOCK);
    drop(lane);
    assert_eq!(device_id(), ID_BLOCK);
}

#[test]
fn a_lane_is_the_memory_that_was_sent() {
    let mut machine = Machine::new();
    let (ours, others) = (memory(LANE_LEN), memory(LANE_LEN));
    let number = LaneNumber::of_guest_port(u32::MAX);
    let lane = machine.lanes.open(number, sent(&ours)).unwrap();
    let other = machine
        .lanes
        .open(LaneNumber::of_host_port(u32::MAX), sent(&others));
    assert!(other.is_some());
    ours.write_all_at(&[7; 512], LANE_LEN - 512).unwrap();
    let last = first_sector(number) + LANE_LEN / SECTOR_SIZE - 1;
    assert_eq!(machine.request(IN, last, Buffer::Writable(DATA, 512)), OK);
    assert_eq!(machine.driver.read::<512>(DATA), [7; 512]);
    machine.driver.write(DATA, &[8; 1024]);
    let first = first_sector(number);
    assert_eq!(
        machine.request(OUT, first, Buffer::Readable(DATA, 1024)),
        OK
    );
    let mut found = [0; 1025];
    ours.read_exact_at(&mut found, 0).unwrap();
    assert_eq!((&found[..1024], found[1024]), (&[8; 1024][..], 0));
    others.read_exact_at(&mut found, 0).unwrap();
    assert_eq!(found, [0; 1025], "another lane");
    drop(lane);
    assert_eq!(
        machine.request(IN, first, Buffer::Writable(DATA, 512)),
        IOERR
    );
}

#[test]
fn nothing_is_reached_beside_a_lane() {
    let mut machine = Machine::new();
    let number = LaneNumber::of_host_port(3);
    let ours = memory(LANE_LEN);
    let lane = machine.lanes.open(number, sent(&ours));
    assert!(lane.is_some());
    let first = first_sector(number);
    let last = first + LANE_LEN / SECTOR_SIZE - 1;
    for sector in [first - 1, last, last + 1, u64::MAX] {
        let read = Buffer::Writable(DATA, 1024);
        assert_eq!(machine.request(IN, sector, read), IOERR, "sector {sector}");
        let write = Buffer::Readable(DATA, 1024);
        assert_eq!(
            machine.request(OUT, sector, write),
            IOERR,
            "sector {sector}"
        );
    }
}

#[test]
fn a_vcpu_has_to_do_no_more_than_a_few_requests() {
    let mut machine = Machine::new();
    let number = LaneNumber::of_host_port(3);
    let lane = machine.lanes.open(number, sent(&memory(LANE_LEN)));
    assert!(lane.is_some());
    for _ in 0..2 * BATCH {
        machine.submit(IN, first_sector(number), Buffer::Writable(DATA, 512));
    }
    machine.device.lock().unwrap().notified(0);
    assert_eq!(machine.driver.take_used().len(), usize::from(BATCH));
    while machine.events.run_with_timeout(0).unwrap() > 0 {}
    assert_eq!(machine.driver.take_used().len(), usize::from(BATCH));
    assert!(!needs_reset(&machine.interrupt));
}

#[test]
fn memory_that_could_be_cut_off_is_no_lane() {
    let lanes = Lanes::default();
    let number = LaneNumber::of_host_port(3);
    let none = |memory: OwnedFd| assert!(lanes.open(number, memory).is_none());
    none(sent(&memory(LANE_LEN - 4096)));
    none(tempfile::tempfile().unwrap().into());
    none(io::pipe().unwrap().0.into());
    let open = memfd_create("lane", MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&open, LANE_LEN).unwrap();
    none(open);
    assert!(lanes.open(number, sent(&memory(LANE_LEN))).is_some());
}

#[test]
fn a_lane_is_not_taken_over() {
    let lanes = Lanes::default();
    let number = LaneNumber::of_host_port(3);
    let first = lanes.open(number, sent(&memory(LANE_LEN)));
    assert!(lanes.open(number, sent(&memory(LANE_LEN))).is_none());
    drop(first);
    assert!(lanes.open(number, sent(&memory(LANE_LEN))).is_some());
}
