//! The guest's side: a driver and what its kernel knows of connections.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};
use vmm_sys_util::eventfd::EventFd;

use super::super::Vsock;
use super::super::packet::Header;
use super::super::spec::{HEADER_LEN, HOST_CID, OP_REQUEST, OP_RESPONSE, OP_RW, TYPE_STREAM};
use crate::config::VsockConfig;
use crate::devices::virtio::driver::{
    Buffer, RingDriver, SECOND_REGION, Wire, guest_memory, needs_reset,
};
use crate::devices::virtio::{
    DeviceResources, Interrupt, VIRTIO_F_EVENT_IDX, VIRTIO_F_VERSION_1, VirtioDevice,
};
use crate::memory::GuestRamHandle;

pub(super) const CID: u32 = 42;
/// Where the RX buffers are, in the first region.
const RX_BASE: u64 = 0x2_0000;
/// As large as Linux makes them.
pub(super) const RX_BUFFER: u32 = 4096 - 512;
/// Where the packets of the TX queue are, in the second region, used in turn.
const TX_BASE: u64 = SECOND_REGION;
const TX_SLOT: u64 = 72 * 1024;
const TX_SLOTS: u64 = 14;

/// A machine's worth of driver.
pub(super) struct Guest {
    pub(super) device: Vsock,
    pub(super) memory: GuestRamHandle,
    pub(super) rx: RingDriver,
    pub(super) tx: RingDriver,
    pub(super) wire: Wire,
    pub(super) interrupt: Interrupt,
    kicks: Vec<Arc<EventFd>>,
    /// RX buffers by the heads of their chains.
    posted: HashMap<u32, u64>,
    free: VecDeque<u64>,
    /// Whether RX buffers go back into the ring as soon as they were read.
    pub(super) refill: bool,
    next_tx: u64,
}

impl Guest {
    /// A driver that is up, with so many RX buffers.
    pub(super) fn with_rx_buffers(count: u64) -> Self {
        let mut guest = Self::not_started(None, count);
        guest.start();
        guest
    }

    pub(super) fn started() -> Self {
        Self::with_rx_buffers(64)
    }

    /// A device whose driver is not up yet.
    pub(super) fn not_started(uds_path: Option<PathBuf>, rx_buffers: u64) -> Self {
        let memory = guest_memory();
        let device = Vsock::new(&VsockConfig {
            guest_cid: CID,
            lanes: true,
            uds_path,
        })
        .unwrap();
        let wire = Wire::default();
        Self {
            device,
            rx: RingDriver::new(&memory, 0x1000, 128),
            tx: RingDriver::new(&memory, 0x4000, 128),
            memory,
            interrupt: wire.interrupt(),
            wire,
            kicks: Vec::new(),
            posted: HashMap::new(),
            free: (0..rx_buffers)
                .map(|index| RX_BASE + index * 4096)
                .collect(),
            refill: true,
            next_tx: 0,
        }
    }

    /// Brings the driver up, as after a reset.
    pub(super) fn start(&mut self) {
        self.rx = RingDriver::new(&self.memory, 0x1000, 128);
        self.tx = RingDriver::new(&self.memory, 0x4000, 128);
        self.rx.set_avail_index(0);
        self.tx.set_avail_index(0);
        self.rx.write(self.rx.registers().device_area, &[0; 4]);
        self.tx.write(self.tx.registers().device_area, &[0; 4]);
        let event = RingDriver::new(&self.memory, 0x7000, 8);
        let queues: Vec<_> = [&self.rx, &self.tx, &event]
            .map(|ring| Some(ring.active_queue(true)))
            .into();
        self.kicks = queues
            .iter()
            .flatten()
            .map(|queue| Arc::clone(&queue.kick))
            .collect();
        self.free
            .extend(self.posted.drain().map(|(_, address)| address));
        self.post_rx_buffers();
        self.device
            .activate(DeviceResources {
                memory: self.memory.clone(),
                queues,
                interrupt: self.interrupt.clone(),
                features: VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX,
            })
            .unwrap();
        self.device.handle_events();
    }

    /// Gives all free RX buffers to the device.
    pub(super) fn post_rx_buffers(&mut self) {
        while let Some(address) = self.free.pop_front() {
            let head = self.rx.submit(&[Buffer::Writable(address, RX_BUFFER)]);
            self.posted.insert(u32::from(head), address);
        }
    }

    /// Like [`post_rx_buffers`](Self::post_rx_buffers), with the kick that the device asked for.
    pub(super) fn refill_rx(&mut self) {
        self.post_rx_buffers();
        self.kick(0);
        self.device.handle_events();
    }

    /// Gives more RX buffers to the device.
    pub(super) fn add_rx_buffers(&mut self, count: u64) {
        self.free
            .extend((0..count).map(|index| RX_BASE + index * 4096));
        self.refill_rx();
    }

    pub(super) fn kick(&self, queue: usize) {
        self.kicks[queue].write(1).unwrap();
    }

    /// A place for a packet to send.
    pub(super) fn tx_slot(&mut self) -> u64 {
        let slot = TX_BASE + (self.next_tx % TX_SLOTS) * TX_SLOT;
        self.next_tx += 1;
        slot
    }

    /// Sends a packet, header and payload in one buffer, and lets the device work.
    pub(super) fn send(&mut self, header: Header, payload: &[u8]) {
        self.queue(header, payload);
        self.kick(1);
        self.device.handle_events();
    }

