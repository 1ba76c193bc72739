//! The device as the transport and the event loop see it.

use std::os::fd::OwnedFd;
use std::time::Instant;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::muxer::Muxer;
use super::reactor::Token;
use super::rings::Rings;
use super::spec::{DEVICE_ID, MIN_GUEST_CID, VIRTIO_VSOCK_F_STREAM};
use super::stream::HostStream;
use super::table::MAX_ENTRIES;
use super::{VsockError, reactor};
use crate::config::VsockConfig;
use crate::devices::virtio::block::lanes::Lanes;
use crate::devices::virtio::{
    ActivateError, DeviceResources, TRANSPORT_FEATURES, VirtioDevice, report_failure,
};

/// The size of each queue. The guest fills the whole RX queue with buffers of a page when it boots:
/// a larger one costs memory there (8 KiB a buffer) and time, and has not made streams faster.
const QUEUE_SIZES: [u16; 3] = [32, 128, 8];

/// How often the reactor is asked before the rings get their turn: each entry can be heard once.
const MAX_POLLS: usize = MAX_ENTRIES / reactor::BATCH + 1;

/// The socket device; see the [module](super).
#[derive(Debug)]
pub struct Vsock {
    guest_cid: u32,
    lanes: Option<Lanes>,
    muxer: Muxer,
    /// `None` when the driver is not up, or has broken the rules.
    rings: Option<Rings>,
    /// What the reactor has reported; kept for its allocation.
    events: Vec<(Token, EventSet)>,
}

impl Vsock {
    /// Makes the device, and listens at its path if it has one.
    ///
    /// # Errors
    /// Says what is wrong with the configuration, or what the host refuses.
    pub fn new(config: &VsockConfig) -> Result<Self, VsockError> {
        let guest_cid = config.guest_cid;
        if !(MIN_GUEST_CID..u32::MAX).contains(&guest_cid) {
            return Err(VsockError::ReservedCid { cid: guest_cid });
        }
        let lanes = config.lanes.then(Lanes::default);
        let muxer = Muxer::new(guest_cid, config.uds_path.as_deref(), lanes.clone())?;
        Ok(Self {
            lanes,
            guest_cid,
            muxer,
            rings: None,
            events: Vec::new(),
        })
    }

    /// Where the descriptors become lanes that come with the bytes of connections' streams, if they do.
    #[must_use]
    pub fn lanes(&self) -> Option<Lanes> {
        self.lanes.clone()
    }

    /// Joins `stream`, a connected stream socket, to the next connection that the guest makes to this
    /// port of the host. Streams for one port are used in order, each once. Legal at any time; must
    /// be called on the event loop's thread.
    ///
    /// The stream is closed if too many wait. A guest that connects to a port for which streams have
    /// been accepted before waits two seconds for the next one; on other ports it is refused at once.
    pub fn accept_stream(&mut self, guest_connects_to_port: u32, stream: OwnedFd) {
        self.muxer.accept_stream(guest_connects_to_port, stream);
        self.serve();
    }

    /// Connects `stream`, a connected stream socket, to this port of the guest, as soon as its driver
    /// is up. Legal at any time; must be called on the event loop's thread.
    ///
    /// The stream is closed if the guest refuses or does not answer, or if there are too many
    /// connections.
    pub fn connect_stream(&mut self, guest_port: u32, stream: OwnedFd) {
        self.muxer
            .connect_stream(guest_port, HostStream::new(stream), false);
        self.serve();
    }

    /// Handles everything that has happened since the last call, without waiting. The event loop
    /// calls it when the device's descriptor is readable.
    pub fn handle_events(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        // A bound, as hosts can be faster than we are: the event loop comes back for the rest.
        for _ in 0..MAX_POLLS {
            let more = self.muxer.reactor.poll(&mut events);
            for (token, set) in &events {
                self.handle_event(*token, *set);
            }
            if !more {
                break;
            }
        }
        self.events = events;
        self.serve();
    }

