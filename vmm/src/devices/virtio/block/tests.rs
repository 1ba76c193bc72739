//! The disk's thread, with honest and hostile drivers, on real files.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::config::{MAX_RANGES, VIRTIO_BLK_F_FLUSH};
use super::*;
use crate::devices::virtio::driver::{
    Buffer, REGION_LEN, RingDriver, Used, Wire, event_fd, guest_memory, interrupt, needs_reset,
};
use crate::devices::virtio::{ActiveQueue, Interrupt, VIRTIO_F_EVENT_IDX};
use crate::memory::GuestRamHandle;
use vmm_sys_util::eventfd::EventFd;

const RING: u64 = 0x1000;
const HEADER: u64 = 0x8000;
const STATUS: u64 = 0x9000;
const DATA: u64 = 0x2_0000;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
/// No status of a block device.
const UNTOUCHED: u8 = 0xee;

const SECTORS: u64 = 64;

/// A file whose sector `n` is filled with the byte `n + 1`.
fn image() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for sector in 0..SECTORS {
        file.write_all(&[u8::try_from(sector + 1).unwrap(); 512])
            .unwrap();
    }
    file
}

struct Machine {
    device: Block,
    memory: GuestRamHandle,
    driver: RingDriver,
    wire: Wire,
    interrupt: Interrupt,
    kick: Arc<EventFd>,
}

impl Machine {
    fn new(path: &Path, read_only: bool) -> Self {
        Self::with_features(path, read_only, u64::MAX)
    }

    /// A driver that takes of what is offered what is also in `features`.
    fn with_features(path: &Path, read_only: bool, features: u64) -> Self {
        let device = Block::open(path, read_only, 0).unwrap();
        let memory = guest_memory();
        let driver = RingDriver::new(&memory, RING, QUEUE_SIZE);
        let kick = Arc::new(event_fd());
        let wire = Wire::default();
        let mut machine = Self {
            device,
            memory,
            driver,
            interrupt: wire.interrupt(),
            wire,
            kick,
        };
        machine.activate(features);
        machine
    }

    fn activate(&mut self, features: u64) {
        let features = features & self.device.offered_features();
        self.driver = RingDriver::new(&self.memory, RING, QUEUE_SIZE);
        self.driver.write(RING, &[0; 0x2000]);
        let queue = self
            .driver
            .active_queue(features & VIRTIO_F_EVENT_IDX != 0)
            .queue;
        let resources = DeviceResources {
            memory: self.memory.clone(),
            queues: vec![Some(ActiveQueue {
                queue,
                kick: self.kick.clone(),
            })],
            interrupt: self.interrupt.clone(),
            features,
        };
        self.device.activate(resources).unwrap();
    }

    fn header(&self, kind: u32, sector: u64) -> Buffer {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.driver.write(HEADER, &header);
        Buffer::Readable(HEADER, 16)
    }

    /// Sends the chain and waits for what becomes of it: its entry in the used ring, or `None` when
    /// the device needs a reset.
    fn send(&mut self, buffers: &[Buffer]) -> Option<Used> {
        self.driver.submit(buffers);
        self.kick.write(1).unwrap();
        self.wait()
    }

    fn wait(&mut self) -> Option<Used> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut used = self.driver.take_used();
            assert!(used.len() <= 1, "one request has one answer");
            if let Some(used) = used.pop() {
                return Some(used);
            }
            if needs_reset(&self.interrupt) {
                return None;
            }
            assert!(Instant::now() < deadline, "no answer");
            std::thread::yield_now();
        }
    }

    /// Sends header, data buffers and a status byte; returns the status and the used length.
    fn request(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> (u8, u32) {
        self.driver.write(STATUS, &[UNTOUCHED]);
        let mut buffers = vec![self.header(kind, sector)];
        buffers.extend_from_slice(data);
        buffers.push(Buffer::Writable(STATUS, 1));
        let used = self.send(&buffers).expect("an answer");
        (self.driver.read::<1>(STATUS)[0], used.len)
    }

    fn config<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0xee; N];
        self.device.read_config(offset, &mut data);
        data
    }

    /// Sends a discard or write-zeroes request.
    fn ranges(&mut self, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
        let bytes: Vec<u8> = ranges
            .iter()
            .flat_map(|(sector, count, flags)| {
                let mut bytes = sector.to_le_bytes().to_vec();
                bytes.extend(count.to_le_bytes());
                bytes.extend(flags.to_le_bytes());
                bytes
            })
            .collect();
        self.driver.write(DATA, &bytes);
        let data = Buffer::Readable(DATA, u32::try_from(bytes.len()).unwrap());
        self.request(kind, 0, &[data]).0
    }
}

