//! Runs untrusted code in the strongest sandbox that this machine really has.
//!
//! ```text
//!  Policy, SandboxSpec ─▶ Engine ─▶ choose(Policy, Facts) ─▶ Tier ─▶ Sandbox ─▶ Exec ─▶ exit report
//! ```
//!
//! [`engine::Engine`] chooses a tier and starts a [`sandbox::Sandbox`] in it; commands run in the
//! sandbox through the agent. The `sovereign` program ([`cli`]) holds no logic beyond what it takes
//! to talk to a person.

#[cfg(feature = "cli")]
pub mod cli;
pub mod contract;
mod deadline;
pub mod engine;
pub mod error;
pub mod installation;
mod orphans;
pub mod policy;
pub mod sandbox;
pub mod spec;
pub mod tier;
pub mod timeline;

pub use agent_client::{ClientError, Exec, Finished, InputSource, Output, OutputTarget, PumpIo};
pub use agent_protocol::message::{ExecRequest, ExitReport};

pub use self::engine::{Engine, StartError};
pub use self::policy::Policy;
pub use self::sandbox::{ExecError, Sandbox};
pub use self::spec::{ImageChoice, Launch, SandboxSpec};
pub use self::tier::{Isolation, Tier};
pub use self::timeline::Timeline;
