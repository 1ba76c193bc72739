//! A guest and hosts that do anything to the device, for property tests and fuzzing.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use super::Vsock;
use super::packet::Header;
use super::spec::{HOST_CID, TYPE_STREAM};
use super::table::MAX_ENTRIES;
use crate::config::VsockConfig;
use crate::devices::virtio::driver::{
    Buffer, RingDriver, SECOND_REGION, Script, guest_memory, interrupt, needs_reset,
};
use crate::devices::virtio::{DeviceResources, Interrupt, VirtioDevice};
use crate::memory::GuestRamHandle;

const CID: u32 = 3;
const SIZE: u16 = 32;
/// RX buffers, one for each descriptor, and packets for the TX queue, one after another.
const RX_BUFFERS: u64 = 0x2_0000;
const TX_PACKETS: u64 = SECOND_REGION;
/// Streams that are open at a time; the process has only so many descriptors.
const MAX_HOSTS: usize = 32;

/// Plays `data` as the doings of a guest and of hosts.
///
/// # Panics
/// When the device does what it must not do for anybody.
pub fn drive(data: &[u8]) {
    let mut script = Script::new(data);
    let mut stage = Stage::new(script.byte().is_multiple_of(2));
    while !script.is_empty() {
        stage.step(&mut script);
        stage.check();
    }
    stage.end();
}

/// Everybody who takes part.
struct Stage {
    device: Vsock,
    memory: GuestRamHandle,
    rx: RingDriver,
    tx: RingDriver,
    kicks: Vec<Arc<EventFd>>,
    interrupt: Interrupt,
    event_idx: bool,
    hosts: Vec<UnixStream>,
}

impl Stage {
    fn new(event_idx: bool) -> Self {
        let memory = guest_memory();
        let config = VsockConfig {
            guest_cid: CID,
            lanes: false,
            uds_path: None,
        };
        let mut stage = Self {
            device: Vsock::new(&config).expect("a device"),
            rx: RingDriver::new(&memory, 0x1000, SIZE),
            tx: RingDriver::new(&memory, 0x2000, SIZE),
            kicks: Vec::new(),
            interrupt: interrupt(),
            memory,
            event_idx,
            hosts: Vec::new(),
        };
        stage.start();
        stage
    }

    /// The driver begins anew.
    fn start(&mut self) {
        self.device.reset();
        self.interrupt = interrupt();
        self.rx = RingDriver::new(&self.memory, 0x1000, SIZE);
        self.tx = RingDriver::new(&self.memory, 0x2000, SIZE);
        let event = RingDriver::new(&self.memory, 0x3000, 8);
        for ring in [&self.rx, &self.tx, &event] {
            ring.write(ring.registers().driver_area, &[0; 4]);
            ring.write(ring.registers().device_area, &[0; 4]);
        }
        let queues: Vec<_> = [&self.rx, &self.tx, &event]
            .map(|ring| Some(ring.active_queue(self.event_idx)))
            .into();
        self.kicks = queues
            .iter()
            .flatten()
            .map(|queue| Arc::clone(&queue.kick))
            .collect();
        let resources = DeviceResources {
            memory: self.memory.clone(),
            queues,
            interrupt: self.interrupt.clone(),
            features: self.device.offered_features(),
        };
        self.device
            .activate(resources)
            .expect("queues that were set up");
    }

    fn step(&mut self, script: &mut Script<'_>) {
        match script.byte() % 32 {
            0..=15 => self.send(script),
            16 | 17 => self.offer_rx_buffers(script),
            18 => drop(self.rx.take_used()),
            19 => self.rx.misbehave(script),
            20 => self.tx.misbehave(script),
            21..=23 => self.add_host(script, true),
            24 => self.add_host(script, false),
            25 | 26 => {
                let len = usize::from(script.u16());
                self.with_host(script, |host| drop(host.write(&vec![7; len])));
            }
            27 => self.with_host(script, |host| drop(host.read(&mut [0; 65_536]))),
            28 => {
                let how = match script.byte() % 3 {
                    0 => Shutdown::Read,
                    1 => Shutdown::Write,
                    _ => Shutdown::Both,
                };
                self.with_host(script, |host| drop(host.shutdown(how)));
            }
            29 => drop(self.hosts.pop()),
            30 => self
                .device
                .pass_time(Duration::from_secs(script.byte().into())),
            _ => self.start(),
        }
        for kick in &self.kicks {
            kick.write(1).expect("a counter with room");
        }
        self.device.handle_events();
    }

