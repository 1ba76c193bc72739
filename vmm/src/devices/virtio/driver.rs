//! The other side of the rings, for tests and fuzzers: a driver that is honest unless told otherwise.
//!
//! It lives beside the devices, behind the feature `test-support`, so that the fuzz targets and the
//! unit tests drive devices in the same way. It panics when it is used wrongly.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::queue::QueueRegisters;
use super::{ActiveQueue, Interrupt, STATUS_DEVICE_NEEDS_RESET};
use crate::devices::InterruptLine;
use crate::memory::{GuestRam, GuestRamHandle};

/// The size of each of the two regions of [`guest_memory`].
pub const REGION_LEN: u64 = 1 << 20;
/// Where the second region of [`guest_memory`] starts; between the two lies a hole.
pub const SECOND_REGION: u64 = 2 << 20;

/// Descriptor flag: the chain goes on (virtio 1.2, section 2.7.5).
pub const VIRTQ_DESC_F_NEXT: u16 = 1;
/// Descriptor flag: the device writes the buffer.
pub const VIRTQ_DESC_F_WRITE: u16 = 2;
/// Descriptor flag: the buffer is a table of descriptors.
pub const VIRTQ_DESC_F_INDIRECT: u16 = 4;

/// Guest memory with a hole: one region at 0, another one at [`SECOND_REGION`].
///
/// # Panics
/// When the host has no memory.
#[must_use]
pub fn guest_memory() -> GuestRamHandle {
    let len = usize::try_from(REGION_LEN).expect("a 64-bit host");
    let regions = [(GuestAddress(0), len), (GuestAddress(SECOND_REGION), len)];
    GuestRamHandle::new(GuestRam::from_ranges(&regions).expect("memory for the guest"))
}

/// An interrupt line that leads to the test.
#[derive(Debug, Clone, Default)]
pub struct Wire(Arc<AtomicU64>);

impl Wire {
    /// How often it was pulled since the last call.
    #[must_use]
    pub fn pulses(&self) -> u64 {
        self.0.swap(0, Ordering::SeqCst)
    }

    /// A device's way to interrupt by it.
    #[must_use]
    pub fn interrupt(&self) -> Interrupt {
        Interrupt {
            status: Arc::default(),
            device_status: Arc::default(),
            line: Arc::new(self.clone()),
        }
    }
}

impl InterruptLine for Wire {
    fn pulse(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// An interrupt that nobody hears.
#[must_use]
pub fn interrupt() -> Interrupt {
    Wire::default().interrupt()
}

/// An event descriptor as the transport makes them.
///
/// # Panics
/// When the host has no more descriptors.
#[must_use]
pub fn event_fd() -> EventFd {
    EventFd::new(EFD_NONBLOCK).expect("an event descriptor")
}

/// Whether a device has said that it needs a reset.
#[must_use]
pub fn needs_reset(interrupt: &Interrupt) -> bool {
    interrupt.device_status.load(Ordering::SeqCst) & STATUS_DEVICE_NEEDS_RESET != 0
}

/// A buffer of a chain: its address and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buffer {
    /// The device reads it.
    Readable(u64, u32),
    /// The device writes it.
    Writable(u64, u32),
}

/// A descriptor as it lies in memory (virtio 1.2, section 2.7.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawDescriptor {
    /// Where the buffer is.
    pub address: u64,
    /// How long it is.
    pub len: u32,
    /// `VIRTQ_DESC_F_*`.
    pub flags: u16,
    /// The descriptor that follows.
    pub next: u16,
}

impl RawDescriptor {
    /// The descriptor's 16 bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// An entry of the used ring (virtio 1.2, section 2.7.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// The head of the chain that came back.
    pub id: u32,
    /// How many bytes the device says it has written.
    pub len: u32,
}

/// The driver of one queue.
#[derive(Debug)]
pub struct RingDriver {
    memory: GuestRamHandle,
    registers: QueueRegisters,
    size: u16,
    next_descriptor: u16,
    avail_index: u16,
    used_index: u16,
}

