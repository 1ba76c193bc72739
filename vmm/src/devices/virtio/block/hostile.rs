//! A driver that sends any request, for property tests and fuzzing.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion,
    MemoryRegionAddress,
};

use super::image::Image;
use super::request::Disk;
use super::{Block, QUEUE_SIZE};
use crate::devices::virtio::driver::{
    Buffer, RingDriver, Script, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE, interrupt,
};
use crate::devices::virtio::mmio;
use crate::devices::virtio::queue::{Chain, GuestBuffers, QueueError, VirtQueue};
use crate::memory::{GuestRam, GuestRamHandle};

const RING: u64 = 0x1000;
const HEADER: u64 = 0x4000;
const REGION: usize = 0x1_0000;
const SECTORS: usize = 32;

/// An image that only this process has.
fn image() -> (File, PathBuf) {
    let file = File::from(memfd_create("disk", MemfdFlags::CLOEXEC).expect("a file in memory"));
    // No period of a sector's length: a sector in the wrong place is noticed.
    let content: Vec<u8> = (0..=250).cycle().take(SECTORS * 512).collect();
    (&file).write_all(&content).expect("room in memory");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
    (file, path)
}

/// Plays `data` as a driver's doings against a disk, one request after the other.
///
/// # Panics
/// When the disk does what it must not do for any driver.
pub fn drive(data: &[u8]) {
    let mut script = Script::new(data);
    let read_only = script.byte().is_multiple_of(4);
    let (file, path) = image();
    let image = Arc::new(Image::open(&path, read_only).expect("a disk"));
    let mut disk = Disk::new(
        image,
        "hostile",
        if script.byte().is_multiple_of(2) {
            u64::MAX
        } else {
            0
        },
    );
    let regions = [(GuestAddress(0), REGION), (GuestAddress(0x10_0000), REGION)];
    let handle = GuestRamHandle::new(GuestRam::from_ranges(&regions).expect("memory"));
    let memory = handle.memory();
    let mut driver = RingDriver::new(&handle, RING, QUEUE_SIZE);
    let mut queue = VirtQueue::new(driver.active_queue(true));
    while !script.is_empty() {
        request(&mut driver, &mut script);
        let served = queue.serve(&memory, &interrupt(), QUEUE_SIZE, |chain| {
            let witness = Witness::new(&file, &memory, chain, read_only);
            let written = disk.execute(chain).map_err(|_| Unsound)?;
            witness.check(&file, &memory, written);
            Ok::<_, Unsound>(written)
        });
        if served.is_err() {
            return;
        }
    }
}

/// The same through the registers, with the disk's own thread.
///
/// # Panics
/// When transport or disk do what they must not do for any driver.
pub fn drive_through_transport(data: &[u8]) {
    let (file, path) = image();
    let before = content(&file);
    let block = Block::open(&path, true, 0).expect("a disk");
    let memory = crate::devices::virtio::driver::guest_memory();
    mmio::hostile::drive_device(data, &memory, Arc::new(Mutex::new(block)), |_| ());
    assert!(content(&file) == before, "a read-only disk was written");
}

/// A driver that is not served any longer.
struct Unsound;

impl From<QueueError> for Unsound {
    fn from(_error: QueueError) -> Self {
        Self
    }
}

/// Makes a request available that has something of a sound one.
fn request(driver: &mut RingDriver, script: &mut Script<'_>) {
    let kinds = [0, 1, 4, 8, 11, 13, 1, 13];
    let choice = script.byte();
    let kind = kinds
        .get(usize::from(choice % 16))
        .copied()
        .unwrap_or(u32::from(choice));
    let sector = match script.byte() {
        0..=229 => u64::from(script.byte()) % (SECTORS as u64 + 4),
        _ => script.u64(),
    };
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    driver.write(HEADER, &header);

    let mut buffers = vec![Buffer::Readable(
        HEADER,
        if script.byte() < 250 { 16 } else { 7 },
    )];
    for _ in 0..script.byte() % 4 {
        let descriptor = script.descriptor(QUEUE_SIZE);
        let (address, len) = (descriptor.address % 0x10_ffff, descriptor.len);
        if kind == 11 || kind == 13 {
            // One range, mostly on the disk.
            let mut range = [0; 16];
            range[0] = script.byte() % 40;
            range[8] = script.byte() % 8;
            range[12] = script.byte() % 16 / 14;
            driver.write(HEADER + 0x100, &range);
            buffers.push(Buffer::Readable(HEADER + 0x100, 16));
        } else if descriptor.flags & VIRTQ_DESC_F_WRITE != 0 || kind != 1 {
            buffers.push(Buffer::Writable(address, len));
        } else {
            buffers.push(Buffer::Readable(address, len));
        }
    }
    // Sound chains have their readable buffers first.
    if script.byte() < 250 {
        buffers.sort_by_key(|buffer| matches!(buffer, Buffer::Writable(..)));
    }
    if script.byte() < 250 {
        buffers.push(Buffer::Writable(HEADER + 0x200, 1));
    }
    driver.submit(&buffers);
    if script.byte() > 250 {
        let flags = VIRTQ_DESC_F_NEXT;
        let mut loose = script.descriptor(QUEUE_SIZE);
        loose.flags |= flags;
        driver.set_descriptor(script.u16() % QUEUE_SIZE, loose);
    }
}