fn sector(file: &File, number: u64) -> [u8; 512] {
    let mut data = [0; 512];
    file.read_exact_at(&mut data, number * 512).unwrap();
    data
}

#[test]
fn read_comes_from_the_file() {
    let image = image();
    let mut machine = Machine::new(image.path(), true);
    let data = [
        Buffer::Writable(DATA, 512),
        Buffer::Writable(DATA + 0x1000, 1024),
    ];
    assert_eq!(machine.request(IN, 5, &data), (OK, 1537));
    assert_eq!(machine.driver.read::<512>(DATA), [6; 512]);
    assert_eq!(machine.driver.read::<512>(DATA + 0x1000), [7; 512]);
    assert_eq!(machine.driver.read::<512>(DATA + 0x1200), [8; 512]);
    assert_eq!(
        machine.driver.read::<16>(DATA + 0x1400),
        [0; 16],
        "no byte too many"
    );
    assert_eq!(machine.wire.pulses(), 1);
}

#[test]
fn write_goes_to_the_file_and_nowhere_else() {
    let image = image();
    let before = fs::read(image.path()).unwrap();
    let mut machine = Machine::new(image.path(), false);
    machine.driver.write(DATA, &[0xab; 1024]);
    let data = [
        Buffer::Readable(DATA, 512),
        Buffer::Readable(DATA + 512, 512),
    ];
    assert_eq!(machine.request(OUT, 3, &data), (OK, 1));
    assert_eq!(machine.request(FLUSH, 0, &[]), (OK, 1));
    let mut expected = before;
    expected[3 * 512..5 * 512].fill(0xab);
    assert_eq!(fs::read(image.path()).unwrap(), expected);
}

// VIRTIO 1.2 §2.7.4.1: the device makes no assumption about where buffers begin and end.
#[test]
fn header_data_and_status_may_be_spread_over_any_buffers() {
    let image = image();
    let mut machine = Machine::new(image.path(), false);
    machine.header(OUT, 2);
    machine.driver.write(HEADER + 16, &[0xcd; 512]);
    let used = machine.send(&[
        Buffer::Readable(HEADER, 1),
        Buffer::Readable(HEADER + 1, 9),
        Buffer::Readable(HEADER + 10, 100),
        Buffer::Readable(HEADER + 110, 418),
        Buffer::Writable(STATUS, 1),
    ]);
    assert_eq!(
        (used.unwrap().len, machine.driver.read::<1>(STATUS)),
        (1, [OK])
    );
    assert_eq!(sector(image.as_file(), 2), [0xcd; 512]);

    machine.header(IN, 7);
    let used = machine.send(&[
        Buffer::Readable(HEADER, 16),
        Buffer::Writable(DATA, 100),
        // The rest of the sector, and the status at its end.
        Buffer::Writable(DATA + 0x1000, 413),
    ]);
    assert_eq!(used.unwrap().len, 513);
    assert_eq!(machine.driver.read::<100>(DATA), [8; 100]);
    assert_eq!(machine.driver.read::<412>(DATA + 0x1000), [8; 412]);
    assert_eq!(machine.driver.read::<2>(DATA + 0x1000 + 412), [OK, 0]);
}

#[test]
fn as_many_buffers_as_seg_max_come_in_one_request() {
    let image = tempfile::NamedTempFile::new().unwrap();
    let content: Vec<u8> = (0..126 * 4096_u32).map(|byte| (byte % 251) as u8).collect();
    image.as_file().write_all_at(&content, 0).unwrap();
    let mut machine = Machine::new(image.path(), true);
    let count = u32::from_le_bytes(machine.config(12));
    assert_eq!(count, 126);
    // Every other page, so that no two buffers touch.
    let buffers: Vec<Buffer> = (0..u64::from(count))
        .map(|page| Buffer::Writable(0x2_0000 + page % 100 * 0x2000, 4096))
        .collect();
    assert_eq!(machine.request(IN, 0, &buffers).0, OK);
    assert_eq!(
        machine.driver.read::<4096>(0x2_0000 + 30 * 0x2000),
        content[30 * 4096..31 * 4096]
    );
    // The last buffers were written over the first ones.
    assert_eq!(
        machine.driver.read::<4096>(0x2_0000),
        content[100 * 4096..101 * 4096]
    );
}

