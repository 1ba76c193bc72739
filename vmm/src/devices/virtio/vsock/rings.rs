//! The device's work on its queues: packets out of the TX queue, packets into the RX queue.
//!
//! Many packets go into one system call. Payload of one connection is gathered from packets that
//! follow one another before it is written to the host, and one read from the host is spread over as
//! many RX buffers as it may fill; those that it did not fill are put back.
//!
//! The RX queue is watched only while the device is out of buffers: a driver that refills it otherwise
//! does not have to kick.
//!
//! Packets of the TX queue that are done with are given back with the next interrupt that the guest gets
//! anyway, unless that is too long in coming (`spent`).

use std::sync::Arc;
use std::time::Instant;

use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::EventFd;

use super::connection::{Connection, ReadPlan, Verdict};
use super::gather::{Batch, TURN, Turn};
use super::muxer::Muxer;
use super::packet::{Header, PacketError, RxBuffer, take_packet};
use super::spec::{EVENT_QUEUE, MAX_PAYLOAD, RX_QUEUE, TX_QUEUE};
use super::spent::Spent;
use super::stream::MAX_BUFFERS;
use crate::devices::virtio::queue::{Chain, QueueError, VirtQueue};
use crate::devices::virtio::{ActivateError, DeviceResources, Interrupt};
use crate::memory::{GuestRam, GuestRamHandle};

/// How much is put into the RX queue before the guest is told, so that it can start on it.
const SIGNAL_EVERY: usize = MAX_PAYLOAD;

/// The driver has left the specification; the device stops.
#[derive(Debug, thiserror::Error)]
pub(super) enum Violation {
    #[error("the driver broke the rules of a queue")]
    Queue(#[from] QueueError),
    #[error("a buffer of the RX queue has no room for a packet header and a byte")]
    RxBufferTooSmall,
}

/// Why no more packets go into the RX queue.
enum Halt {
    /// The guest offers no buffers.
    Starved,
    /// The event loop has others to serve.
    TurnOver,
    Violation(Violation),
}

impl<E: Into<Violation>> From<E> for Halt {
    fn from(violation: E) -> Self {
        Self::Violation(violation.into())
    }
}

/// What the driver has given.
#[derive(Debug)]
pub(super) struct Rings {
    guest_cid: u32,
    memory: GuestRamHandle,
    interrupt: Interrupt,
    rx: VirtQueue,
    tx: VirtQueue,
    spent: Spent,
    /// Packets may wait in the TX queue without a kick to come.
    tx_pending: bool,
}

impl Rings {
    pub(super) fn new(resources: DeviceResources, guest_cid: u32) -> Result<Self, ActivateError> {
        let DeviceResources {
            memory,
            mut queues,
            interrupt,
            ..
        } = resources;
        let mut take = |index: usize| {
            let queue = queues
                .get_mut(index)
                .and_then(Option::take)
                .map(VirtQueue::new);
            queue.ok_or_else(|| ActivateError(format!("the driver has not set up queue {index}")))
        };
        let (rx, tx) = (take(RX_QUEUE)?, take(TX_QUEUE)?);
        // Its buffers would wait for a transport reset, and the machine is never moved.
        drop(take(EVENT_QUEUE)?);
        Ok(Self {
            guest_cid,
            memory,
            interrupt,
            rx,
            spent: Spent::of(tx.size()),
            tx,
            tx_pending: true,
        })
    }

    /// What the driver signals for the RX and for the TX queue.
    pub(super) fn kicks(&self) -> [&Arc<EventFd>; 2] {
        [self.rx.kick(), self.tx.kick()]
    }

    pub(super) fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    pub(super) fn on_tx_kick(&mut self) {
        self.tx_pending = true;
    }

    /// Works on both queues. Returns whether there is more to do than fits into one turn.
    pub(super) fn serve(&mut self, muxer: &mut Muxer, now: Instant) -> Result<bool, Violation> {
        let memory = self.memory.memory();
        if self.tx_pending {
            self.drain_tx(&memory, muxer)?;
        }
        let more_rx = self.fill_rx(&memory, muxer)?;
        self.tell(&memory, muxer, now)?;
        Ok(more_rx || self.tx_pending && !muxer.is_backlogged())
    }

