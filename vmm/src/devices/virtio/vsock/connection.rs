//! One connection: a stream socket of the host joined to a stream socket of the guest.
//!
//! ```text
//!   host's socket  <── outbox (what did not fit) <── sendmsg ──  TX packets  <── guest
//!   host's socket  ── recvmsg, straight into the guest's buffers ── RX packets ──> guest
//! ```
//!
//! ```text
//!   a stream for a guest port              the guest's REQUEST, and a stream for it
//!              │                                         │
//!              ▼   guest: RESPONSE                       ▼
//!         Requesting ───────────────────────────▶ Established ◀─┐ one side ends: SHUTDOWN or EOF is
//!              │ guest: RST, or no answer                │  │   │ passed on, the other direction lives
//!              │                                         │  └───┘
//!              │            host has ended both          │
//!              │            directions: SHUTDOWN sent    │  guest has ended both (answer: RST),
//!              │         Closing ◀───────────────────────┤  guest: RST, or it broke a rule
//!              │            │ guest: RST, or no answer   │
//!              ▼            ▼                            ▼
//!           gone <──────── Draining: unknown to the guest; what it sent still flows to the host
//! ```
//!
//! Directions end apart. The guest's SHUTDOWN(send) becomes EOF for the host once the outbox is empty;
//! the host's EOF becomes SHUTDOWN(send) once every byte before it is in the guest's buffers. Nothing
//! that the guest has sent is lost because the guest, the driver or the connection went away after it:
//! a connection with bytes in its outbox goes on as Draining, without a name, until the host has read
//! them or hung up.
//!
//! Control packets are not queued but owed: a flag each, so that they need no memory when the guest
//! offers no buffers.

use std::io;
use std::time::{Duration, Instant};

use rustix::net::Shutdown;
use vm_memory::VolatileSlice;
use vmm_sys_util::epoll::EventSet;

use super::credit::{CreditViolation, ReceiveCredit, SendCredit};
use super::ends::Ends;
use super::lane::ConnectionLane;
use super::outbox::Outbox;
use super::owed::Owed;
use super::packet::{ConnectionKey, Header};
use super::spec::{
    MAX_PAYLOAD, OP_CREDIT_REQUEST, OP_CREDIT_UPDATE, OP_REQUEST, OP_RESPONSE, OP_RST, OP_RW,
    OP_SHUTDOWN, TYPE_STREAM,
};
use super::stream::{HostStream, Received};
use crate::devices::virtio::block::lanes::LaneNumber;

/// How long the guest may take to answer a REQUEST. Its kernel answers, not its programs, but it may
/// be a slow one under load.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the guest may take to answer a SHUTDOWN of both directions with RST.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The least and the most that one read from the host wants to fill; the least is a buffer, however
/// large the guest makes them. It grows while the host has more.
const READ_SIZES: (usize, usize) = (1024, MAX_PAYLOAD);

/// Where a connection is in its life; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The guest has not answered our REQUEST yet, or not even got it.
    Requesting,
    /// Bytes flow.
    Established,
    /// We have told the guest that both directions are over, and wait for its RST.
    Closing,
    /// Only the outbox is left.
    Draining,
}

/// How much one read from the host should and may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadPlan {
    /// Enough: no more buffers are needed.
    pub(super) wanted: usize,
    /// The guest's credit, which a read must not exceed. At least as much as is wanted.
    pub(super) limit: usize,
}

/// What is to become of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Verdict {
    /// It goes on.
    Keep,
    /// The guest has to be told RST; the rest as with `Forget`.
    Reset,
    /// The guest knows it no longer.
    Forget,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Connection {
    key: ConnectionKey,
    stream: HostStream,
    phase: Phase,
    /// A client of the path interface waits for `OK`.
    greet: bool,
    /// Whether the guest has heard of this connection.
    exposed: bool,
    owed: Owed,
    send: SendCredit,
    receive: ReceiveCredit,
    outbox: Outbox,
    ends: Ends,
    /// The host may have bytes for us: nothing has said otherwise since the last event.
    host_readable: bool,
    /// The host has hung up or failed: a read that returns little is not the last one.
    host_ending: bool,
    /// The guest was asked for credit since it last gave any.
    credit_requested: bool,
    /// How much the next read from the host wants to fill.
    read_size: usize,
    deadline: Option<Instant>,
    lane: ConnectionLane,
}

