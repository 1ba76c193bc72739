//! What host and guest agent say to each other.
//!
//! One stream is one session, and one session is one request. The protocol asks of the stream only
//! that it keeps bytes in order: vsock, Unix socket, named pipe.
//!
//! ```text
//!  host                                     agent
//!   Hello, Request ───────────────────────▶          both sides say Hello at once; the host need
//!        ◀─────────────────────────────────  Hello   not wait for the agent's to send its request
//!        ◀───────────────────────────────── Started  the command runs (or Error: the last frame)
//!   Stdin* … StdinEof ────────────────────▶
//!        ◀───────────────────────── Stdout*, Stderr*
//!   Credit, CloseOutput, Signal, Resize ──▶
//!        ◀────────────────────── Credit, StdinClosed
//!        ◀─────────────────────────────────  Exited  the last frame: all output came before it
//! ```
//!
//! * **Frames** ([`frame`]): 8 bytes of header, then the payload. A frame of an unknown kind, one that
//!   is larger than its kind may be, or one that cannot be decoded ends that session and nothing else.
//! * **Credit** ([`credit`]): each of the three data streams has a window of its own. A stalled reader
//!   of standard output stalls neither standard error nor input, signals or the exit report, and
//!   neither side ever holds more than a window for each.
//! * **End**: the host never half-closes the stream. When it closes it, the agent kills the whole
//!   process tree of the command.
//!
//! This crate does no I/O and has no unsafe code; [`boot`] holds the other thing that a host tells a
//! guest's init: the parameters on the kernel command line.

#![forbid(unsafe_code)]

pub mod boot;
pub mod bridge;
pub mod cgroup;
pub mod credit;
pub mod files;
pub mod frame;
pub mod from_agent;
pub mod from_host;
pub mod limits;
pub mod local;
pub mod message;
pub mod reader;
pub mod usage;
pub mod writer;
