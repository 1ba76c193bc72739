//! A machine: built from a [`MachineConfig`](crate::config::MachineConfig), started once, ended for a
//! [`StopReason`](crate::control::StopReason).
//!
//! ```text
//!   Machine::build ──▶ Machine ── start ──▶ Running ── wait ──▶ StopReason
//!                          │                   │
//!                          └── handle ─────────┴──▶ MachineHandle: pause, resume, stop, console,
//!                                                   streams; from any thread
//! ```
//!
//! The thread that calls [`Running::wait`] is the machine's I/O thread: it serves the devices that
//! have no thread of their own.

mod board;
mod build;
mod error;
mod files;
mod running;
mod trace;

pub use build::Machine;
pub use error::MachineError;
pub use running::{EventLoop, MachineHandle, Running};
pub use trace::Trace;

/// What a thread of a machine is for, and so what it needs of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ThreadRole {
    /// Runs a vCPU.
    Vcpu,
    /// Serves the devices without a thread of their own.
    Io,
    /// Serves a disk.
    Disk,
}