impl Connection {
    /// A connection that the guest is yet to accept. With `greet`, the host is told `OK` when it does.
    pub(super) fn requesting(
        key: ConnectionKey,
        stream: HostStream,
        window: u32,
        greet: bool,
    ) -> Self {
        Self {
            greet,
            ..Self::new(key, stream, window, Phase::Requesting, Owed::REQUEST)
        }
    }

    /// The connection that the guest has asked for with `request`.
    ///
    /// # Errors
    /// The request's credit fields make no sense.
    pub(super) fn accepted(
        request: &Header,
        stream: HostStream,
        window: u32,
    ) -> Result<Self, CreditViolation> {
        let phase = Phase::Established;
        let mut accepted = Self::new(request.key(), stream, window, phase, Owed::RESPONSE);
        accepted.exposed = true;
        accepted.send.update(request.buf_alloc, request.fwd_cnt)?;
        Ok(accepted)
    }

    fn new(key: ConnectionKey, stream: HostStream, window: u32, phase: Phase, owed: Owed) -> Self {
        Self {
            key,
            stream,
            phase,
            greet: false,
            exposed: false,
            owed,
            send: SendCredit::default(),
            receive: ReceiveCredit::new(window),
            outbox: Outbox::default(),
            ends: Ends::default(),
            // Likely, as who connects has something to say; if not, one read finds out.
            host_readable: true,
            host_ending: false,
            credit_requested: false,
            read_size: READ_SIZES.0,
            deadline: None,
            lane: ConnectionLane::new(match phase {
                Phase::Requesting => LaneNumber::of_host_port(key.host_port),
                _ => LaneNumber::of_guest_port(key.guest_port),
            }),
        }
    }

    pub(super) fn lane(&mut self) -> &mut ConnectionLane {
        &mut self.lane
    }

    pub(super) fn key(&self) -> ConnectionKey {
        self.key
    }

