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
#[cfg(target_os = "linux")]
pub mod contract;
#[cfg(target_os = "linux")]
mod deadline;
#[cfg(target_os = "linux")]
pub mod detached;
#[cfg(target_os = "linux")]
pub mod engine;
pub mod error;
#[cfg(target_os = "linux")]
pub mod host;
#[cfg(target_os = "linux")]
pub mod installation;
#[cfg(target_os = "linux")]
pub mod launch;
pub mod name;
#[cfg(target_os = "linux")]
mod orphans;
pub mod policy;
#[cfg(target_os = "linux")]
pub mod prune;
#[cfg(target_os = "linux")]
pub mod registry;
#[cfg(target_os = "linux")]
pub mod sandbox;
pub mod spec;
#[cfg(target_os = "linux")]
pub mod supervisor;
pub mod tier;
#[cfg(target_os = "linux")]
pub mod timeline;

#[cfg(target_os = "linux")]
pub use agent_client::{
    Child, ChildStdin, ClientError, Exec, Finished, InputSource, Output, OutputTarget, PumpIo,
};
pub use agent_protocol::message::{AgentError, ExecRequest, ExitReport};

#[cfg(target_os = "linux")]
pub use self::engine::{Engine, StartError};
#[cfg(target_os = "linux")]
pub use self::launch::Launch;
pub use self::policy::Policy;
#[cfg(target_os = "linux")]
pub use self::sandbox::{ExecError, Sandbox};
pub use self::spec::{ImageChoice, SandboxSpec};
pub use self::tier::{Isolation, Tier};
#[cfg(target_os = "linux")]
pub use self::timeline::Timeline;