    /// Interrupts the guest if it wants to know of what was put into the RX queue, or of packets that
    /// cannot be kept any longer; then gives all of them back.
    fn tell(
        &mut self,
        memory: &GuestRam,
        muxer: &mut Muxer,
        now: Instant,
    ) -> Result<(), Violation> {
        let mut due = self.rx.is_signal_due(memory)?;
        if due || !self.spent.may_stay(now, &mut muxer.reactor) {
            for head in self.spent.take() {
                self.tx.push_used(memory, head, 0)?;
            }
            due |= self.tx.is_signal_due(memory)?;
        }
        if due {
            self.interrupt.signal_used_queue();
        }
        Ok(())
    }

    // ---- from the guest -------------------------------------------------------------------------

    /// Takes packets out of the TX queue.
    fn drain_tx(&mut self, memory: &GuestRam, muxer: &mut Muxer) -> Result<(), Violation> {
        let mut batch = Batch::default();
        self.tx.disable_kicks(memory)?;
        for _ in 0..TURN {
            // VIRTIO 1.2 §5.10.6.1.2: packets are taken as long as there is room for the replies.
            if muxer.is_backlogged() {
                break;
            }
            if let Some(chain) = self.tx.pop(memory)? {
                self.take_chain(muxer, &mut batch, chain);
                continue;
            }
            // The guest sees its credit again before it is asked for kicks.
            self.flush(muxer, &mut batch);
            if !self.tx.enable_kicks(memory)? {
                self.tx_pending = false;
                break;
            }
        }
        self.flush(muxer, &mut batch);
        Ok(())
    }

    fn take_chain<'m>(&mut self, muxer: &mut Muxer, batch: &mut Batch<'m>, mut chain: Chain<'m>) {
        let packet = take_packet(&mut chain);
        if !packet
            .as_ref()
            .is_ok_and(|header| batch.continues_with(header))
        {
            // Whatever this is, it comes after the payload before it.
            self.flush(muxer, batch);
        }
        match packet {
            Ok(header) => {
                if let Some(id) = muxer.on_packet(&header) {
                    batch.add(id, header.key(), &chain);
                    return;
                }
            }
            Err(PacketError::PayloadLength { header, .. }) => muxer.on_malformed(&header),
            // Nobody can be answered.
            Err(PacketError::NoHeader { .. }) => {}
        }
        self.spent.add(chain.head(), chain.descriptors());
    }

    /// Passes on what was gathered; then the device is done with its buffers.
    fn flush(&mut self, muxer: &mut Muxer, batch: &mut Batch<'_>) {
        if let Some((id, _)) = batch.connection.take() {
            muxer.deliver(id, &batch.pieces);
        }
        batch.pieces.clear();
        batch.bytes = 0;
        for (head, descriptors) in batch.chains.drain(..) {
            self.spent.add(head, descriptors);
        }
    }

    // ---- to the guest ---------------------------------------------------------------------------

