//! A lane beside vsock.
//!
//! In a virtual machine a lane is a row of sectors of the lane disk, read and written past the page
//! cache. The disk is not there when the guest boots: its virtio-mmio window is empty until the host has
//! opened a lane, and the driver, which has passed it over by then, is told to look again.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use agent_archive::lane::{
    Fetch, Fill, LANE_LEN, SLOT_LEN, number_of_guest_port, number_of_host_port,
};
use agent_protocol::frame::AGENT_PORT;
use rustix::fs::OFlags;
use vsock::{VsockAddr, VsockStream};

use crate::linux::sys;

/// The smallest request past the page cache.
const SECTOR_LEN: usize = 512;
/// What a larger one begins and ends at.
const ALIGNMENT: usize = 4096;
/// Where Linux (6.8 and later) is told that memory of a slot's length may be a single page where a program
/// asks for it. Then a slot is one piece of the guest's memory; else it is two hundred and fifty-six, and
/// each is looked at by every layer on the way. Huge pages of 2 MiB would do as well, but Linux gives none
/// to a machine of less than 512 MiB, and more than a slot would be zeroed in vain.
const SLOT_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/hugepages-1024kB/enabled";
/// Where virtio-mmio windows are.
const WINDOWS: &str = "/sys/bus/platform/devices";
/// Where a driver is told to look at one.
const BIND: &str = "/sys/bus/platform/drivers/virtio-mmio/bind";

/// Memory that the host has, too.
#[derive(Debug)]
pub(crate) struct Lane {
    memory: File,
    /// Where in it the lane begins.
    start: u64,
    /// A slot's data, which begins at `buffer_start`.
    buffer: Vec<u8>,
    buffer_start: usize,
    /// How much the slot has that is read.
    len: usize,
}

impl Lane {
    /// The lane of the connection that `stream` is the agent's end of; `window` is that of the lane disk.
    pub(crate) fn of_vsock(window: &str, stream: impl AsFd) -> io::Result<Self> {
        let number = number(stream)?;
        let disk = open_disk(window)?;
        let start = number * LANE_LEN;
        // The host may have had no room for it.
        disk.read_exact_at(sector(&mut [0; 2 * SECTOR_LEN])?, start)?;
        Ok(Self::new(disk, start))
    }

    fn new(memory: File, start: u64) -> Self {
        // It takes up room where it is used only.
        let mut buffer = vec![0; 2 * SLOT_LEN];
        let buffer_start = buffer.as_ptr().align_offset(SLOT_LEN);
        let page = buffer
            .get_mut(buffer_start..)
            .and_then(|rest| rest.get_mut(..SLOT_LEN));
        if let Some(page) = page {
            sys::prefer_huge_pages(page);
        }
        Self {
            memory,
            start,
            buffer,
            buffer_start,
            len: 0,
        }
    }

    fn slot_start(&self, slot: usize) -> u64 {
        self.start + (slot * SLOT_LEN) as u64
    }

