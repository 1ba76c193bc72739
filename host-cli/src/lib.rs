//! Runs untrusted code in the strongest sandbox that this machine really has.
//!
//! ```text
//!  Policy, SandboxSpec ─▶ Engine ─▶ choose(Policy, Facts) ─▶ Tier ─▶ Sandbox ─▶ Exec ─▶ exit report
//! ```
//!
//! ```no_run
//! use sovereign::Sandbox;
//!
//! let mut sandbox = Sandbox::builder().memory_mib(256).start()?;
//! let output = sandbox.command("python3").args(["-c", "print(6 * 7)"]).output()?;
//! assert_eq!(output.stdout, b"42\n");
//! // Dropping the sandbox ends it; nothing of it is left.
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What an embedder needs
//!
//! - The crate without the command line: `default-features = false`, and the feature `async` for
//!   tokio.
//! - Two programs at run time: `sovereign-vmm` (the monitor of a virtual machine) and
//!   `sovereign-agent` (which tier `local` and containers start). They are looked for beside the running
//!   program, in `../libexec/sovereign`, and likewise along the `PATH`, where `make install` puts
//!   them; `SOVEREIGN_VMM` and `SOVEREIGN_AGENT` name others. A detached sandbox also needs the
//!   program `sovereign` (`SOVEREIGN_PROGRAM`), which is its supervisor.
//! - An image for all tiers but `local`: `sovereign image build` once.
//! - [`SandboxBuilder::allow_local`], if the machine itself will do where nothing better can be had.
//!   That is the library's consent: the variable and the file that the command reads mean nothing here.
//!
//! [`engine::Engine`] chooses a tier and starts a [`sandbox::Sandbox`] in it; commands run in the
//! sandbox through the agent. The `sovereign` program ([`cli`]) holds no logic beyond what it takes
//! to talk to a person.

#[cfg(all(target_os = "linux", feature = "async"))]
pub mod asynchronous;
#[cfg(target_os = "linux")]
pub mod builder;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(target_os = "linux")]
pub mod command;
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
pub mod files;
#[cfg(target_os = "linux")]
pub mod host;
#[cfg(target_os = "linux")]
pub mod installation;
#[cfg(target_os = "linux")]
pub mod launch;
#[cfg(target_os = "linux")]
mod lock;
pub mod name;
#[cfg(target_os = "linux")]
mod orphans;
#[cfg(target_os = "linux")]
mod owner;
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
pub mod usage;

#[cfg(target_os = "linux")]
pub use agent_client::{
    Child, ChildStdin, ClientError, Exec, Files, FilesError, Finished, InputSource, Output,
    OutputTarget, PumpIo,
};
pub use agent_protocol::limits::{Resource, ResourceLimit};
pub use agent_protocol::message::{
    AgentError, ExecRequest, ExitReport, OutputStream, TerminalSize,
};
pub use agent_protocol::usage::{CountedBy, Usage};

#[cfg(target_os = "linux")]
pub use self::builder::SandboxBuilder;
#[cfg(target_os = "linux")]
pub use self::command::{Command, CommandError};
#[cfg(target_os = "linux")]
pub use self::detached::{Detached, DetachedError};
#[cfg(target_os = "linux")]
pub use self::engine::{Engine, StartError};
pub use self::error::{ErrorKind, Problem};
#[cfg(target_os = "linux")]
pub use self::launch::Launch;
pub use self::policy::Policy;
#[cfg(target_os = "linux")]
pub use self::sandbox::{ExecError, Sandbox};
pub use self::spec::{ImageChoice, Network, SandboxSpec};
pub use self::tier::{Isolation, Tier};
#[cfg(target_os = "linux")]
pub use self::timeline::Timeline;
#[cfg(target_os = "linux")]
pub use self::usage::{HostUsage, Stats};
