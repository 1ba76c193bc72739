//! A connection's lane for bulk data, if its host brings memory for one.

use std::os::fd::OwnedFd;

use crate::devices::virtio::block::lanes::{LaneNumber, Lanes, OpenLane};

/// See the module.
#[derive(Debug)]
pub(super) struct ConnectionLane {
    number: LaneNumber,
    /// Where it is to be had; nowhere in a machine without lanes.
    lanes: Option<Lanes>,
    open: Option<OpenLane>,
}

impl ConnectionLane {
    /// No lane, yet.
    pub(super) fn new(number: LaneNumber) -> Self {
        Self {
            number,
            lanes: None,
            open: None,
        }
    }

    /// Lets the host bring memory.
    pub(super) fn allow(&mut self, lanes: Option<Lanes>) {
        self.lanes = lanes;
    }

    /// Whether a descriptor that comes with the host's bytes may become the lane.
    pub(super) fn is_wanted(&self) -> bool {
        self.open.is_none() && self.lanes.is_some()
    }

    /// Makes what came with the host's bytes the lane, if it can be one.
    pub(super) fn take(&mut self, memory: Option<OwnedFd>) {
        if let Some((lanes, memory)) = self.lanes.as_ref().zip(memory) {
            self.open = lanes.open(self.number, memory);
        }
    }

    /// Takes it away from the guest.
    pub(super) fn close(&mut self) {
        self.open = None;
    }
}
