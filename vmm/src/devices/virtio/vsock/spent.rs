//! Packets of the TX queue that the device is done with, and has not given back.
//!
//! Linux asks for an interrupt with every packet that it gets back, and then does nothing but free it.
//! That interrupt costs the guest four exits and a worker's turn: more than most packets do, which are a
//! few bytes of an answer, or tell how much was read. When a packet is given back is the device's to
//! decide (virtio 1.2, section 2.7.8), so it waits for an interrupt that is due anyway; those of a
//! conversation are, as its other side answers.

use std::time::{Duration, Instant};

use super::reactor::Reactor;

/// How long a packet may wait at most. Nobody waits for it; but the guest's memory is kept, and a socket
/// that was closed.
const PATIENCE: Duration = Duration::from_millis(10);

/// Which part of the queue's descriptors may wait: what is left has to be enough for a stream at full
/// speed.
const PART: u16 = 4;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Spent {
    heads: Vec<u16>,
    /// How many descriptors they have, and how many they may have. Those of an indirect table count as
    /// well, although they are not the queue's.
    descriptors: usize,
    most: usize,
    /// When the first of them has waited for long enough; `None` if that was not arranged for.
    until: Option<Instant>,
}

impl Spent {
    /// None yet, of a queue of this size.
    pub(super) fn of(queue_size: u16) -> Self {
        Self {
            heads: Vec::new(),
            descriptors: 0,
            most: usize::from(queue_size / PART),
            until: None,
        }
    }

    /// Another one, by the head of its chain, which has so many descriptors.
    pub(super) fn add(&mut self, head: u16, descriptors: usize) {
        self.heads.push(head);
        self.descriptors += descriptors;
    }

    /// Whether all can wait for longer. If so, the device is woken before it is too late.
    pub(super) fn may_stay(&mut self, now: Instant, reactor: &mut Reactor) -> bool {
        if self.heads.is_empty() {
            return true;
        }
        if self.descriptors > self.most || self.until.is_some_and(|until| until <= now) {
            return false;
        }
        if self.until.is_none() {
            let until = now + PATIENCE;
            if reactor.serve_rings_at(until).is_err() {
                return false;
            }
            self.until = Some(until);
        }
        true
    }

    /// All of them, to be given back.
    pub(super) fn take(&mut self) -> impl Iterator<Item = u16> + '_ {
        self.until = None;
        self.descriptors = 0;
        self.heads.drain(..)
    }
}
