//! What the VMM gives up before the guest's first instruction.
//!
//! A guest that takes over the VMM through a device finds a process that
//! - has no capabilities and can gain none,
//! - can open no file, and reach no network or other process (Landlock, where the host has it),
//! - can make only the system calls of the thread it took over, with the arguments that thread needs
//!   (seccomp); any other kills the process,
//! - holds no descriptors but those of its own machine, and leaves no core dump.

mod descriptors;
mod filters;
mod landlock;
mod privileges;
mod program;
mod rules;

pub use descriptors::{Inherited, InheritedError};
pub use filters::{FilterError, Filters, PathSockets};
pub use landlock::LandlockError;
pub use privileges::PrivilegeError;
pub use program::ProgramError;

use std::path::Path;

use crate::machine::ThreadRole;

/// The process cannot be confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// Privileges could not be given up.
    #[error("giving up privileges")]
    Privileges(#[from] PrivilegeError),
    /// Landlock failed, though the host has it.
    #[error("closing off the file system")]
    Landlock(#[from] LandlockError),
    /// System call filters could not be made.
    #[error("making system call filters")]
    Filters(#[from] FilterError),
}

/// What the host could do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strength {
    /// All of it.
    Full,
    /// All but Landlock, which the host's kernel lacks or has switched off.
    NoLandlock,
}

/// Confines the calling thread and all that it starts from now on, but for system calls, which each
/// thread restricts for itself ([`Filters`]).
///
/// `socket_path` is the vsock device's, whose socket is to be removed in the end.
///
/// # Errors
/// When the host refuses a step that it should not.
pub fn confine_process(socket_path: Option<&Path>) -> Result<Strength, ConfineError> {
    privileges::give_up()?;
    let strength = if landlock::restrict(socket_path)? {
        Strength::Full
    } else {
        Strength::NoLandlock
    };
    Ok(strength)
}

impl Filters {
    /// Restricts the calling thread to what its role needs. Ends the process if the host refuses: the
    /// guest must not run in an open thread.
    pub fn enter(&self, role: ThreadRole) {
        if let Err(error) = self.apply(role) {
            eprintln!("sovereign-vmm: cannot confine a thread: {error}");
            std::process::abort();
        }
    }
}