#[test]
fn get_id_names_the_disk() {
    let image = image();
    let mut machine = Machine::new(image.path(), true);
    assert_eq!(
        machine.request(GET_ID, 0, &[Buffer::Writable(DATA, 20)]),
        (OK, 21)
    );
    assert_eq!(
        &machine.driver.read::<20>(DATA),
        b"sovereign-0\0\0\0\0\0\0\0\0\0"
    );
    assert_eq!(
        machine.request(GET_ID, 0, &[Buffer::Writable(DATA, 19)]).0,
        IOERR
    );
}

#[test]
fn unknown_request_types_are_unsupported() {
    let image = image();
    let mut machine = Machine::new(image.path(), false);
    // 2: VIRTIO_BLK_T_SCSI_CMD of legacy devices; 14: secure erase, which is not offered.
    for kind in [2, 3, 5, 9, 10, 12, 14, 0x8000_0000, u32::MAX] {
        assert_eq!(
            machine.request(kind, 0, &[Buffer::Writable(DATA, 512)]).0,
            UNSUPP,
            "{kind}"
        );
    }
}

#[test]
fn access_past_disk_end_returns_ioerr() {
    let image = image();
    let before = fs::read(image.path()).unwrap();
    let mut machine = Machine::new(image.path(), false);
    let cases = [
        (SECTORS, 512),
        (SECTORS - 1, 1024),
        (0, 512 * 65),
        (u64::MAX, 512),
        (u64::MAX / 512, 512),
        (u64::MAX / 512 + 1, 512),
        (1 << 55, 512),
    ];
    for (sector, len) in cases {
        let read = machine.request(IN, sector, &[Buffer::Writable(DATA, len)]);
        assert_eq!(read, (IOERR, 0), "read of {len} bytes at {sector}");
        let write = machine.request(OUT, sector, &[Buffer::Readable(DATA, len)]);
        assert_eq!(write, (IOERR, 1), "write of {len} bytes at {sector}");
    }
    assert_eq!(machine.driver.read::<64>(DATA), [0; 64]);
    assert_eq!(fs::read(image.path()).unwrap(), before);
    let last = machine.request(IN, SECTORS - 1, &[Buffer::Writable(DATA, 512)]);
    assert_eq!(last, (OK, 513));
}

#[test]
fn data_that_is_not_whole_sectors_returns_ioerr() {
    let image = image();
    let mut machine = Machine::new(image.path(), false);
    for len in [1, 511, 513, 1000] {
        assert_eq!(
            machine.request(IN, 0, &[Buffer::Writable(DATA, len)]).0,
            IOERR
        );
        assert_eq!(
            machine.request(OUT, 0, &[Buffer::Readable(DATA, len)]).0,
            IOERR
        );
    }
}

#[test]
fn short_header_returns_ioerr() {
    let image = image();
    let mut machine = Machine::new(image.path(), false);
    for len in [1, 8, 15] {
        machine.header(IN, 0);
        machine.driver.write(STATUS, &[UNTOUCHED]);
        machine
            .send(&[Buffer::Readable(HEADER, len), Buffer::Writable(STATUS, 1)])
            .unwrap();
        assert_eq!(machine.driver.read::<1>(STATUS), [IOERR]);
    }
    machine.send(&[Buffer::Writable(STATUS, 1)]).unwrap();
    assert_eq!(machine.driver.read::<1>(STATUS), [IOERR]);
}

#[test]
fn request_without_a_status_byte_makes_the_device_need_a_reset() {
    let image = image();
    let mut machine = Machine::new(image.path(), false);
    let header = machine.header(FLUSH, 0);
    assert!(machine.send(&[header]).is_none());
    assert!(needs_reset(&machine.interrupt));
}