impl RingDriver {
    /// Lays out a queue of `size` entries at `base`, which must be aligned to 16 bytes.
    #[must_use]
    pub fn new(memory: &GuestRamHandle, base: u64, size: u16) -> Self {
        let entries = u64::from(size);
        let driver_area = base + 16 * entries;
        let device_area = (driver_area + 6 + 2 * entries).next_multiple_of(4);
        let registers = QueueRegisters {
            size: u32::from(size),
            ready: true,
            descriptor_table: base,
            driver_area,
            device_area,
        };
        Self {
            memory: memory.clone(),
            registers,
            size,
            next_descriptor: 0,
            avail_index: 0,
            used_index: 0,
        }
    }

    /// What the driver writes to the transport's registers.
    #[must_use]
    pub fn registers(&self) -> QueueRegisters {
        self.registers
    }

    /// The queue as the transport hands it to a device.
    ///
    /// # Panics
    /// When the queue is not in guest memory.
    #[must_use]
    pub fn active_queue(&self, event_idx: bool) -> ActiveQueue {
        let memory = self.memory.memory();
        let queue = self
            .registers
            .build(self.size, event_idx, &memory)
            .expect("a valid queue");
        ActiveQueue {
            queue,
            kick: Arc::new(event_fd()),
        }
    }

    /// Writes a descriptor into the table.
    pub fn set_descriptor(&self, index: u16, descriptor: RawDescriptor) {
        let address = self.registers.descriptor_table + 16 * u64::from(index);
        self.write(address, &descriptor.to_bytes());
    }

    /// Writes a chain of `buffers` into the table and makes it available. Returns its head.
    ///
    /// # Panics
    /// When `buffers` is empty.
    pub fn submit(&mut self, buffers: &[Buffer]) -> u16 {
        let head = self.next_descriptor % self.size;
        let last = buffers.len().checked_sub(1).expect("a buffer");
        for (position, buffer) in buffers.iter().enumerate() {
            let index = self.next_descriptor % self.size;
            self.next_descriptor = (index + 1) % self.size;
            let (address, len, flags) = match *buffer {
                Buffer::Readable(address, len) => (address, len, 0),
                Buffer::Writable(address, len) => (address, len, VIRTQ_DESC_F_WRITE),
            };
            let flags = if position == last {
                flags
            } else {
                flags | VIRTQ_DESC_F_NEXT
            };
            let next = self.next_descriptor;
            self.set_descriptor(
                index,
                RawDescriptor {
                    address,
                    len,
                    flags,
                    next,
                },
            );
        }
        self.offer(head);
        head
    }

    /// Makes the chain at `head` available, whatever is there.
    pub fn offer(&mut self, head: u16) {
        let slot = u64::from(self.avail_index % self.size);
        self.write(
            self.registers.driver_area + 4 + 2 * slot,
            &head.to_le_bytes(),
        );
        self.set_avail_index(self.avail_index.wrapping_add(1));
    }

    /// Sets the index of the available ring, to tell lies.
    pub fn set_avail_index(&mut self, index: u16) {
        self.avail_index = index;
        self.write(self.registers.driver_area + 2, &index.to_le_bytes());
    }

    /// Sets the flags of the available ring.
    pub fn set_avail_flags(&self, flags: u16) {
        self.write(self.registers.driver_area, &flags.to_le_bytes());
    }

    /// Sets `used_event`: the driver wants an interrupt when the used index passes it.
    pub fn set_used_event(&self, index: u16) {
        let address = self.registers.driver_area + 4 + 2 * u64::from(self.size);
        self.write(address, &index.to_le_bytes());
    }

    /// Asks for an interrupt with the entry after those that were [taken](Self::take_used).
    pub fn listen(&self) {
        self.set_used_event(self.used_index);
    }

    /// Reads `avail_event`: the device wants a kick when the available index passes it.
    #[must_use]
    pub fn avail_event(&self) -> u16 {
        let address = self.registers.device_area + 4 + 8 * u64::from(self.size);
        u16::from_le_bytes(self.read(address))
    }

    /// Reads the flags of the used ring.
    #[must_use]
    pub fn used_flags(&self) -> u16 {
        u16::from_le_bytes(self.read(self.registers.device_area))
    }

