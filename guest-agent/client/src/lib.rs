//! The host's side of a conversation with the guest agent.
//!
//! ```text
//!   SessionOptions ─▶ Session ──exec──▶ Exec ──┬─ pump    command line: own descriptors, live
//!                       │                      ├─ output  collected, bounded
//!                       ├─ files               └─ spawn   a child with readable and writable ends
//!                       ├─ ping
//!                       └─ power_off
//! ```
//!
//! [`Conversation`](conversation::Conversation) is the protocol's host half as a state machine that
//! does no I/O; the rest moves its bytes between descriptors, in one thread, by `poll`. A session
//! needs a connected stream socket and nothing else, so one client serves every tier.

#![forbid(unsafe_code)]

pub mod conversation;
pub mod error;
#[cfg(target_os = "linux")]
pub mod linux;

#[cfg(target_os = "linux")]
pub use agent_archive::ArchiveError;
#[cfg(target_os = "linux")]
pub use agent_archive::lane::{LANE_LEN, number_of_guest_port, number_of_host_port};
pub use conversation::Handover;
pub use error::ClientError;
#[cfg(target_os = "linux")]
pub use linux::{
    child::{Child, ChildStdin},
    control::{Control, ControlReceiver, ControlSender, control_channel},
    detach::DetachKeys,
    files::{Files, FilesError, Meter},
    output::Output,
    pump::{Finished, Moments, PumpIo},
    session::{Exec, Pumped, Session, SessionOptions},
    sink::{OutputTarget, Taker},
    source::InputSource,
};