#[test]
fn broken_chains_make_the_device_need_a_reset_and_a_reset_heals_it() {
    let image = image();
    let mut machine = Machine::new(image.path(), false);
    let broken: [&[Buffer]; 3] = [
        &[
            Buffer::Readable(HEADER, 16),
            Buffer::Writable(REGION_LEN - 8, 512),
        ],
        &[Buffer::Writable(STATUS, 1), Buffer::Readable(HEADER, 16)],
        &[
            Buffer::Readable(u64::MAX - 4, 16),
            Buffer::Writable(STATUS, 1),
        ],
    ];
    for buffers in broken {
        assert!(machine.send(buffers).is_none(), "{buffers:?}");
        machine.device.reset();
        machine
            .interrupt
            .device_status
            .store(0, std::sync::atomic::Ordering::SeqCst);
        machine.activate(u64::MAX);
        assert_eq!(machine.request(IN, 0, &[Buffer::Writable(DATA, 512)]).0, OK);
    }
}

#[test]
fn buffers_that_overlap_the_ring_or_each_other_are_survived() {
    let image = image();
    for target in [
        RING,
        RING + 16 * u64::from(QUEUE_SIZE),
        HEADER,
        STATUS - 511,
    ] {
        let mut machine = Machine::new(image.path(), true);
        let data = [Buffer::Writable(target, 512); 8];
        let mut buffers = vec![machine.header(IN, 40)];
        buffers.extend(data);
        buffers.push(Buffer::Writable(STATUS, 1));
        machine.driver.submit(&buffers);
        machine.kick.write(1).unwrap();
        // What the driver gets is its own affair: it may have lost its ring.
        std::thread::sleep(Duration::from_millis(5));
        machine.device.reset();
        machine
            .interrupt
            .device_status
            .store(0, std::sync::atomic::Ordering::SeqCst);
        machine.activate(u64::MAX);
        assert_eq!(machine.request(IN, 0, &[Buffer::Writable(DATA, 512)]).0, OK);
    }
}

#[test]
fn driver_that_changes_everything_while_it_is_served_is_survived() {
    let image = image();
    let before = fs::read(image.path()).unwrap();
    let mut machine = Machine::new(image.path(), true);
    let end = Instant::now() + Duration::from_millis(300);
    let mut seed = 1_u64;
    while Instant::now() < end {
        let header = machine.header(IN, 1);
        let status = Buffer::Writable(STATUS, 1);
        machine
            .driver
            .submit(&[header, Buffer::Writable(DATA, 512), status]);
        machine.kick.write(1).unwrap();
        for _ in 0..32 {
            // xorshift: any bytes, over the descriptors and the header, as the disk reads them.
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let place = if seed.is_multiple_of(3) { HEADER } else { RING };
            machine.driver.write(place + seed % 48, &seed.to_le_bytes());
        }
        if needs_reset(&machine.interrupt) {
            machine.device.reset();
            machine
                .interrupt
                .device_status
                .store(0, std::sync::atomic::Ordering::SeqCst);
            machine.activate(u64::MAX);
        }
    }
    machine.device.reset();
    assert_eq!(fs::read(image.path()).unwrap(), before);
}

#[test]
fn read_only_disk_refuses_every_kind_of_write() {
    let image = image();
    let before = fs::read(image.path()).unwrap();
    let mut machine = Machine::new(image.path(), true);
    assert_ne!(
        machine.device.offered_features() & (1 << 5),
        0,
        "VIRTIO_BLK_F_RO"
    );
    assert_eq!(
        machine.request(OUT, 0, &[Buffer::Readable(DATA, 512)]).0,
        IOERR
    );
    assert_eq!(machine.ranges(DISCARD, &[(0, 8, 0)]), IOERR);
    assert_eq!(machine.ranges(WRITE_ZEROES, &[(0, 8, 0)]), IOERR);
    assert_eq!(machine.request(FLUSH, 0, &[]).0, OK);
    assert_eq!(fs::read(image.path()).unwrap(), before);
}

#[test]
fn discarded_and_zeroed_sectors_read_as_zeroes() {
    let image = image();
    let mut machine = Machine::new(image.path(), false);
    assert_eq!(machine.ranges(DISCARD, &[(0, 8, 0), (16, 8, 0)]), OK);
    assert_eq!(machine.ranges(WRITE_ZEROES, &[(32, 1, 0), (40, 8, 1)]), OK);
    for number in 0..SECTORS {
        let zeroed = matches!(number, 0..8 | 16..24 | 32 | 40..48);
        let expected = if zeroed {
            0
        } else {
            u8::try_from(number + 1).unwrap()
        };
        assert_eq!(
            sector(image.as_file(), number),
            [expected; 512],
            "sector {number}"
        );
    }
    assert_eq!(image.as_file().metadata().unwrap().len(), SECTORS * 512);
}

