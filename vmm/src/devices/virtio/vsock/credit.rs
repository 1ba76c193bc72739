//! Credit: how many bytes each side may send before the other has room again (virtio 1.2, section
//! 5.10.6.3).
//!
//! Each side counts, modulo 2^32, the payload bytes that it has sent (`tx_cnt`) and those that it has
//! taken out of its receive buffer (`fwd_cnt`), and tells the other its `fwd_cnt` and the size of its
//! buffer (`buf_alloc`) in every header:
//!
//! ```text
//!     sender's tx_cnt - receiver's fwd_cnt  =  bytes under way or in the receiver's buffer
//!     buf_alloc - that                      =  what the sender may send
//! ```
//!
//! What the guest says here is checked: it cannot have taken out what was never sent, and it cannot
//! send more than it was given room for.

/// The guest has broken the rules of credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CreditViolation;

/// What we may send to the guest.
#[derive(Debug, Default)]
pub(super) struct SendCredit {
    /// Bytes sent so far.
    tx_cnt: u32,
    /// The guest's newest `fwd_cnt`. Invariant: at most as far behind `tx_cnt` as we had credit.
    fwd_cnt: u32,
    buf_alloc: u32,
}

impl SendCredit {
    /// Takes in the credit fields of a header from the guest.
    pub(super) fn update(&mut self, buf_alloc: u32, fwd_cnt: u32) -> Result<(), CreditViolation> {
        let advance = fwd_cnt.wrapping_sub(self.fwd_cnt);
        if advance <= self.in_flight() {
            self.fwd_cnt = fwd_cnt;
        } else if advance <= u32::MAX / 2 {
            return Err(CreditViolation);
        }
        // Otherwise it is behind what we know: two threads of the guest have put their packets into
        // the queue in another order than that in which they stamped them. Linux does that.
        self.buf_alloc = buf_alloc;
        Ok(())
    }

    /// How many bytes we may send now.
    pub(super) fn available(&self) -> u32 {
        // The guest may make its buffer smaller than what is in it.
        self.buf_alloc.saturating_sub(self.in_flight())
    }

    /// Counts bytes that were sent; at most what was available.
    pub(super) fn spend(&mut self, bytes: u32) {
        self.tx_cnt = self.tx_cnt.wrapping_add(bytes);
    }

    fn in_flight(&self) -> u32 {
        self.tx_cnt.wrapping_sub(self.fwd_cnt)
    }
}

/// What the guest may send to us.
#[derive(Debug)]
pub(super) struct ReceiveCredit {
    /// Our `buf_alloc`.
    window: u32,
    /// Payload bytes that have come from the guest.
    received: u32,
    /// Those of them that have gone to the host. Invariant: `received - fwd_cnt <= window`.
    fwd_cnt: u32,
    /// The `fwd_cnt` that the guest was last told.
    told: u32,
}

impl ReceiveCredit {
    pub(super) fn new(window: u32) -> Self {
        Self {
            window,
            received: 0,
            fwd_cnt: 0,
            told: 0,
        }
    }

    /// Counts payload that has come.
    pub(super) fn receive(&mut self, bytes: u32) -> Result<(), CreditViolation> {
        let room = self.window - self.received.wrapping_sub(self.fwd_cnt);
        if bytes > room {
            return Err(CreditViolation);
        }
        self.received = self.received.wrapping_add(bytes);
        Ok(())
    }

    /// Counts payload that has gone on to the host; at most what was received.
    pub(super) fn forward(&mut self, bytes: u32) {
        self.fwd_cnt = self.fwd_cnt.wrapping_add(bytes);
    }

    /// Whether the guest should be told of its credit even if nothing else is sent: it knows of at
    /// most half the window. Telling it more often costs packets, telling it later lets it stall.
    pub(super) fn update_due(&self) -> bool {
        self.fwd_cnt.wrapping_sub(self.told) >= self.window / 2
    }

