//! The way to a container's agent, while there is one. Closing it ends the agent.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use agent_protocol::local::STREAM;

use super::bridge::Bridge;
use crate::tier::packets;

/// The way.
#[derive(Debug)]
pub(super) enum Door {
    /// Our end of the control socket that the agent has connected to.
    Control(OwnedFd),
    /// Through the daemon's API.
    Bridge(Bridge),
}

impl Door {
    /// A stream to the agent, for one session; `None` if nobody is behind the door any more.
    pub(super) fn stream(&self) -> io::Result<Option<UnixStream>> {
        let (stream, passed) = UnixStream::pair()?;
        let is_taken = match self {
            Self::Control(control) => {
                packets::send(control, &[STREAM], Some(passed.as_fd())).is_ok()
            }
            Self::Bridge(bridge) => bridge.carry(passed),
        };
        Ok(is_taken.then_some(stream))
    }
}