    /// The entries that the device has added to the used ring since the last call.
    pub fn take_used(&mut self) -> Vec<Used> {
        let index = u16::from_le_bytes(self.read(self.registers.device_area + 2));
        let mut entries = Vec::new();
        while self.used_index != index {
            let slot = u64::from(self.used_index % self.size);
            let address = self.registers.device_area + 4 + 8 * slot;
            let id = u32::from_le_bytes(self.read(address));
            let len = u32::from_le_bytes(self.read(address + 4));
            entries.push(Used { id, len });
            self.used_index = self.used_index.wrapping_add(1);
        }
        entries
    }

    /// Does one thing that a hostile driver can do to its ring and its buffers.
    pub fn misbehave(&mut self, script: &mut Script<'_>) {
        match script.byte() % 8 {
            0..=2 => {
                let index = script.u16() % self.size;
                self.set_descriptor(index, script.descriptor(self.size));
            }
            3 | 4 => {
                let head = script.u16();
                self.offer(if script.byte() < 250 {
                    head % self.size
                } else {
                    head
                });
            }
            5 => {
                let index = script.u16();
                if script.byte() < 20 {
                    self.set_avail_index(index);
                }
            }
            6 => {
                // An indirect table, if a descriptor points there.
                let address = (script.address() % (REGION_LEN - 64)).next_multiple_of(16);
                self.write(address, &script.descriptor(self.size).to_bytes());
            }
            _ => {
                let address = script.address() % (REGION_LEN - 64);
                self.write(address, &script.take::<16>());
            }
        }
    }

    /// Writes to guest memory.
    ///
    /// # Panics
    /// When the address is not in guest memory.
    pub fn write(&self, address: u64, data: &[u8]) {
        let memory = self.memory.memory();
        memory
            .write_slice(data, GuestAddress(address))
            .expect("an address in guest memory");
    }

    /// Reads from guest memory.
    ///
    /// # Panics
    /// When the address is not in guest memory.
    #[must_use]
    pub fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut data = [0; N];
        let memory = self.memory.memory();
        memory
            .read_slice(&mut data, GuestAddress(address))
            .expect("an address in guest memory");
        data
    }
}

/// Bytes that say what a hostile driver does. They never end: what is missing is zero.
#[derive(Debug)]
pub struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    /// A script that starts with `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether only zeroes come from here on.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `N` bytes.
    pub fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let count = N.min(self.0.len());
        let (now, later) = self.0.split_at(count);
        bytes[..count].copy_from_slice(now);
        self.0 = later;
        bytes
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    /// The next 16 bits.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    /// The next 32 bits.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    /// The next 64 bits.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    /// An address: mostly inside [`guest_memory`] or at one of its edges, now and then anywhere.
    pub fn address(&mut self) -> u64 {
        let offset = u64::from(self.u16());
        match self.byte() % 8 {
            0..=3 => offset * 16,
            4 => SECOND_REGION + offset,
            5 => REGION_LEN.wrapping_sub(offset % 64),
            6 => (SECOND_REGION + REGION_LEN).wrapping_sub(offset % 64),
            _ => self.u64(),
        }
    }

    /// The length of a buffer: mostly small, now and then anything.
    pub fn len(&mut self) -> u32 {
        match self.byte() {
            0..=99 => u32::from(self.byte()),
            100..=179 => 512 * u32::from(self.byte() % 16),
            180..=229 => u32::from(self.u16()),
            _ => self.u32(),
        }
    }

    /// A descriptor for a table of `size` entries, not always a sound one.
    pub fn descriptor(&mut self, size: u16) -> RawDescriptor {
        let address = self.address();
        let len = self.len();
        let flags = match self.byte() {
            0..=79 => VIRTQ_DESC_F_NEXT,
            80..=139 => VIRTQ_DESC_F_WRITE,
            140..=199 => VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT,
            200..=219 => 0,
            220..=239 => VIRTQ_DESC_F_INDIRECT,
            _ => self.u16(),
        };
        let next = if self.byte() < 250 {
            self.u16() % size
        } else {
            self.u16()
        };
        RawDescriptor {
            address,
            len,
            flags,
            next,
        }
    }
}
