//! Credit: how much of a data stream may be under way.
//!
//! Each data stream starts with [`INITIAL_CREDIT`] bytes, which is also the most there can ever be.
//! The sender spends them with the data that it sends; the receiver gives them back as the data goes
//! where it belongs. Small returns are held back until a quarter of a window has come together, so a
//! bulk transfer costs one `Credit` frame in 64 KiB; a sender always has the other three quarters.

use serde::{Deserialize, Serialize};

use crate::frame::{FrameError, Kind};

/// The credit that each data stream starts with, in bytes.
pub const INITIAL_CREDIT: u32 = 256 * 1024;

/// Returns of fewer bytes are held back.
const RETURN_THRESHOLD: u32 = INITIAL_CREDIT / 4;

/// The sender's account of one data stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendCredit {
    available: u32,
}

impl SendCredit {
    /// The account of a new session.
    #[must_use]
    pub fn new() -> Self {
        Self {
            available: INITIAL_CREDIT,
        }
    }

    /// Whether it can be an account at all, for one that comes from elsewhere.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.available <= INITIAL_CREDIT
    }

    /// How many bytes may be sent now.
    #[must_use]
    pub fn available(&self) -> usize {
        usize::try_from(self.available).unwrap_or(usize::MAX)
    }

    /// Takes what has been sent off the account.
    ///
    /// # Panics
    ///
    /// If more has been sent than was [`available`](Self::available): that is the caller's mistake.
    pub fn spend(&mut self, bytes: usize) {
        let left = u32::try_from(bytes)
            .ok()
            .and_then(|bytes| self.available.checked_sub(bytes));
        assert!(
            left.is_some(),
            "{bytes} bytes were sent with a credit of {}",
            self.available
        );
        self.available = left.unwrap_or(0);
    }

    /// Adds what the receiver granted by a frame of this kind.
    ///
    /// # Errors
    ///
    /// [`FrameError::CreditExceeded`] if that is more than a whole window.
    pub fn grant(&mut self, bytes: u32, kind: Kind) -> Result<(), FrameError> {
        match self.available.checked_add(bytes) {
            Some(sum) if sum <= INITIAL_CREDIT => {
                self.available = sum;
                Ok(())
            }
            Some(_) | None => Err(FrameError::CreditExceeded(kind)),
        }
    }
}

impl Default for SendCredit {
    fn default() -> Self {
        Self::new()
    }
}

/// The receiver's account of one data stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiveCredit {
    /// What the sender may still send.
    outstanding: u32,
    /// What has been consumed, and not been granted again yet.
    consumed: u32,
}

impl ReceiveCredit {
    /// The account of a new session.
    #[must_use]
    pub fn new() -> Self {
        Self {
            outstanding: INITIAL_CREDIT,
            consumed: 0,
        }
    }

    /// Whether it can be an account at all, for one that comes from elsewhere.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let sum = self.outstanding.checked_add(self.consumed);
        self.consumed < RETURN_THRESHOLD && sum.is_some_and(|sum| sum <= INITIAL_CREDIT)
    }

    /// Books data that arrived in a frame of this kind.
    ///
    /// # Errors
    ///
    /// [`FrameError::CreditExceeded`] if the sender had no credit for it.
    pub fn receive(&mut self, bytes: usize, kind: Kind) -> Result<(), FrameError> {
        let left = u32::try_from(bytes)
            .ok()
            .and_then(|bytes| self.outstanding.checked_sub(bytes));
        self.outstanding = left.ok_or(FrameError::CreditExceeded(kind))?;
        Ok(())
    }

    /// Books data that has gone where it belongs, and returns what to grant the sender now.
    #[must_use]
    pub fn consume(&mut self, bytes: usize) -> Option<u32> {
        let under_way = INITIAL_CREDIT - self.outstanding - self.consumed;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(under_way);
        self.consumed += bytes;
        if self.consumed < RETURN_THRESHOLD {
            return None;
        }
        let grant = self.consumed;
        self.outstanding += grant;
        self.consumed = 0;
        Some(grant)
    }
}

impl Default for ReceiveCredit {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn data_without_credit_is_refused() {
        let mut credit = ReceiveCredit::new();
        let window = usize::try_from(INITIAL_CREDIT).unwrap();
        credit.receive(window, Kind::Stdout).unwrap();
        assert_eq!(
            credit.receive(1, Kind::Stdout),
            Err(FrameError::CreditExceeded(Kind::Stdout))
        );
    }

    #[test]
    fn grant_beyond_a_window_is_refused() {
        let mut credit = SendCredit::new();
        credit.spend(10);
        let kind = Kind::OutputCredit;
        assert_eq!(
            credit.grant(11, kind),
            Err(FrameError::CreditExceeded(kind))
        );
        assert_eq!(
            credit.grant(u32::MAX, kind),
            Err(FrameError::CreditExceeded(kind))
        );
        assert_eq!(credit.grant(10, kind), Ok(()));
    }

    #[test]
    fn small_returns_are_held_back() {
        let mut credit = ReceiveCredit::new();
        credit.receive(100_000, Kind::Stdin).unwrap();
        assert_eq!(credit.consume(1000), None);
        assert_eq!(credit.consume(80_000), Some(81_000));
    }

    proptest! {
        /// Whatever is sent and consumed in whatever pieces: the accounts agree, and the sender is
        /// never without credit while the receiver has nothing left to consume.
        #[test]
        fn accounts_agree_and_never_stall(steps in prop::collection::vec((0usize..70_000, 0usize..70_000), 1..200)) {
            let mut send = SendCredit::new();
            let mut receive = ReceiveCredit::new();
            let mut waiting = 0;
            for (wanted, drained) in steps {
                let sent = wanted.min(send.available());
                send.spend(sent);
                receive.receive(sent, Kind::Stdout).unwrap();
                waiting += sent;
                let drained = drained.min(waiting);
                waiting -= drained;
                if let Some(grant) = receive.consume(drained) {
                    send.grant(grant, Kind::OutputCredit).unwrap();
                }
                prop_assert!(waiting > 0 || send.available() > 0);
            }
        }
    }
}
