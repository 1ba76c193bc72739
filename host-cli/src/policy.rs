//! What the user allows: which tier, how much isolation at least, and whether the host itself may
//! run the command.

use serde::{Deserialize, Serialize};

use crate::tier::{Isolation, Tier};

/// What a sandbox may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Policy {
    /// The tier that is wanted; the strongest that this machine has without one. A tier that is
    /// named here is had or the start fails: never is another one taken.
    pub tier: Option<Tier>,
    /// The floor, which nothing lowers.
    pub min_isolation: Isolation,
    /// Consent to run on the host itself when no other tier can be had. Naming the tier `local` is
    /// consent too.
    pub allow_local: bool,
}