#[test]
fn ranges_that_break_a_rule_do_nothing_at_all() {
    let image = image();
    let before = fs::read(image.path()).unwrap();
    let mut machine = Machine::new(image.path(), false);
    let good = (0, 8, 0);
    for kind in [DISCARD, WRITE_ZEROES] {
        assert_eq!(machine.ranges(kind, &[good, (SECTORS, 1, 0)]), IOERR);
        assert_eq!(machine.ranges(kind, &[good, (SECTORS - 1, 2, 0)]), IOERR);
        assert_eq!(machine.ranges(kind, &[good, (u64::MAX, 1, 0)]), IOERR);
        assert_eq!(machine.ranges(kind, &[good, (1, u32::MAX, 0)]), IOERR);
        assert_eq!(machine.ranges(kind, &[good, (0, 1, 2)]), UNSUPP);
        assert_eq!(machine.ranges(kind, &[]), IOERR);
        assert_eq!(
            machine.ranges(kind, &[good; MAX_RANGES as usize + 1]),
            IOERR
        );
        let odd = machine.request(kind, 0, &[Buffer::Readable(DATA, 17)]);
        assert_eq!(odd.0, IOERR);
    }
    // VIRTIO 1.2 §5.2.6.2: unmap means nothing for a discard.
    assert_eq!(machine.ranges(DISCARD, &[(0, 8, 1)]), UNSUPP);
    assert_eq!(fs::read(image.path()).unwrap(), before);
}

#[test]
fn read_of_a_file_that_was_truncated_returns_ioerr() {
    let image = image();
    let mut machine = Machine::new(image.path(), true);
    image.as_file().set_len(512 * 10 + 100).unwrap();
    assert_eq!(
        machine.request(IN, 8, &[Buffer::Writable(DATA, 2048)]).0,
        IOERR
    );
    assert_eq!(
        machine.request(IN, 20, &[Buffer::Writable(DATA, 512)]).0,
        IOERR
    );
    assert_eq!(
        machine.request(IN, 8, &[Buffer::Writable(DATA, 1024)]).0,
        OK
    );
}

#[test]
fn configuration_space_describes_the_disk() {
    let image = image();
    image.as_file().set_len(SECTORS * 512 + 511).unwrap();
    let machine = Machine::new(image.path(), false);
    assert_eq!(
        u64::from_le_bytes(machine.config(0)),
        SECTORS,
        "rounded down to whole sectors"
    );
    assert_eq!(u32::from_le_bytes(machine.config(20)), 512);
    assert_eq!(machine.config::<8>(58), [0; 8], "zero beyond the end");
    assert_eq!(machine.config::<4>(u64::MAX), [0; 4]);
}

#[test]
fn read_only_disk_offers_no_cache_and_no_discard() {
    let image = image();
    let device = Block::open(image.path(), true, 0).unwrap();
    assert_eq!(device.offered_features() & (1 << 9 | 1 << 13 | 1 << 14), 0);
    let device = Block::open(image.path(), true, 1).unwrap();
    drop(device);
}

#[test]
fn driver_without_flush_gets_a_disk_without_a_cache() {
    let image = image();
    let mut machine = Machine::with_features(image.path(), false, !VIRTIO_BLK_F_FLUSH);
    assert_eq!(
        machine.request(OUT, 0, &[Buffer::Readable(DATA, 512)]),
        (OK, 1)
    );
}

#[test]
fn many_requests_are_all_answered() {
    let image = image();
    let mut machine = Machine::new(image.path(), true);
    let header = machine.header(IN, 1);
    for _ in 0..40 {
        machine.driver.submit(&[
            header,
            Buffer::Writable(DATA, 512),
            Buffer::Writable(STATUS, 1),
        ]);
    }
    machine.kick.write(1).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut answers = 0;
    while answers < 40 {
        answers += machine.driver.take_used().len();
        assert!(Instant::now() < deadline);
    }
    assert!(!needs_reset(&machine.interrupt));
}

