//! How an agent is reached that no socket of the host leads to: by programs that a container engine
//! starts beside it, with their standard streams attached.

/// The name of the agent's socket, abstract (unix(7)): it is in the network namespace alone.
pub const SOCKET: &str = "sovereign-agent";

/// What the agent says on its standard output when it can be joined.
pub const READY: &[u8] = b"ready\n";
