//! What host and agent say on the control socket of the local tier, where the agent is a process of
//! the host.
//!
//! ```text
//!  host                                  agent
//!   Setup ─────────────────────────────▶  isolates itself, as far as the kernel lets it
//!         ◀─────────────────────────────  Standing: confined, or plain and why
//!   a stream (SCM_RIGHTS) ─────────────▶  serves a session on it; so for every session
//! ```
//!
//! The socket is one of packets (`SOCK_SEQPACKET`), one message each; a packet that carries a stream
//! has the one byte [`STREAM`]. When the host closes it, the agent ends with all that it runs.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The most bytes of one message: a path (`PATH_MAX`), and room for the rest.
pub const MAX_MESSAGE: usize = 8192;

/// The byte of a packet that carries a stream.
pub const STREAM: u8 = b's';

/// What the agent is to make of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// How much the commands may write to files, all together, in MiB.
    pub writable_mib: u32,
    /// A folder in which what they write is kept, of this user alone; then nothing but this machine's
    /// disk bounds it.
    pub keep: Option<Vec<u8>>,
    /// The name that the sandbox has for itself.
    pub hostname: String,
    /// A folder of Python modules that the commands shall find.
    pub modules: Option<Vec<u8>>,
    /// How many processes and threads there may be.
    pub processes: u32,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Namespaces (user, mount, process, network, IPC, name), a root of its own, no privileges and a
    /// system call filter are in force.
    Confined {
        /// Whether Landlock is, too.
        landlock: bool,
    },
    /// Nothing is in force: commands can do what the agent's user can.
    Plain(Shortfall),
}

/// Why an agent could not be confined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortfall {
    /// What was being done.
    pub step: ConfineStep,
    /// What it was about: a path, or nothing.
    pub about: String,
    /// The kernel's error number, 0 without one.
    pub errno: i32,
}

/// The steps of confinement, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConfineStep {
    /// Making new namespaces.
    Namespaces,
    /// Mapping users and groups into the new user namespace.
    Users,
    /// Putting the file system together.
    Files,
    /// Mounting `/proc`.
    Proc,
    /// Host name and loopback device.
    Network,
    /// Giving up capabilities, and setting limits.
    Privileges,
    /// The Landlock rule set.
    Landlock,
    /// The system call filter.
    Filter,
}

impl fmt::Display for ConfineStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespaces => "making namespaces",
            Self::Users => "mapping users into a user namespace",
            Self::Files => "putting a root file system together",
            Self::Proc => "mounting /proc",
            Self::Network => "setting host name and loopback up",
            Self::Privileges => "giving up privileges",
            Self::Landlock => "applying a Landlock rule set",
            Self::Filter => "applying a system call filter",
        })
    }
}

/// A message of the control socket that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of the local tier makes no sense")]
pub struct Unintelligible;

/// A message as bytes. Empty if it is larger than [`MAX_MESSAGE`], which its reader refuses.
#[must_use]
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let bytes = postcard::to_allocvec(message).unwrap_or_default();
    if bytes.len() > MAX_MESSAGE {
        return Vec::new();
    }
    bytes
}

/// Reads a message.
///
/// # Errors
///
/// [`Unintelligible`] if it is none.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unintelligible> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok(_) | Err(_) => Err(Unintelligible),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_read_back() {
        let setup = Setup {
            writable_mib: 256,
            keep: None,
            hostname: "sandbox".to_owned(),
            modules: Some(b"/home/me/m".to_vec()),
            processes: 4096,
        };
        assert_eq!(decode(&encode(&setup)), Ok(setup));
        let plain = Standing::Plain(Shortfall {
            step: ConfineStep::Proc,
            about: "/proc".to_owned(),
            errno: 1,
        });
        assert_eq!(decode(&encode(&plain)), Ok(plain));
    }

    #[test]
    fn what_follows_a_message_is_refused() {
        let mut bytes = encode(&Standing::Confined { landlock: true });
        bytes.push(0);
        assert_eq!(decode::<Standing>(&bytes), Err(Unintelligible));
        assert_eq!(decode::<Standing>(&[]), Err(Unintelligible));
    }

    #[test]
    fn a_message_that_is_too_large_is_none() {
        let setup = Setup {
            writable_mib: 1,
            keep: None,
            hostname: "x".repeat(MAX_MESSAGE),
            modules: None,
            processes: 4096,
        };
        assert!(encode(&setup).is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode::<Standing>(&bytes);
            let _ = decode::<Setup>(&bytes);
        }
    }
}
