//! From an address that the guest accessed to the device that answers.
//!
//! What no device claims reads as ones, and writes to it are lost, as on a PC. Widths and lengths come
//! from the guest; a device sees what fits it.

use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::GuestAddress;

/// A device with byte-wide I/O ports.
pub trait PortDevice: Send {
    /// Reads the port at this offset from the device's first.
    fn read(&mut self, offset: u16) -> u8;

    /// Writes the port at this offset from the device's first.
    fn write(&mut self, offset: u16, value: u8);
}

/// A device with a window of memory-mapped registers.
pub trait MmioDevice: Send {
    /// Reads registers at this offset from the window's start.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// Writes registers at this offset from the window's start.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// Ranges of the same kind overlap, or one does not fit into the address space.
#[derive(Debug, thiserror::Error)]
#[error("device addresses {start:#x} to {end:#x} are taken or out of range")]
pub struct BusError {
    start: u64,
    end: u64,
}

/// The I/O ports.
#[derive(Default)]
pub struct PortBus {
    devices: Vec<Claim<dyn PortDevice>>,
}

impl PortBus {
    /// Gives `count` ports from `first` on to a device.
    ///
    /// # Errors
    /// When another device has one of them.
    pub fn add<D: PortDevice + 'static>(
        &mut self,
        first: u16,
        count: u16,
        device: D,
    ) -> Result<(), BusError> {
        let device = Arc::new(Mutex::new(device));
        claim(
            &mut self.devices,
            u64::from(first),
            u64::from(count),
            device,
        )
    }

    /// Answers a read. KVM does not tell a string instruction from one wide access, so every byte is
    /// taken as an access of its own to the same port, which is right for the byte-wide devices here.
    pub fn read(&self, port: u16, data: &mut [u8]) {
        let Some((device, offset)) = find(&self.devices, u64::from(port)) else {
            data.fill(0xff);
            return;
        };
        let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
        for byte in data {
            *byte = device.read(low_word(offset));
        }
    }

    /// Takes a write; see [`PortBus::read`] for its length.
    pub fn write(&self, port: u16, data: &[u8]) {
        let Some((device, offset)) = find(&self.devices, u64::from(port)) else {
            return;
        };
        let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
        for byte in data {
            device.write(low_word(offset), *byte);
        }
    }
}

/// The memory-mapped registers.
#[derive(Default)]
pub struct MmioBus {
    devices: Vec<Claim<dyn MmioDevice>>,
}

impl MmioBus {
    /// Gives a window of addresses to a device.
    ///
    /// # Errors
    /// When another device has one of them.
    pub fn add<D: MmioDevice + 'static>(
        &mut self,
        base: GuestAddress,
        size: u64,
        device: D,
    ) -> Result<(), BusError> {
        claim(
            &mut self.devices,
            base.0,
            size,
            Arc::new(Mutex::new(device)),
        )
    }

    /// Answers a read.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match find(&self.devices, address) {
            Some((device, offset)) => {
                device
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .read(offset, data);
            }
            None => data.fill(0xff),
        }
    }

    /// Takes a write.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = find(&self.devices, address) {
            device
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write(offset, data);
        }
    }
}

/// Both buses, as a vCPU sees them.
#[derive(Default)]
pub struct Buses {
    /// I/O ports.
    pub ports: PortBus,
    /// Memory-mapped registers.
    pub mmio: MmioBus,
}

/// A device and the addresses it answers to.
struct Claim<D: ?Sized> {
    first: u64,
    last: u64,
    device: Arc<Mutex<D>>,
}

/// Keeps claims in order of their addresses.
fn claim<D: ?Sized>(
    claims: &mut Vec<Claim<D>>,
    first: u64,
    count: u64,
    device: Arc<Mutex<D>>,
) -> Result<(), BusError> {
    let taken = BusError {
        start: first,
        end: first.saturating_add(count),
    };
    let Some(last) = count
        .checked_sub(1)
        .and_then(|count| first.checked_add(count))
    else {
        return Err(taken);
    };
    if claims
        .iter()
        .any(|claim| claim.first <= last && first <= claim.last)
    {
        return Err(taken);
    }
    let at = claims.partition_point(|claim| claim.first < first);
    claims.insert(
        at,
        Claim {
            first,
            last,
            device,
        },
    );
    Ok(())
}

fn find<D: ?Sized>(claims: &[Claim<D>], address: u64) -> Option<(&Mutex<D>, u64)> {
    let behind = claims.partition_point(|claim| claim.first <= address);
    let claim = claims.get(behind.checked_sub(1)?)?;
    (address <= claim.last).then(|| (&*claim.device, address - claim.first))
}

/// Offsets within a claim of I/O ports are smaller than the I/O space.
fn low_word(offset: u64) -> u16 {
    let [low, high, ..] = offset.to_le_bytes();
    u16::from_le_bytes([low, high])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offset and data.
    type Written = (u64, Vec<u8>);

    #[derive(Default)]
    struct Recorder {
        written: Arc<Mutex<Vec<Written>>>,
    }

    impl PortDevice for Recorder {
        fn read(&mut self, offset: u16) -> u8 {
            offset.to_le_bytes()[0] + 1
        }

        fn write(&mut self, offset: u16, value: u8) {
            self.written
                .lock()
                .unwrap()
                .push((u64::from(offset), vec![value]));
        }
    }

    impl MmioDevice for Recorder {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(offset.to_le_bytes()[0]);
        }

        fn write(&mut self, offset: u64, data: &[u8]) {
            self.written.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    #[test]
    fn unclaimed_addresses_read_as_ones() {
        let mut buses = Buses::default();
        buses.ports.add(0x3f8, 8, Recorder::default()).unwrap();
        for port in [0, 0x3f7, 0x400, u16::MAX] {
            let mut data = [0; 4];
            buses.ports.read(port, &mut data);
            assert_eq!(data, [0xff; 4]);
            buses.ports.write(port, &data);
        }
        let mut data = [0; 8];
        buses.mmio.read(u64::MAX, &mut data);
        assert_eq!(data, [0xff; 8]);
    }

    #[test]
    fn device_sees_offsets_from_its_first_port() {
        let mut bus = PortBus::default();
        bus.add(0x3f8, 8, Recorder::default()).unwrap();
        bus.add(0x64, 1, Recorder::default()).unwrap();
        let mut byte = [0];
        bus.read(0x3ff, &mut byte);
        assert_eq!(byte, [8]);
        bus.read(0x64, &mut byte);
        assert_eq!(byte, [1]);
    }

    #[test]
    fn string_of_bytes_goes_to_one_port() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let mut bus = PortBus::default();
        bus.add(
            0x3f8,
            8,
            Recorder {
                written: written.clone(),
            },
        )
        .unwrap();
        bus.write(0x3f8, b"abc");
        let expected: Vec<_> = b"abc".iter().map(|byte| (0, vec![*byte])).collect();
        assert_eq!(*written.lock().unwrap(), expected);
    }

    #[test]
    fn overlapping_and_empty_claims_are_refused() {
        let mut bus = MmioBus::default();
        bus.add(GuestAddress(0x1000), 0x1000, Recorder::default())
            .unwrap();
        for (base, size) in [(0x1fff, 1), (0x800, 0x801), (0x3000, 0), (u64::MAX, 2)] {
            assert!(
                bus.add(GuestAddress(base), size, Recorder::default())
                    .is_err()
            );
        }
        bus.add(GuestAddress(0x2000), 0x1000, Recorder::default())
            .unwrap();
    }
}