    /// Puts packets into the RX queue. Returns whether it stopped although there was room for more.
    fn fill_rx(&mut self, memory: &GuestRam, muxer: &mut Muxer) -> Result<bool, Violation> {
        let mut turn = Turn::new();
        self.rx.disable_kicks(memory)?;
        loop {
            match self.fill_once(memory, muxer, &mut turn) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(Halt::Violation(violation)) => return Err(violation),
                Err(Halt::TurnOver) => return Ok(true),
                Err(Halt::Starved) => {
                    if !self.rx.enable_kicks(memory)? {
                        return Ok(false);
                    }
                    self.rx.disable_kicks(memory)?;
                }
            }
            if turn.unsignalled >= SIGNAL_EVERY {
                turn.unsignalled = 0;
                self.rx.signal(memory, &self.interrupt)?;
            }
        }
    }

    /// Puts what is due next into the RX queue: the resets, or what one connection has. Returns
    /// whether there was anything.
    fn fill_once<'m>(
        &mut self,
        memory: &'m GuestRam,
        muxer: &mut Muxer,
        turn: &mut Turn<'m>,
    ) -> Result<bool, Halt> {
        while muxer.owes_reset() {
            let buffer = self.next_buffer(memory, turn)?;
            if let Some(header) = muxer.next_reset() {
                self.put(memory, buffer, header)?;
            }
        }
        let Some(id) = muxer.next_turn() else {
            return Ok(false);
        };
        let Some(connection) = muxer.connection(id) else {
            return Ok(true);
        };
        match self.fill_from(memory, connection, turn) {
            Ok(verdict) => muxer.settle(id, verdict),
            Err(halt) => {
                muxer.give_turn_back(id);
                muxer.settle(id, Verdict::Keep);
                return Err(halt);
            }
        }
        Ok(true)
    }

    /// Puts one connection's control packets into the RX queue, and the payload of one read.
    fn fill_from<'m>(
        &mut self,
        memory: &'m GuestRam,
        connection: &mut Connection,
        turn: &mut Turn<'m>,
    ) -> Result<Verdict, Halt> {
        while connection.owes_control() {
            let buffer = self.next_buffer(memory, turn)?;
            if let Some(header) = connection.next_control() {
                self.put(memory, buffer, header)?;
            }
        }
        let Some(plan) = connection.read_plan() else {
            return Ok(Verdict::Keep);
        };
        self.gather(memory, turn, plan)?;
        let (bytes, verdict) = connection.read(&turn.pieces, turn.room);
        turn.unsignalled += bytes;
        let mut left = bytes;
        let mut used = 0;
        for buffer in &mut turn.buffers {
            if left == 0 {
                break;
            }
            let len = left.min(buffer.room());
            left -= len;
            used += 1;
            let header = connection.payload_header(u32::try_from(len).unwrap_or(u32::MAX));
            self.complete(memory, buffer, header)?;
        }
        for buffer in turn.buffers.drain(used..).rev() {
            turn.chains_left += 1;
            self.rx.put_back(buffer.into_chain());
        }
        Ok(verdict)
    }

    /// Collects buffers with room for as much payload as is planned, or as many as there are: at
    /// least one.
    fn gather<'m>(
        &mut self,
        memory: &'m GuestRam,
        turn: &mut Turn<'m>,
        plan: ReadPlan,
    ) -> Result<(), Halt> {
        turn.buffers.clear();
        turn.pieces.clear();
        turn.room = 0;
        while turn.room < plan.wanted && turn.pieces.len() < MAX_BUFFERS {
            match self.next_buffer(memory, turn) {
                Ok(buffer) => turn.add(buffer, plan.limit),
                Err(Halt::Starved | Halt::TurnOver) if !turn.buffers.is_empty() => break,
                Err(halt) => return Err(halt),
            }
        }
        Ok(())
    }

    fn next_buffer<'m>(
        &mut self,
        memory: &'m GuestRam,
        turn: &mut Turn<'m>,
    ) -> Result<RxBuffer<'m>, Halt> {
        if turn.chains_left == 0 {
            return Err(Halt::TurnOver);
        }
        let chain = self.rx.pop(memory)?.ok_or(Halt::Starved)?;
        turn.chains_left -= 1;
        RxBuffer::new(chain).ok_or(Halt::Violation(Violation::RxBufferTooSmall))
    }

    /// Sends a packet without payload.
    fn put(
        &mut self,
        memory: &GuestRam,
        mut buffer: RxBuffer<'_>,
        header: Header,
    ) -> Result<(), Violation> {
        self.complete(memory, &mut buffer, header)
    }

    /// Sends a packet whose payload is in its place.
    fn complete(
        &mut self,
        memory: &GuestRam,
        buffer: &mut RxBuffer<'_>,
        header: Header,
    ) -> Result<(), Violation> {
        let header = Header {
            dst_cid: u64::from(self.guest_cid),
            ..header
        };
        let written = buffer.finish(&header);
        Ok(self.rx.push_used(memory, buffer.head(), written)?)
    }
}