    /// The first `len` bytes of the buffer, and what must go with them.
    fn aligned(&mut self, len: usize) -> io::Result<&mut [u8]> {
        let len = len.next_multiple_of(ALIGNMENT);
        let slot = self.buffer.get_mut(self.buffer_start..);
        let aligned = slot
            .filter(|_| len <= SLOT_LEN)
            .and_then(|slot| slot.get_mut(..len));
        aligned.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

impl Fill for Lane {
    fn room(&mut self, _slot: usize, at: usize) -> io::Result<&mut [u8]> {
        let room = self
            .buffer
            .get_mut(self.buffer_start + at..self.buffer_start + SLOT_LEN);
        room.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    fn put(&mut self, _slot: usize, _at: usize, _len: usize) -> io::Result<()> {
        Ok(())
    }

    fn complete(&mut self, slot: usize, len: usize) -> io::Result<()> {
        let at = self.slot_start(slot);
        let memory = self.memory.try_clone()?;
        memory.write_all_at(self.aligned(len)?, at)
    }
}

impl Fetch for Lane {
    fn open(&mut self, slot: usize, len: usize) -> io::Result<()> {
        let at = self.slot_start(slot);
        let memory = self.memory.try_clone()?;
        self.len = len;
        memory.read_exact_at(self.aligned(len)?, at)
    }

    fn show(&mut self, at: usize) -> io::Result<&[u8]> {
        let data = self
            .buffer
            .get(self.buffer_start + at..self.buffer_start + self.len);
        data.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

/// The part of this that a request past the page cache takes.
fn sector(space: &mut [u8; 2 * SECTOR_LEN]) -> io::Result<&mut [u8]> {
    let start = space.as_ptr().align_offset(SECTOR_LEN);
    let aligned = space
        .get_mut(start..)
        .and_then(|rest| rest.get_mut(..SECTOR_LEN));
    aligned.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Which lane is a connection's: that of the port of the side that has started it.
fn number(stream: impl AsFd) -> io::Result<u64> {
    let stream = VsockStream::from(stream.as_fd().try_clone_to_owned()?);
    let (ours, theirs) = (stream.local_addr()?, stream.peer_addr()?);
    Ok(number_of(ours, theirs))
}

fn number_of(ours: VsockAddr, theirs: VsockAddr) -> u64 {
    if ours.port() == AGENT_PORT {
        number_of_host_port(theirs.port())
    } else {
        number_of_guest_port(ours.port())
    }
}

/// The name of the lane disk, if there is one by now.
pub(crate) fn disk_name(window: &str) -> Option<PathBuf> {
    find_disk(&Path::new(WINDOWS).join(window))
        .ok()
        .map(|disk| disk.name)
}

/// Opens the lane disk, past the page cache.
fn open_disk(window: &str) -> io::Result<File> {
    let window = Path::new(WINDOWS).join(window);
    let disk = match find_disk(&window) {
        Ok(disk) => disk,
        Err(_) => {
            // Where it cannot be, lanes are slower.
            let _ = fs::write(SLOT_PAGES, "madvise");
            let name = window.file_name().unwrap_or_default();
            // Another session may be quicker; what counts is whether there is a disk now.
            let bound = fs::write(BIND, name.as_encoded_bytes());
            find_disk(&window).map_err(|error| bound.err().unwrap_or(error))?
        }
    };
    let flags = OFlags::DIRECT | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
        .open(Path::new("/dev").join(&disk.name))?;
    let metadata = file.metadata()?;
    let (major, minor) = (
        rustix::fs::major(metadata.rdev()),
        rustix::fs::minor(metadata.rdev()),
    );
    // A command that is root can put anything there.
    if metadata.file_type().is_block_device() && disk.number == format!("{major}:{minor}") {
        Ok(file)
    } else {
        Err(io::Error::other("another file is in the lane disk's place"))
    }
}

/// A disk as sysfs knows it.
struct Disk {
    /// Its name in `/dev`.
    name: PathBuf,
    /// Its number, as `MAJOR:MINOR`.
    number: String,
}

/// The disk behind a window.
fn find_disk(window: &Path) -> io::Result<Disk> {
    for device in fs::read_dir(window)? {
        let device = device?;
        if !device.file_name().as_encoded_bytes().starts_with(b"virtio") {
            continue;
        }
        let Some(disk) = fs::read_dir(device.path().join("block"))?.next() else {
            continue;
        };
        let disk = disk?;
        let mut number = String::new();
        File::open(disk.path().join("dev"))?
            .take(64)
            .read_to_string(&mut number)?;
        return Ok(Disk {
            name: disk.file_name().into(),
            number: number.trim().to_owned(),
        });
    }
    Err(io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use agent_archive::lane::SLOTS;

    use super::*;

    #[test]
    fn a_lane_is_named_by_the_port_that_nobody_shares() {
        let (host, guest) = (2, 3);
        let accepted = number_of(
            VsockAddr::new(guest, AGENT_PORT),
            VsockAddr::new(host, 1 << 30),
        );
        assert_eq!(accepted, 1 << 30);
        let connected = number_of(VsockAddr::new(guest, 7), VsockAddr::new(host, AGENT_PORT));
        assert_eq!(connected, 1 << 32 | 7);
    }

    #[test]
    fn slots_lie_one_behind_the_other() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 * LANE_LEN).unwrap();
        let mut lane = Lane::new(file.try_clone().unwrap(), LANE_LEN);
        let last = SLOTS - 1;
        lane.room(last, 0).unwrap()[..3].copy_from_slice(b"one");
        lane.room(last, 3).unwrap()[..14].copy_from_slice(b" and the other");
        lane.complete(last, 17).unwrap();
        let mut found = [0; 17];
        file.read_exact_at(&mut found, 2 * LANE_LEN - SLOT_LEN as u64)
            .unwrap();
        assert_eq!(&found, b"one and the other");
        lane.open(last, 17).unwrap();
        assert_eq!(lane.show(4).unwrap(), b"and the other");
        assert!(lane.open(0, 2 * SLOT_LEN).is_err());
    }

    #[test]
    fn a_stream_that_is_no_vsock_has_no_lane() {
        let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(Lane::of_vsock("virtio-mmio.1", &stream).is_err());
    }
}