#[test]
fn reset_stops_the_disk_at_once_and_drop_ends_its_thread() {
    let image = image();
    let mut machine = Machine::new(image.path(), true);
    for _ in 0..50 {
        assert_eq!(machine.request(IN, 0, &[Buffer::Writable(DATA, 512)]).0, OK);
        machine.device.reset();
        let header = machine.header(IN, 0);
        machine
            .driver
            .submit(&[header, Buffer::Writable(STATUS, 1)]);
        // What the transport does; the thread must not be waiting for it.
        let _ = machine.kick.read();
        machine.kick.write(1).unwrap();
        assert!(machine.driver.take_used().is_empty());
        machine.activate(u64::MAX);
    }
    let threads = || {
        fs::read_dir("/proc/self/task")
            .unwrap()
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .filter(|name| name.trim() == "blk-77")
            .count()
    };
    let mut device = Block::open(image.path(), true, 77).unwrap();
    device.start_worker(|| ()).unwrap();
    // The new thread gives itself its name.
    let deadline = Instant::now() + Duration::from_secs(10);
    while threads() == 0 {
        assert!(Instant::now() < deadline);
    }
    let started = Instant::now();
    drop(device);
    assert_eq!(threads(), 0);
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn worker_is_prepared_before_it_serves() {
    let image = image();
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut device = Block::open(image.path(), true, 3).unwrap();
    device
        .start_worker(move || {
            sender
                .send(std::thread::current().name().map(str::to_owned))
                .unwrap();
        })
        .unwrap();
    let name = receiver.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(name.as_deref(), Some("blk-3"));
}

#[test]
fn two_sandboxes_cannot_share_a_writable_disk() {
    let image = image();
    let writer = Block::open(image.path(), false, 0).unwrap();
    for read_only in [false, true] {
        let error = Block::open(image.path(), read_only, 1).err().unwrap();
        assert!(matches!(error, BlockError::InUse { .. }), "{error}");
    }
    drop(writer);
    let reader = Block::open(image.path(), true, 0).unwrap();
    Block::open(image.path(), true, 1).unwrap();
    assert!(matches!(
        Block::open(image.path(), false, 1),
        Err(BlockError::InUse { .. })
    ));
    drop(reader);
    Block::open(image.path(), false, 0).unwrap();
}

#[test]
fn read_only_disk_is_opened_without_write_permission() {
    let image = image();
    let device = Block::open(image.path(), true, 0).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(device.image.file());
    let flags = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    let flags = flags
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .unwrap()
        .trim();
    let access = u32::from_str_radix(flags, 8).unwrap() & 3;
    assert_eq!(access, 0, "O_RDONLY");
}

#[test]
fn paths_that_are_no_disk_are_refused_with_their_name_and_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.img");
    let empty = folder.path().join("empty.img");
    fs::write(&empty, [0; 511]).unwrap();
    let pipe = folder.path().join("pipe");
    let status = std::process::Command::new("mkfifo")
        .arg(&pipe)
        .status()
        .unwrap();
    assert!(status.success());

    let refuse = |path: &Path, read_only| Block::open(path, read_only, 0).err().unwrap();
    for read_only in [false, true] {
        let error = refuse(&missing, read_only);
        assert!(matches!(error, BlockError::Missing { .. }), "{error}");
        assert!(error.to_string().contains("missing.img"), "{error}");
        let error = refuse(folder.path(), read_only);
        assert!(
            matches!(
                error,
                BlockError::NotADisk {
                    kind: "a directory",
                    ..
                }
            ),
            "{error}"
        );
        let error = refuse(&empty, read_only);
        assert!(
            matches!(error, BlockError::Empty { len: 511, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("truncate"), "{error}");
        let error = refuse(&pipe, read_only);
        assert!(
            matches!(error, BlockError::NotADisk { .. } | BlockError::Open { .. }),
            "{error}"
        );
    }
}

#[test]
fn activation_without_a_queue_is_refused() {
    let image = image();
    let mut device = Block::open(image.path(), true, 0).unwrap();
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
    fn any_request_is_survived(script in proptest::collection::vec(proptest::num::u8::ANY, 0..1024)) {
        hostile::drive(&script);
    }

    #[test]
    fn any_driver_is_survived(script in proptest::collection::vec(proptest::num::u8::ANY, 0..1024)) {
        hostile::drive_through_transport(&script);
    }
}