/// What was there before a request, and what the request may change.
struct Witness {
    file: Vec<u8>,
    memory: Vec<u8>,
    writable_sectors: Vec<bool>,
    writable_memory: Vec<bool>,
    room: usize,
}

impl Witness {
    fn new(file: &File, memory: &GuestRam, chain: &Chain<'_>, read_only: bool) -> Self {
        let mut writable_memory = vec![false; 2 * REGION];
        for slice in chain.writable.slices() {
            let start = slice.ptr_guard().as_ptr() as usize;
            for (index, region) in memory.iter().enumerate() {
                let base = region
                    .get_host_address(MemoryRegionAddress(0))
                    .expect("memory");
                let Some(offset) = start.checked_sub(base as usize).filter(|at| *at < REGION)
                else {
                    continue;
                };
                writable_memory[index * REGION + offset..][..slice.len()].fill(true);
            }
        }
        let mut writable_sectors = vec![false; SECTORS];
        if !read_only {
            mark(&mut writable_sectors, chain.readable.clone());
        }
        let room = chain.writable.len();
        let (file, memory) = (content(file), bytes(memory));
        Self {
            file,
            memory,
            writable_sectors,
            writable_memory,
            room,
        }
    }

    fn check(&self, file: &File, memory: &GuestRam, written: u32) {
        assert!(
            written as usize <= self.room,
            "more bytes used than there was room"
        );
        let now = content(file);
        assert_eq!(now.len(), self.file.len(), "the file has another length");
        for (sector, (now, before)) in now.chunks(512).zip(self.file.chunks(512)).enumerate() {
            assert!(
                self.writable_sectors[sector] || now == before,
                "sector {sector} was changed"
            );
        }
        let now = bytes(memory);
        let mut all = now.iter().zip(&self.memory).zip(&self.writable_memory);
        let intact = all.all(|((now, before), writable)| *writable || now == before);
        assert!(intact, "memory outside the request's buffers was changed");
    }
}

/// Marks the sectors that a request may change, from the specification and not from the device.
fn mark(sectors: &mut [bool], mut readable: GuestBuffers<'_>) {
    let mut header = [0; 16];
    if readable.read_exact(&mut header).is_err() {
        return;
    }
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let mut mark = |first: u64, count: u64| {
        let end = first.saturating_add(count);
        for (sector, writable) in (0_u64..).zip(&mut *sectors) {
            // A request beyond the end changes nothing at all.
            *writable |= end <= SECTORS as u64 && (first..end).contains(&sector);
        }
    };
    match number(&header[..4]) {
        1 => mark(number(&header[8..]), readable.len() as u64 / 512),
        11 | 13 => {
            let mut range = [0; 16];
            while readable.read_exact(&mut range).is_ok() {
                mark(number(&range[..8]), number(&range[8..12]));
            }
        }
        _ => {}
    }
}

fn content(file: &File) -> Vec<u8> {
    let len = file.metadata().expect("metadata").len();
    let mut content = vec![0; usize::try_from(len).expect("a small file")];
    file.read_exact_at(&mut content, 0)
        .expect("the file's content");
    content
}

fn bytes(memory: &GuestRam) -> Vec<u8> {
    let mut bytes = vec![0; 2 * REGION];
    for (region, part) in memory.iter().zip(bytes.chunks_mut(REGION)) {
        region
            .read_slice(part, MemoryRegionAddress(0))
            .expect("memory");
    }
    bytes
}
