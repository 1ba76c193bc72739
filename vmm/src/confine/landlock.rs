//! No file system, no network, no other process: Landlock.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, PathFdError, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

/// The newest interface that is asked for; older kernels enforce what they know of it. It has all
/// access to files, TCP, and (from Linux 6.12 on) abstract sockets and signals.
const NEWEST: ABI = ABI::V6;

/// The host has Landlock and did not enforce it.
#[derive(Debug, thiserror::Error)]
pub enum LandlockError {
    /// A rule set was refused.
    #[error("applying a Landlock rule set")]
    Ruleset(#[from] RulesetError),
    /// The socket's folder could not be opened.
    #[error("opening the folder of the vsock device's socket")]
    Folder(#[from] PathFdError),
}

/// Denies everything that Landlock governs. What is open stays usable.
///
/// `socket_path` may still be removed: the vsock device has made it. Returns whether the host's kernel
/// enforces anything of it.
pub(super) fn restrict(socket_path: Option<&Path>) -> Result<bool, LandlockError> {
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    if let Some(folder) = socket_path.and_then(Path::parent) {
        let folder = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        let rule = PathBeneath::new(PathFd::new(folder)?, AccessFs::RemoveFile);
        ruleset = ruleset.add_rule(rule)?;
    }
    Ok(ruleset.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}
