//! The guest's console: a 16550 UART whose output goes to a bounded ring.
//!
//! The ring keeps the newest bytes. A guest that floods its console costs time of its own vCPU, and no
//! memory of the host.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::PortDevice;

/// What the guest wrote to its console last.
#[derive(Debug, Clone)]
pub struct Console {
    ring: Arc<Mutex<Ring>>,
}

#[derive(Debug)]
struct Ring {
    bytes: VecDeque<u8>,
    limit: usize,
}

impl Console {
    /// A console that keeps up to `limit` bytes. Memory is taken as the guest writes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            ring: Arc::new(Mutex::new(Ring {
                bytes: VecDeque::new(),
                limit,
            })),
        }
    }

    /// The newest bytes, at most `count`.
    #[must_use]
    pub fn tail(&self, count: usize) -> Vec<u8> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.bytes
            .iter()
            .skip(ring.bytes.len().saturating_sub(count))
            .copied()
            .collect()
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        for byte in bytes {
            if ring.bytes.len() >= ring.limit {
                ring.bytes.pop_front();
            }
            if ring.limit > 0 {
                ring.bytes.push_back(*byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The UART's interrupt line.
#[derive(Debug)]
struct InterruptLine(EventFd);

impl Trigger for InterruptLine {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The UART.
#[derive(Debug)]
pub struct SerialPort {
    uart: Serial<InterruptLine, NoEvents, Console>,
}

impl SerialPort {
    /// A UART that writes to `console` and interrupts by `irqfd`.
    #[must_use]
    pub fn new(irqfd: EventFd, console: Console) -> Self {
        Self {
            uart: Serial::new(InterruptLine(irqfd), console),
        }
    }
}

impl PortDevice for SerialPort {
    fn read(&mut self, offset: u16) -> u8 {
        self.uart.read(offset.to_le_bytes()[0])
    }

    fn write(&mut self, offset: u16, value: u8) {
        // In loopback mode a guest can fill its own receive FIFO: as on hardware, what does not fit
        // is lost. An interrupt fails only when one is pending already.
        let _ = self.uart.write(offset.to_le_bytes()[0], value);
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    const LOOPBACK: u8 = 0x10;

    fn serial(limit: usize) -> (SerialPort, Console) {
        let console = Console::new(limit);
        (
            SerialPort::new(EventFd::new(EFD_NONBLOCK).unwrap(), console.clone()),
            console,
        )
    }

    #[test]
    fn output_is_kept() {
        let (mut port, console) = serial(100);
        for byte in *b"hello" {
            port.write(0, byte);
        }
        assert_eq!(console.tail(100), b"hello");
        assert_eq!(console.tail(2), b"lo");
    }

    #[test]
    fn newest_bytes_win_and_a_flood_costs_no_memory() {
        let (mut port, console) = serial(1000);
        for i in 0..1_000_000_u32 {
            port.write(0, b'a' + u8::try_from(i % 26).unwrap());
        }
        assert_eq!(console.tail(usize::MAX).len(), 1000);
        let last = b'a' + u8::try_from(999_999_u32 % 26).unwrap();
        assert_eq!(console.tail(1), [last]);
        assert!(console.ring.lock().unwrap().bytes.capacity() <= 2048);
    }

    #[test]
    fn console_of_no_bytes_keeps_none() {
        let (mut port, console) = serial(0);
        port.write(0, b'x');
        assert_eq!(console.tail(10), b"");
    }

    #[test]
    fn looped_back_flood_is_bounded() {
        let (mut port, _) = serial(10);
        port.write(4, LOOPBACK);
        for _ in 0..10_000 {
            port.write(0, b'x');
        }
        assert!(port.uart.state().in_buffer.len() <= 64);
    }

    #[test]
    fn transmitter_is_always_ready() {
        let (mut port, _) = serial(10);
        assert_eq!(port.read(5) & 0x60, 0x60);
    }
}