    /// Sends a packet, sensible in most of its parts, from buffers of any shape.
    fn send(&mut self, script: &mut Script<'_>) {
        let choice = script.byte();
        let len = if choice & 1 == 0 {
            0
        } else {
            u32::from(script.u16())
        };
        let mut header = Header {
            src_cid: u64::from(CID),
            dst_cid: HOST_CID,
            src_port: u32::from(script.byte() % 4),
            dst_port: u32::from(script.byte() % 4),
            len,
            socket_type: TYPE_STREAM,
            op: u16::from(script.byte() % 9),
            flags: u32::from(script.byte() % 4),
            buf_alloc: script.u32(),
            fwd_cnt: 0,
        };
        if choice & 2 != 0 {
            header.dst_port += 1 << 30;
        }
        match choice >> 4 {
            0 => header.len = script.u32(),
            1 => header.fwd_cnt = script.u32(),
            2 => header.src_cid = script.u64(),
            3 => header.dst_cid = script.u64(),
            4 => header.socket_type = script.u16(),
            5 => header.op = script.u16(),
            6 => header = Header::from_bytes(&script.take()),
            _ => {}
        }
        self.tx.write(TX_PACKETS, &header.to_bytes());
        let mut left = len + 44;
        let mut address = TX_PACKETS;
        let mut buffers = Vec::new();
        for _ in 0..script.byte() % 8 {
            let piece = u32::from(script.byte()).min(left);
            buffers.push(Buffer::Readable(address, piece));
            address += u64::from(piece);
            left -= piece;
        }
        buffers.push(Buffer::Readable(address, left));
        self.tx.submit(&buffers);
    }

    fn offer_rx_buffers(&mut self, script: &mut Script<'_>) {
        let len = if script.byte() < 250 {
            4096
        } else {
            u32::from(script.u16())
        };
        for index in 0..u64::from(script.byte() % 16) {
            self.rx
                .submit(&[Buffer::Writable(RX_BUFFERS + index * 4096, len)]);
        }
    }

    fn add_host(&mut self, script: &mut Script<'_>, accepts: bool) {
        let port = u32::from(script.byte() % 4);
        if self.hosts.len() >= MAX_HOSTS {
            self.hosts.remove(0);
        }
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        theirs
            .set_nonblocking(true)
            .expect("a socket that does not block");
        self.hosts.push(theirs);
        if accepts {
            self.device.accept_stream(port, ours.into());
        } else {
            self.device.connect_stream(port, ours.into());
        }
    }

    fn with_host(&mut self, script: &mut Script<'_>, act: impl FnOnce(&mut UnixStream)) {
        let count = self.hosts.len().max(1);
        if let Some(host) = self.hosts.get_mut(usize::from(script.byte()) % count) {
            act(host);
        }
    }

    fn check(&mut self) {
        assert!(self.device.entries() <= MAX_ENTRIES, "too many entries");
        if needs_reset(&self.interrupt) {
            assert_eq!(self.device.entries(), 0, "entries of a broken driver");
            self.start();
        }
    }

    /// Without a driver and without hosts, nothing is left.
    fn end(&mut self) {
        self.hosts.clear();
        self.device.reset();
        self.device.handle_events();
        self.start();
        for index in 0..16 {
            self.rx
                .submit(&[Buffer::Writable(RX_BUFFERS + index * 4096, 4096)]);
        }
        self.kicks
            .iter()
            .for_each(|kick| kick.write(1).expect("a counter with room"));
        self.device.handle_events();
        self.device.pass_time(Duration::from_secs(3600));
        self.device.reset();
        self.device.handle_events();
        assert_eq!(self.device.entries(), 0, "entries that nobody knows");
    }
}