    pub(super) fn stream(&self) -> &HostStream {
        &self.stream
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the guest has heard of this connection.
    pub(super) fn is_exposed(&self) -> bool {
        self.exposed
    }

    /// Whether bytes wait for room in the host's socket.
    pub(super) fn is_blocked(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// When the guest's answer must be here, if one is awaited.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    // ---- from the guest -------------------------------------------------------------------------

    /// Takes in a packet; an RW packet's payload comes by [`deliver`](Self::deliver) afterwards.
    pub(super) fn on_packet(&mut self, header: &Header) -> Verdict {
        if header.op == OP_RST {
            return Verdict::Forget;
        }
        if self.phase == Phase::Requesting && header.op != OP_RESPONSE {
            return Verdict::Reset;
        }
        if self.send.update(header.buf_alloc, header.fwd_cnt).is_err() {
            return Verdict::Reset;
        }
        if self.send.available() > 0 {
            self.credit_requested = false;
        }
        match header.op {
            OP_RESPONSE => self.on_response(),
            OP_RW => self.on_payload(header.len),
            OP_SHUTDOWN => self.on_shutdown(header.flags),
            OP_CREDIT_UPDATE => Verdict::Keep,
            OP_CREDIT_REQUEST => {
                self.owed |= Owed::CREDIT_UPDATE;
                Verdict::Keep
            }
            _ => Verdict::Reset,
        }
    }

    fn on_response(&mut self) -> Verdict {
        if self.phase != Phase::Requesting || !self.exposed {
            return Verdict::Reset;
        }
        self.phase = Phase::Established;
        self.deadline = None;
        if self.greet {
            let answer = format!("OK {}\n", self.key.host_port);
            // It is the first thing that the socket gets, so there is room for it.
            if self.stream.send_bytes(answer.as_bytes()).ok() != Some(answer.len()) {
                return Verdict::Reset;
            }
        }
        Verdict::Keep
    }

    fn on_payload(&mut self, len: u32) -> Verdict {
        if self.ends.guest_is_at_eof() || self.receive.receive(len).is_err() {
            return Verdict::Reset;
        }
        Verdict::Keep
    }

    fn on_shutdown(&mut self, flags: u32) -> Verdict {
        // VIRTIO 1.2 §5.10.6.5: a clean disconnect is a SHUTDOWN of both, answered by RST.
        if self.ends.guest_shuts_down(flags) {
            return Verdict::Reset;
        }
        if self.ends.guest_is_deaf() {
            self.stream.shut_down(Shutdown::Read);
        }
        self.pass_on_guest_eof();
        Verdict::Keep
    }

    /// Passes payload on to the host; what its socket has no room for is kept. The guest's credit has
    /// paid for it ([`on_packet`](Self::on_packet)).
    pub(super) fn deliver(&mut self, payload: &[VolatileSlice<'_>]) {
        let len: usize = payload.iter().map(VolatileSlice::len).sum();
        let mut sent = 0;
        if !self.ends.host_is_deaf() && self.outbox.is_empty() {
            match self.stream.send(payload) {
                Ok(bytes) => sent = bytes,
                Err(_) => self.ends.host_hears_no_more(),
            }
        }
        if self.ends.host_is_deaf() {
            // It has nowhere to go; the guest is told by SHUTDOWN(receive).
            sent = len;
        } else if sent < len {
            self.outbox.append(payload, sent);
        }
        self.forwarded(sent);
    }

    // ---- to the guest ---------------------------------------------------------------------------

    /// Whether there is anything to put into the guest's buffers.
    pub(super) fn has_work(&self) -> bool {
        self.owes_control() || self.read_plan().is_some()
    }

    /// Whether [`next_control`](Self::next_control) has something.
    pub(super) fn owes_control(&self) -> bool {
        self.phase != Phase::Draining && (!self.owed.is_empty() || self.owes_shutdown())
    }

    fn owes_shutdown(&self) -> bool {
        // What can be read comes first: a host that has gone is told of in one packet then.
        self.phase == Phase::Established && self.ends.news() && self.read_plan().is_none()
    }

    /// The next control packet, if one is owed. It counts as sent.
    pub(super) fn next_control(&mut self) -> Option<Header> {
        let mut flags = 0;
        let op = if self.owed.contains(Owed::REQUEST) {
            self.owed.remove(Owed::REQUEST);
            self.exposed = true;
            self.deadline = Some(Instant::now() + REQUEST_TIMEOUT);
            OP_REQUEST
        } else if self.owed.contains(Owed::RESPONSE) {
            self.owed.remove(Owed::RESPONSE);
            OP_RESPONSE
        } else if self.owed.contains(Owed::CREDIT_UPDATE) {
            self.owed.remove(Owed::CREDIT_UPDATE);
            OP_CREDIT_UPDATE
        } else if self.owed.contains(Owed::CREDIT_REQUEST) {
            self.owed.remove(Owed::CREDIT_REQUEST);
            OP_CREDIT_REQUEST
        } else if self.owes_shutdown() {
            flags = self.tell_shutdown();
            OP_SHUTDOWN
        } else {
            return None;
        };
        Some(self.stamp(Header {
            op,
            flags,
            ..Header::default()
        }))
    }

    fn tell_shutdown(&mut self) -> u32 {
        let (flags, over) = self.ends.tell();
        if over {
            self.phase = Phase::Closing;
            self.deadline = Some(Instant::now() + CLOSE_TIMEOUT);
        }
        flags
    }

    /// How much to read from the host, if there is a point in it.
    pub(super) fn read_plan(&self) -> Option<ReadPlan> {
        let limit = usize::try_from(self.send.available()).unwrap_or(usize::MAX);
        (self.wants_to_read() && limit > 0).then_some(ReadPlan {
            wanted: self.read_size.min(limit),
            limit,
        })
    }

    fn wants_to_read(&self) -> bool {
        self.phase == Phase::Established && self.host_readable && self.ends.to_guest_is_open()
    }

    /// Reads from the host into the guest's `buffers`, which have room for `room` bytes: at most the
    /// limit of [`read_plan`](Self::read_plan).
    pub(super) fn read(&mut self, buffers: &[VolatileSlice<'_>], room: usize) -> (usize, Verdict) {
        match self.stream.receive(buffers, self.lane.is_wanted()) {
            Ok(Received { bytes: 0, .. }) => {
                self.ends.host_is_at_eof();
                self.host_readable = false;
                (0, Verdict::Keep)
            }
            Ok(received) => {
                let bytes = received.bytes;
                self.lane.take(received.descriptor);
                self.send.spend(u32::try_from(bytes).unwrap_or(u32::MAX));
                if bytes == room {
                    self.read_size = self.read_size.saturating_mul(4).min(READ_SIZES.1);
                } else {
                    self.read_size = bytes.next_power_of_two().clamp(READ_SIZES.0, READ_SIZES.1);
                    // Fewer bytes than there was room for: the socket is empty (epoll(7)), and the
                    // next byte brings an event. An end that has been announced brings none.
                    self.host_readable = self.host_ending || received.cut_short;
                }
                (bytes, Verdict::Keep)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.host_readable = false;
                (0, Verdict::Keep)
            }
            Err(_) => (0, Verdict::Reset),
        }
    }

    /// Asks the guest for credit, once, if only that is missing.
    pub(super) fn request_credit(&mut self) {
        if self.wants_to_read() && self.send.available() == 0 && !self.credit_requested {
            self.credit_requested = true;
            self.owed |= Owed::CREDIT_REQUEST;
        }
    }

    /// The header for a packet with `len` bytes of payload, which have been read.
    pub(super) fn payload_header(&mut self, len: u32) -> Header {
        self.stamp(Header {
            op: OP_RW,
            len,
            ..Header::default()
        })
    }

    /// Completes a header with this connection's name and credit.
    fn stamp(&mut self, header: Header) -> Header {
        // Every header tells the guest its credit.
        self.owed.remove(Owed::CREDIT_UPDATE);
        let (buf_alloc, fwd_cnt) = self.receive.stamp();
        let named = Header::to_guest(self.key, TYPE_STREAM, header.op);
        Header {
            len: header.len,
            flags: header.flags,
            buf_alloc,
            fwd_cnt,
            ..named
        }
    }

    // ---- from the host --------------------------------------------------------------------------

    /// Takes in what epoll says of the host's socket.
    pub(super) fn on_host_event(&mut self, events: EventSet) -> Verdict {
        let ending = EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR;
        if events.intersects(ending) {
            self.host_ending = true;
        }
        if events.intersects(EventSet::IN | ending) {
            self.host_readable = true;
        }
        if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            self.ends.host_hears_no_more();
            let lost = self.outbox.discard();
            self.forwarded(lost);
            if self.phase == Phase::Requesting && self.host_has_left_nothing() {
                return if self.exposed {
                    Verdict::Reset
                } else {
                    Verdict::Forget
                };
            }
        }
        self.flush()
    }

    fn host_has_left_nothing(&self) -> bool {
        !matches!(self.stream.peek(&mut [0]), Ok(Some(1..)))
    }

    /// Writes out of the outbox what the host's socket takes now.
    fn flush(&mut self) -> Verdict {
        if !self.outbox.is_empty() {
            let flushed = if let Ok(bytes) = self.outbox.flush(&self.stream) {
                bytes
            } else {
                self.ends.host_hears_no_more();
                self.outbox.discard()
            };
            self.forwarded(flushed);
            self.pass_on_guest_eof();
        }
        if self.phase == Phase::Draining && self.outbox.is_empty() {
            return Verdict::Forget;
        }
        Verdict::Keep
    }

    fn forwarded(&mut self, bytes: usize) {
        // At most the window, which is 32 bits wide.
        self.receive
            .forward(u32::try_from(bytes).unwrap_or(u32::MAX));
        if self.receive.update_due() {
            self.owed |= Owed::CREDIT_UPDATE;
        }
    }

    fn pass_on_guest_eof(&self) {
        if self.ends.guest_is_at_eof() && self.outbox.is_empty() {
            self.stream.shut_down(Shutdown::Write);
        }
    }

    // ---- the end --------------------------------------------------------------------------------

    /// The guest knows this connection no longer. Returns whether it has to live on until the host
    /// has taken what the guest has sent.
    pub(super) fn start_draining(&mut self) -> bool {
        self.phase = Phase::Draining;
        self.deadline = None;
        self.lane.close();
        self.is_blocked()
    }
}