    /// The credit fields (`buf_alloc`, `fwd_cnt`) for a header, which the guest will know then.
    pub(super) fn stamp(&mut self) -> (u32, u32) {
        self.told = self.fwd_cnt;
        (self.window, self.fwd_cnt)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn credit_is_what_is_allocated_less_what_is_in_flight() {
        let mut credit = SendCredit::default();
        credit.update(100, 0).unwrap();
        credit.spend(70);
        assert_eq!(credit.available(), 30);
        credit.update(100, 50).unwrap();
        assert_eq!(credit.available(), 80);
    }

    #[test]
    fn guest_that_has_consumed_what_was_never_sent_is_caught() {
        let mut credit = SendCredit::default();
        credit.update(100, 0).unwrap();
        credit.spend(70);
        assert_eq!(credit.update(100, 71), Err(CreditViolation));
        assert_eq!(credit.available(), 30);
    }

    #[test]
    fn stale_forward_count_is_no_violation_and_takes_no_credit_away() {
        let mut credit = SendCredit::default();
        credit.update(100, 0).unwrap();
        credit.spend(70);
        credit.update(100, 70).unwrap();
        credit.update(100, 40).unwrap();
        assert_eq!(credit.available(), 100);
    }

    #[test]
    fn shrunken_buffer_leaves_no_credit() {
        let mut credit = SendCredit::default();
        credit.update(100, 0).unwrap();
        credit.spend(70);
        credit.update(50, 0).unwrap();
        assert_eq!(credit.available(), 0);
        credit.update(50, 60).unwrap();
        assert_eq!(credit.available(), 40);
    }

    #[test]
    fn counters_wrap() {
        let mut credit = SendCredit {
            tx_cnt: u32::MAX - 10,
            fwd_cnt: u32::MAX - 10,
            buf_alloc: 0,
        };
        credit.update(100, u32::MAX - 10).unwrap();
        credit.spend(50);
        assert_eq!(credit.available(), 50);
        credit.update(100, 39).unwrap();
        assert_eq!(credit.available(), 100);

        let mut room = ReceiveCredit::new(100);
        room.received = u32::MAX - 10;
        room.fwd_cnt = u32::MAX - 10;
        room.receive(100).unwrap();
        assert_eq!(room.receive(1), Err(CreditViolation));
        room.forward(1);
        room.receive(1).unwrap();
    }

    #[test]
    fn guest_that_sends_more_than_the_window_is_caught() {
        let mut room = ReceiveCredit::new(100);
        room.receive(60).unwrap();
        assert_eq!(room.receive(41), Err(CreditViolation));
        room.receive(40).unwrap();
        room.forward(10);
        assert_eq!(room.receive(11), Err(CreditViolation));
        room.receive(10).unwrap();
    }

    #[test]
    fn guest_is_told_when_half_its_window_is_free_again_unknown_to_it() {
        let mut room = ReceiveCredit::new(100);
        room.receive(100).unwrap();
        room.forward(49);
        assert!(!room.update_due());
        room.forward(1);
        assert!(room.update_due());
        assert_eq!(room.stamp(), (100, 50));
        assert!(!room.update_due());
    }

    proptest! {
        /// Whatever the guest says, our bytes in flight never exceed the largest buffer it has
        /// ever claimed, and what is available never exceeds the one it claims now.
        #[test]
        fn credit_is_never_exceeded(
            updates in prop::collection::vec((0..200_000_u32, any::<u32>(), any::<bool>()), 1..100),
        ) {
            let mut credit = SendCredit::default();
            let mut largest = 0;
            for (buf_alloc, fwd_cnt, honest) in updates {
                let fwd_cnt = if honest { credit.tx_cnt } else { fwd_cnt };
                if credit.update(buf_alloc, fwd_cnt).is_ok() {
                    largest = largest.max(buf_alloc);
                }
                prop_assert!(credit.available() <= credit.buf_alloc);
                credit.spend(credit.available());
                prop_assert!(credit.in_flight() <= largest);
            }
        }
    }
}
