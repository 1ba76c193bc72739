//! What the owner of a VMM process and the VMM say to each other.
//!
//! The owner starts `sovereign-vmm` with one end of a `SOCK_SEQPACKET` Unix socket pair as file
//! descriptor [`CONTROL_FD`]; each packet is one message in JSON, and may carry one descriptor
//! (`SCM_RIGHTS`). The first packet is [`Command::Start`]. When the owner's end closes, for whatever
//! reason, the VMM ends: a machine never outlives its owner, and nothing of it is in the file system.

use serde::{Deserialize, Serialize};

use crate::config::MachineConfig;

/// The descriptor on which a VMM process finds its control socket.
pub const CONTROL_FD: i32 = 3;

/// The largest control message, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// What the owner tells the VMM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// Build the machine and run it. Only as the first message.
    Start {
        /// The machine.
        config: Box<MachineConfig>,
    },
    /// The descriptor that comes with this message is a connected stream socket: the other end of
    /// the connection that the guest will make to host port `port` (each is used once, in order).
    Accept {
        /// The host port that the guest connects to.
        port: u32,
    },
    /// The descriptor that comes with this message is a connected stream socket: join it to a new
    /// connection to guest port `port`. It is closed if the guest refuses.
    Connect {
        /// The guest port to connect to.
        port: u32,
    },
    /// The descriptor that comes with this message is the writing end of a pipe that never blocks:
    /// what the guest writes to its console goes there as well, line by line. What the pipe does not
    /// take is lost, and that is told in its place.
    Console,
    /// Stop the vCPUs until [`Command::Resume`].
    Pause,
    /// Let the vCPUs go on.
    Resume,
    /// End the machine at once.
    Stop,
}

/// What the VMM tells its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The machine is built and its first instruction is about to run.
    Started {
        /// Where the time until now went.
        trace: Vec<TracePoint>,
    },
    /// The vCPUs stand still.
    Paused,
    /// The vCPUs run again.
    Resumed,
    /// The machine could not be built, or the host failed it. The last message.
    Failed {
        /// What was being done and why it failed: one line, without a full stop.
        message: String,
        /// What the user can do about it, if we know.
        hint: Option<String>,
    },
    /// The machine has ended. The last message.
    Stopped {
        /// Why.
        reason: StopReason,
        /// The newest part of what the guest wrote to its console.
        console: String,
    },
}

/// Why a machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum StopReason {
    /// The guest switched itself off.
    PowerOff,
    /// The guest asked for a reset: for our guests, the sign of a kernel panic.
    Reset,
    /// A vCPU made a triple fault.
    TripleFault,
    /// The owner sent [`Command::Stop`].
    Requested,
    /// KVM could not go on with a vCPU.
    CpuFailed {
        /// KVM's exit, sub-error, instruction pointer and instruction bytes.
        detail: String,
    },
}

/// A moment on the way to the guest's first instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracePoint {
    /// What has just been finished.
    pub name: String,
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub monotonic_ns: u64,
}
