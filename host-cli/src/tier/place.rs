//! Where a sandbox is, as it is told and recorded.

use serde::{Deserialize, Serialize};

use super::choose::{self, Choice};
use super::facts::Unavailable;
use super::{Isolation, Tier};
use crate::error::ErrorKind;

/// Where a sandbox is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The tier.
    pub tier: Tier,
    /// The isolation that it reached.
    pub isolation: Isolation,
    /// If that is less than the tier reaches elsewhere: why.
    pub shortfall: Option<String>,
    /// Why stronger tiers were passed over, when it was first started.
    pub passed_over: Vec<PassedOver>,
}

/// A tier that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PassedOver {
    /// The tier.
    pub tier: Tier,
    /// Why, in a word for programs.
    pub code: ErrorKind,
    /// Why, for people.
    pub cause: String,
    /// What to do about it, if anything can be done.
    pub remedy: Option<String>,
}

impl From<&Choice> for Place {
    fn from(choice: &Choice) -> Self {
        Self {
            tier: choice.tier,
            isolation: choice.isolation,
            shortfall: choice.shortfall.as_ref().map(|reason| reason.cause.clone()),
            passed_over: choice.passed_over.iter().map(PassedOver::from).collect(),
        }
    }
}

impl From<&PassedOver> for choose::PassedOver {
    fn from(over: &PassedOver) -> Self {
        Self {
            tier: over.tier,
            reason: Unavailable {
                code: over.code,
                cause: over.cause.clone(),
                remedy: over.remedy.clone(),
            },
        }
    }
}

impl From<&choose::PassedOver> for PassedOver {
    fn from(over: &choose::PassedOver) -> Self {
        Self {
            tier: over.tier,
            code: over.reason.code,
            cause: over.reason.cause.clone(),
            remedy: over.reason.remedy.clone(),
        }
    }
}
