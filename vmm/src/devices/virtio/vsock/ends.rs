//! Which directions of a connection are over, and who has to be told.

use super::spec::{SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

/// The two directions of a connection, each of which either side can end.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// What the guest has ended, as `SHUTDOWN_*` seen from the guest.
    guest: u32,
    /// What the guest was told that the host has ended, as `SHUTDOWN_*` seen from the host.
    told: u32,
    /// The host sends no more, and all that it sent was read.
    host_eof: bool,
    /// The host takes no more.
    host_deaf: bool,
}

impl Ends {
    /// Takes in the flags of a SHUTDOWN, which add up. Returns whether the guest is done altogether.
    pub(super) fn guest_shuts_down(&mut self, flags: u32) -> bool {
        self.guest |= flags & SHUTDOWN_BOTH;
        self.guest == SHUTDOWN_BOTH
    }

    /// The host sends no more, and all that it sent was read.
    pub(super) fn host_is_at_eof(&mut self) {
        self.host_eof = true;
    }

    /// The host takes no more.
    pub(super) fn host_hears_no_more(&mut self) {
        self.host_deaf = true;
    }

    /// Whether the guest said that it sends no more.
    pub(super) fn guest_is_at_eof(&self) -> bool {
        self.guest & SHUTDOWN_SEND != 0
    }

    /// Whether the guest said that it takes no more.
    pub(super) fn guest_is_deaf(&self) -> bool {
        self.guest & SHUTDOWN_RECEIVE != 0
    }

    pub(super) fn host_is_deaf(&self) -> bool {
        self.host_deaf
    }

    /// Whether bytes can still go from the host to the guest.
    pub(super) fn to_guest_is_open(&self) -> bool {
        !self.host_eof && !self.guest_is_deaf()
    }

    /// Whether the guest does not know all yet that the host has ended.
    pub(super) fn news(&self) -> bool {
        self.flags() & !self.told != 0
    }

    /// The flags for a SHUTDOWN that tells the guest, which it knows then. Returns whether they say
    /// that the connection is over.
    pub(super) fn tell(&mut self) -> (u32, bool) {
        self.told = self.flags();
        (self.told, self.told == SHUTDOWN_BOTH)
    }

    /// What the guest should know of what the host has ended.
    fn flags(&self) -> u32 {
        let to_guest_is_over = !self.to_guest_is_open();
        let to_host_is_over = self.host_deaf || self.guest_is_at_eof();
        match (self.host_eof, self.host_deaf) {
            // When both directions are over, by whomever, the connection is.
            (true, _) | (_, true) if to_guest_is_over && to_host_is_over => SHUTDOWN_BOTH,
            (true, _) => SHUTDOWN_SEND,
            (_, true) => SHUTDOWN_RECEIVE,
            (false, false) => 0,
        }
    }
}
