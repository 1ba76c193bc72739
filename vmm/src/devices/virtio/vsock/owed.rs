//! What a connection owes the guest.

use bitflags::bitflags;

bitflags! {
    /// Control packets that the guest is yet to get.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Owed: u8 {
        const REQUEST = 1;
        const RESPONSE = 2;
        const CREDIT_UPDATE = 4;
        const CREDIT_REQUEST = 8;
    }
}
