//! The guest's console: a 16550 UART whose output goes to a bounded ring.
//!
//! The ring keeps the newest bytes. A guest that floods its console costs time of its own vCPU, and no
//! memory of the host. It can be copied to a pipe, line by line, which is never waited for.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use super::InterruptLine;
use crate::bus::PortDevice;

/// A longer line is passed on in parts. With the news of a loss it is less than PIPE_BUF.
const MAX_LINE: usize = 1024;

/// What the guest wrote to its console last.
#[derive(Debug, Clone)]
pub struct Console {
    ring: Arc<Mutex<Ring>>,
}

#[derive(Debug)]
struct Ring {
    bytes: VecDeque<u8>,
    limit: usize,
    copy: Option<Tee>,
}

/// Somebody who reads along.
#[derive(Debug)]
struct Tee {
    pipe: File,
    /// What has not been passed on: the beginning of a line.
    line: Vec<u8>,
    /// What the pipe did not take.
    lost: u64,
}

impl Console {
    /// A console that keeps up to `limit` bytes. Memory is taken as the guest writes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            ring: Arc::new(Mutex::new(Ring {
                bytes: VecDeque::new(),
                limit,
                copy: None,
            })),
        }
    }

    /// Has what is written from now on go into this pipe as well, which must not block.
    pub fn copy_to(&self, pipe: OwnedFd) {
        self.lock().copy = Some(Tee {
            pipe: pipe.into(),
            line: Vec::new(),
            lost: 0,
        });
    }

    /// Passes on what there is of a line that was not ended.
    pub fn finish(&self) {
        self.lock().pass_on();
    }

    /// The newest bytes, at most `count`.
    #[must_use]
    pub fn tail(&self, count: usize) -> Vec<u8> {
        let ring = self.lock();
        ring.bytes
            .iter()
            .skip(ring.bytes.len().saturating_sub(count))
            .copied()
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn push(&mut self, byte: u8) {
        if self.bytes.len() >= self.limit {
            self.bytes.pop_front();
        }
        if self.limit > 0 {
            self.bytes.push_back(byte);
        }
        if let Some(copy) = &mut self.copy {
            copy.line.push(byte);
            if byte == b'\n' || copy.line.len() >= MAX_LINE {
                self.pass_on();
            }
        }
    }

    fn pass_on(&mut self) {
        if let Some(copy) = &mut self.copy
            && copy.pass_on() == Reader::Gone
        {
            self.copy = None;
        }
    }
}

/// Whether somebody still reads along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    There,
    Gone,
}

impl Tee {
    /// Writes the line, after the news of what was lost before it. Both go as one, as a whole or not at
    /// all (pipe(7): they are no longer than PIPE_BUF), so that news are told once.
    fn pass_on(&mut self) -> Reader {
        if self.line.is_empty() {
            return Reader::There;
        }
        let line = std::mem::take(&mut self.line);
        let written = match self.lost {
            0 => self.pipe.write_all(&line),
            lost => {
                let news = format!("[{lost} bytes of the console were lost]\n");
                self.pipe.write_all(&[news.as_bytes(), &line].concat())
            }
        };
        match written {
            Ok(()) => {
                self.lost = 0;
                Reader::There
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.lost = self.lost.saturating_add(line.len() as u64);
                Reader::There
            }
            Err(_) => Reader::Gone,
        }
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut ring = self.lock();
        for byte in bytes {
            ring.push(*byte);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The UART's interrupt line.
#[derive(Debug)]
struct Line(Box<dyn InterruptLine>);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.pulse();
        Ok(())
    }
}

/// The UART.
#[derive(Debug)]
pub struct SerialPort {
    uart: Serial<Line, NoEvents, Console>,
}

impl SerialPort {
    /// A UART that writes to `console` and interrupts by `line`.
    #[must_use]
    pub fn new(line: impl InterruptLine + 'static, console: Console) -> Self {
        Self {
            uart: Serial::new(Line(Box::new(line)), console),
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
    use std::io::Read;

    use super::*;
    use crate::devices::virtio::driver::Wire;

    const LOOPBACK: u8 = 0x10;

    fn serial(limit: usize) -> (SerialPort, Console) {
        let console = Console::new(limit);
        (SerialPort::new(Wire::default(), console.clone()), console)
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

    /// A pipe that blocks neither end.
    fn pipe() -> (File, OwnedFd) {
        let flags = rustix::pipe::PipeFlags::NONBLOCK;
        let (read, write) = rustix::pipe::pipe_with(flags).unwrap();
        (read.into(), write)
    }

    fn say(port: &mut SerialPort, text: &[u8]) {
        for byte in text {
            port.write(0, *byte);
        }
    }

    fn heard(pipe: &mut File) -> Vec<u8> {
        let mut space = vec![0; 1 << 20];
        let length = pipe.read(&mut space).unwrap_or(0);
        space.truncate(length);
        space
    }

    #[test]
    fn copy_gets_whole_lines_and_the_rest_in_the_end() {
        let (mut port, console) = serial(100);
        let (mut read, write) = pipe();
        say(&mut port, b"before\n");
        console.copy_to(write);
        say(&mut port, b"one\ntw");
        assert_eq!(heard(&mut read), b"one\n");
        say(&mut port, &[b'x'; MAX_LINE]);
        assert_eq!(heard(&mut read).len(), MAX_LINE);
        console.finish();
        assert_eq!(heard(&mut read), b"xx");
        assert_eq!(console.tail(3), b"xxx");
    }

    #[test]
    fn copy_that_is_not_read_is_not_waited_for_and_the_loss_is_told() {
        let (mut port, console) = serial(100);
        let (mut read, write) = pipe();
        console.copy_to(write);
        for _ in 0..3000 {
            say(&mut port, &[b'x'; 99]);
            say(&mut port, b"\n");
        }
        let first = heard(&mut read);
        assert!(first.len() < 300_000 && first.ends_with(b"x\n"));
        say(&mut port, b"again\n");
        let lost = 300_000 - first.len();
        let expected = format!("[{lost} bytes of the console were lost]\nagain\n");
        assert_eq!(String::from_utf8(heard(&mut read)).unwrap(), expected);
    }

    #[test]
    fn copy_whose_reader_left_is_given_up() {
        let (mut port, console) = serial(100);
        let (read, write) = pipe();
        console.copy_to(write);
        drop(read);
        say(&mut port, b"one\n");
        assert!(console.lock().copy.is_none());
        assert_eq!(console.tail(4), b"one\n");
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
