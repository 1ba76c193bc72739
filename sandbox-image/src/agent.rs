//! The agent's binary, looked at before it becomes the init of a guest.
//!
//! An init that cannot start shows as a kernel panic in a guest that nobody sees. So what can be
//! checked is checked when the image is built.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::tool::{self, ToolError};

/// How long the agent may take to say its version.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// How an ELF file begins.
const ELF_MAGIC: &[u8] = b"\x7FELF";

/// ELF-64 Object File Format: where `e_phoff`, `e_phentsize` and `e_phnum` are in the file's header.
const PROGRAM_HEADERS_AT: usize = 0x20;
const PROGRAM_HEADER_SIZE_AT: usize = 0x36;
const PROGRAM_HEADER_COUNT_AT: usize = 0x38;

/// The type of the program header that names a dynamic linker.
const PT_INTERP: u32 = 3;

/// An agent that can be an init.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// The file.
    pub bytes: Vec<u8>,
    /// Its release.
    pub release: String,
    /// The version of the protocol it speaks, if it says so.
    pub protocol: Option<u16>,
}

/// A file cannot be the agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It could not be read.
    #[error("cannot read the agent {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no program for Linux.
    #[error("the agent {path} is no ELF file", path = path.display())]
    OtherFormat {
        /// The file.
        path: PathBuf,
    },
    /// It needs libraries, which an initramfs does not have.
    #[error(
        "the agent {path} is not static and cannot be a guest's init; build it with: \
         cargo build --release --target x86_64-unknown-linux-musl --package guest-agent",
        path = path.display()
    )]
    Dynamic {
        /// The file.
        path: PathBuf,
    },
    /// It does not start.
    #[error("the agent {path} does not say its version", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// How it ended.
        #[source]
        source: ToolError,
    },
    /// It is another program.
    #[error("{path} is not the agent: its version is `{text}`", path = path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// What it says.
        text: String,
    },
}

impl Agent {
    /// Reads and checks the agent's binary.
    ///
    /// # Errors
    /// If it could not be a guest's init.
    pub fn load(path: &Path) -> Result<Self, AgentError> {
        let path = path.to_owned();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) => return Err(AgentError::Io { path, source }),
        };
        match needs_linker(&bytes) {
            None => return Err(AgentError::OtherFormat { path }),
            Some(true) => return Err(AgentError::Dynamic { path }),
            Some(false) => {}
        }
        let (release, protocol) = version(&path)?;
        Ok(Self {
            bytes,
            release,
            protocol,
        })
    }
}

/// The release of an agent, and the version of the protocol that it speaks, if it says so.
///
/// # Errors
/// If it does not start, or is another program.
pub fn version(path: &Path) -> Result<(String, Option<u16>), AgentError> {
    let path = path.to_owned();
    let mut ask = Command::new(&path);
    let text = match tool::output(ask.arg("--version"), VERSION_LIMIT) {
        Ok(text) => text,
        Err(source) => return Err(AgentError::Version { path, source }),
    };
    parse_version(&text).ok_or_else(|| AgentError::Other {
        path,
        text: text.trim().to_owned(),
    })
}

/// Reads `sovereign-agent RELEASE`, with `protocol N` after it if the agent says that.
fn parse_version(text: &str) -> Option<(String, Option<u16>)> {
    let mut words = text
        .split(|c: char| c.is_whitespace() || "(),".contains(c))
        .filter(|word| !word.is_empty());
    if words.next()? != "sovereign-agent" {
        return None;
    }
    let release = words.next()?.to_owned();
    let protocol = words
        .by_ref()
        .find(|word| *word == "protocol")
        .and_then(|_| words.next()?.parse().ok());
    Some((release, protocol))
}

/// Whether an ELF file names a dynamic linker. `None`: it is no (whole) ELF-64 file.
fn needs_linker(bytes: &[u8]) -> Option<bool> {
    if !bytes.starts_with(ELF_MAGIC) {
        return None;
    }
    let offset = u64::from_le_bytes(*bytes.get(PROGRAM_HEADERS_AT..)?.first_chunk()?);
    let offset = usize::try_from(offset).ok()?;
    let short = |at: usize| Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let size = usize::from(short(PROGRAM_HEADER_SIZE_AT)?);
    let count = usize::from(short(PROGRAM_HEADER_COUNT_AT)?);
    let headers = bytes.get(offset..)?.get(..size.checked_mul(count)?)?;
    if size < size_of::<u32>() {
        return None;
    }
    let types = headers
        .chunks_exact(size)
        .filter_map(|header| Some(u32::from_le_bytes(*header.first_chunk()?)));
    Some(types.into_iter().any(|kind| kind == PT_INTERP))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn version_is_read_with_and_without_protocol() {
        assert_eq!(
            parse_version("sovereign-agent 0.1.0\n"),
            Some(("0.1.0".to_owned(), None))
        );
        assert_eq!(
            parse_version("sovereign-agent 0.2.0 (protocol 7)\n"),
            Some(("0.2.0".to_owned(), Some(7)))
        );
        assert_eq!(parse_version("bash 5.2"), None);
        assert_eq!(parse_version(""), None);
    }

    #[test]
    fn dynamic_program_is_refused_with_the_command_that_builds_a_static_one() {
        let error = Agent::load(&std::env::current_exe().unwrap()).unwrap_err();
        assert!(matches!(error, AgentError::Dynamic { .. }), "{error}");
        assert!(error.to_string().contains("linux-musl"), "{error}");
    }

    #[test]
    fn script_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent");
        fs::write(&path, "#!/bin/sh\necho sovereign-agent 1\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let error = Agent::load(&path).unwrap_err();
        assert!(matches!(error, AgentError::OtherFormat { .. }), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_after_the_magic_are_looked_at_without_a_panic(bytes: Vec<u8>) {
            let file = [ELF_MAGIC, &bytes].concat();
            let _ = needs_linker(&file);
        }

        #[test]
        fn any_version_text_is_read_or_refused(text: String) {
            let _ = parse_version(&text);
        }
    }
}