    /// Puts a packet into the TX queue without telling the device.
    pub(super) fn queue(&mut self, header: Header, payload: &[u8]) {
        let slot = self.tx_slot();
        self.tx.write(slot, &header.to_bytes());
        self.tx.write(slot + HEADER_LEN as u64, payload);
        self.tx
            .submit(&[Buffer::Readable(slot, (HEADER_LEN + payload.len()) as u32)]);
    }

    /// How many packets of the TX queue the device has given back since the last call, and gives back
    /// when nothing else happens.
    pub(super) fn given_back(&mut self) -> usize {
        self.pass_time(Duration::from_millis(10));
        self.tx.take_used().len()
    }

    /// The packets that the device has sent since the last call.
    pub(super) fn receive(&mut self) -> Vec<(Header, Vec<u8>)> {
        let mut packets = Vec::new();
        for used in self.rx.take_used() {
            let address = self
                .posted
                .remove(&used.id)
                .expect("a buffer that was posted");
            let header = Header::from_bytes(&self.rx.read(address));
            assert_eq!(used.len, header.len + HEADER_LEN as u32);
            assert!(used.len <= RX_BUFFER);
            let mut payload = vec![0; header.len as usize];
            let at = GuestAddress(address + HEADER_LEN as u64);
            self.memory.memory().read_slice(&mut payload, at).unwrap();
            self.free.push_back(address);
            packets.push((header, payload));
        }
        if self.refill && !self.free.is_empty() {
            self.refill_rx();
        }
        packets
    }

    /// The one packet that the device has sent.
    pub(super) fn receive_one(&mut self) -> Header {
        let packets = self.receive();
        assert_eq!(packets.len(), 1, "{packets:?}");
        packets[0].0
    }

    pub(super) fn is_broken(&self) -> bool {
        needs_reset(&self.interrupt)
    }

    /// Lets the host's time pass.
    pub(super) fn pass_time(&mut self, time: Duration) {
        self.device.pass_time(time);
    }

    /// A connection from the guest's port to the host's, and its host end.
    pub(super) fn connected(&mut self, guest_port: u32, host_port: u32) -> (Socket, UnixStream) {
        let (ours, theirs) = stream_pair();
        self.device.accept_stream(host_port, ours);
        let mut socket = Socket::new(guest_port, host_port);
        self.send(socket.header(OP_REQUEST, 0), &[]);
        let response = self.receive_one();
        assert_eq!(response.op, OP_RESPONSE);
        socket.on_header(&response);
        (socket, theirs)
    }
}

/// Two ends of a stream: the device's, and the host's, which does not block.
pub(super) fn stream_pair() -> (OwnedFd, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    (ours.into(), theirs)
}

/// What the guest's kernel knows of one connection.
#[derive(Debug, Clone)]
pub(super) struct Socket {
    pub(super) guest_port: u32,
    pub(super) host_port: u32,
    pub(super) buf_alloc: u32,
    /// Bytes that the guest's program has read.
    pub(super) fwd_cnt: u32,
    /// Bytes that have come from the host.
    pub(super) received: u32,
    pub(super) sent: u32,
    pub(super) peer_buf_alloc: u32,
    pub(super) peer_fwd_cnt: u32,
}

impl Socket {
    pub(super) fn new(guest_port: u32, host_port: u32) -> Self {
        Self {
            guest_port,
            host_port,
            buf_alloc: 256 * 1024,
            fwd_cnt: 0,
            received: 0,
            sent: 0,
            peer_buf_alloc: 0,
            peer_fwd_cnt: 0,
        }
    }

    /// The other end of the connection that the host has asked for.
    pub(super) fn answering(request: &Header) -> Self {
        assert_eq!(request.op, OP_REQUEST);
        let mut socket = Self::new(request.dst_port, request.src_port);
        socket.on_header(request);
        socket
    }

    pub(super) fn header(&self, op: u16, len: usize) -> Header {
        Header {
            src_cid: u64::from(CID),
            dst_cid: HOST_CID,
            src_port: self.guest_port,
            dst_port: self.host_port,
            len: len as u32,
            socket_type: TYPE_STREAM,
            op,
            flags: 0,
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.fwd_cnt,
        }
    }

    pub(super) fn shutdown(&self, op: u16, flags: u32) -> Header {
        Header {
            flags,
            ..self.header(op, 0)
        }
    }

    /// How much the device lets the guest send.
    pub(super) fn credit(&self) -> usize {
        let in_flight = self.sent.wrapping_sub(self.peer_fwd_cnt);
        self.peer_buf_alloc
            .checked_sub(in_flight)
            .expect("the device takes no credit back") as usize
    }

    /// Takes in a packet, whose payload the program reads at once.
    pub(super) fn on_header(&mut self, header: &Header) {
        assert_eq!(header.src_cid, HOST_CID);
        assert_eq!(header.dst_cid, u64::from(CID));
        assert_eq!(
            (header.src_port, header.dst_port),
            (self.host_port, self.guest_port)
        );
        assert_eq!(header.socket_type, TYPE_STREAM);
        self.peer_buf_alloc = header.buf_alloc;
        self.peer_fwd_cnt = header.fwd_cnt;
        if header.op == OP_RW {
            self.received = self.received.wrapping_add(header.len);
            let unread = self.received.wrapping_sub(self.fwd_cnt);
            assert!(
                unread <= self.buf_alloc,
                "the device has exceeded the guest's credit"
            );
        }
    }
}

/// Bytes without a pattern that a mistake could preserve.
pub(super) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}