    fn handle_event(&mut self, token: Token, set: EventSet) {
        match token {
            Token::TxKick => {
                if let Some(rings) = &mut self.rings {
                    rings.on_tx_kick();
                }
            }
            // The RX queue is looked at in any case.
            Token::RxKick => {}
            Token::Wake | Token::Listener => self.muxer.on_listener_event(),
            Token::Timer => self.muxer.on_timer(Instant::now()),
            Token::Entry(id) => self.muxer.on_host_event(id, set),
        }
    }

    /// Works on the rings until there is nothing to do or others must have their turn.
    fn serve(&mut self) {
        self.serve_at(Instant::now());
    }

    fn serve_at(&mut self, now: Instant) {
        let Some(rings) = &mut self.rings else { return };
        match rings.serve(&mut self.muxer, now) {
            Ok(true) => self.muxer.reactor.wake(),
            Ok(false) => {}
            Err(violation) => {
                report_failure(DEVICE_ID, &violation);
                rings.interrupt().signal_needs_reset();
                self.deactivate();
                self.muxer.close_all();
            }
        }
    }

    fn deactivate(&mut self) {
        if let Some(rings) = self.rings.take() {
            rings
                .kicks()
                .iter()
                .for_each(|kick| self.muxer.reactor.forget(kick.as_ref()));
        }
    }

    /// Does what the timer does when so much time has passed.
    #[cfg(any(test, feature = "test-support"))]
    pub(super) fn pass_time(&mut self, time: std::time::Duration) {
        let now = Instant::now() + time;
        self.muxer.on_timer(now);
        self.serve_at(now);
    }

    /// Whether the event loop would be woken.
    #[cfg(test)]
    pub(super) fn has_events(&self) -> bool {
        self.take_events();
        self.take_events()
    }

    /// Takes out what has happened, and whether there was anything.
    #[cfg(test)]
    pub(super) fn take_events(&self) -> bool {
        let mut events = Vec::new();
        self.muxer.reactor.poll(&mut events);
        !events.is_empty()
    }

    /// How many streams and requests the device knows of.
    #[cfg(any(test, feature = "test-support"))]
    pub(super) fn entries(&self) -> usize {
        self.muxer.entries()
    }
}

impl VirtioDevice for Vsock {
    fn device_id(&self) -> u32 {
        DEVICE_ID
    }

    fn max_queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn offered_features(&self) -> u64 {
        TRANSPORT_FEATURES | VIRTIO_VSOCK_F_STREAM
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // VIRTIO 1.2 §5.10.4: `le64 guest_cid` is all there is.
        let config = u64::from(self.guest_cid).to_le_bytes();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let known = config.get(start..).unwrap_or_default().iter().copied();
        for (byte, value) in data.iter_mut().zip(known.chain(std::iter::repeat(0))) {
            *byte = value;
        }
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {
        // VIRTIO 1.2 §5.10.4: the driver cannot write it.
    }

    fn activate(&mut self, resources: DeviceResources) -> Result<(), ActivateError> {
        let rings = Rings::new(resources, self.guest_cid)?;
        let [rx, tx] = rings.kicks();
        self.muxer
            .reactor
            .watch_input(rx.as_ref(), Token::RxKick)
            .and_then(|()| self.muxer.reactor.watch_input(tx.as_ref(), Token::TxKick))
            .map_err(|error| ActivateError(format!("cannot watch the queues: {error}")))?;
        self.rings = Some(rings);
        // Buffers that are there already bring no kick.
        self.muxer.reactor.wake();
        Ok(())
    }

    fn reset(&mut self) {
        self.deactivate();
        self.muxer.forget_guest();
    }
}

impl MutEventSubscriber for Vsock {
    fn init(&mut self, ops: &mut EventOps) {
        // All that the device waits for is behind one descriptor. It was just made, so it is not
        // registered yet, which is the only way for this to fail short of the kernel's memory.
        if let Err(error) = ops.add(Events::new(&self.muxer.reactor, EventSet::IN)) {
            report_failure(DEVICE_ID, &error);
        }
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.handle_events();
    }
}
