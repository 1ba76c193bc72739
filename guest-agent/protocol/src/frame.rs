//! Frames: length, kind, payload.

/// Grows with every change that an older peer would misunderstand.
pub const PROTOCOL_VERSION: u16 = 1;
/// The vsock port on which the agent listens; and the host port to which it connects once, when it
/// is ready, for the first session.
pub const AGENT_PORT: u32 = 1024;
/// The most data bytes in one frame.
pub const MAX_DATA: usize = 64 * 1024;
/// The largest control message (an exec request with its arguments and environment), in bytes.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// The credit that each data stream starts with, in bytes.
pub const INITIAL_CREDIT: u32 = 256 * 1024;
