//! What `--json` prints, where it is more than one command's: the types are the documentation.
//!
//! A result is one document on standard output; what comes bit by bit (events, logs, measurements,
//! files) is one object a line. An error has the same form everywhere ([`Problem`]). From these
//! types the schemas in `docs/json` are made, and a test ([`schema`]) holds the two together.

mod file;
mod inspected;
mod result;
#[cfg(test)]
mod schema;

use serde::Serialize;

use crate::error::Problem;
use crate::registry::record::Record;
use crate::registry::{Id, Name};
use crate::tier::{Isolation, Tier};

pub(super) use self::file::{Change, Content, Done, Entry, FileTold, Happened, Written, modified};
pub(super) use self::inspected::Inspected;
pub(super) use self::result::{Bytes, Encoding, RunReport};

/// What became of each sandbox that was named, in this order.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Told<T> {
    /// The sandbox, as it was named.
    pub(super) sandbox: String,
    /// What was done, if it could be.
    #[serde(flatten)]
    pub(super) done: Option<T>,
    /// Why it could not be done.
    pub(super) error: Option<Problem>,
}

/// Who a sandbox is, and where it runs.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Identity {
    /// Its id.
    pub(super) id: Id,
    /// Its name.
    pub(super) name: Name,
    /// Its tier, once it has been started.
    pub(super) tier: Option<Tier>,
    /// The isolation that it reached.
    pub(super) isolation: Option<Isolation>,
}

/// How a sandbox ended, or one of its commands.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Ended {
    /// The exit code that stands for it; none for what had not ended, or not run at all.
    pub(super) exit_code: Option<u8>,
    /// How, for people.
    pub(super) ending: Option<String>,
}

/// Whether a sandbox was removed.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Removed {
    /// With `--force`, a sandbox that is not there is no error.
    pub(super) removed: bool,
}

/// The number of a command that runs on.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Number {
    /// Its number in its sandbox.
    pub(super) command: u32,
}

impl Identity {
    pub(super) fn of(record: Record) -> Self {
        Self {
            id: record.id,
            name: record.name,
            tier: record.place.as_ref().map(|place| place.tier),
            isolation: record.place.as_ref().map(|place| place.isolation),
        }
    }
}
