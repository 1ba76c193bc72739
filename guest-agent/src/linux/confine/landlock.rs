//! Landlock, as a second wall around the files.
//!
//! The namespace's root holds nothing that commands may not see. Should one come by a way out of it, it
//! finds that it may use only what lies below that root, and write only where it could before.

use ::landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope,
};
use agent_protocol::local::{ConfineStep, Shortfall};
use rustix::io::Errno;

use super::shortfall;

/// The newest interface that is asked for; older kernels enforce what they know of it.
const NEWEST: ABI = ABI::V6;
/// What commands may write to, as far as file permissions let them.
const WRITABLE: [&str; 5] = ["/tmp", "/var/tmp", "/home/sandbox", "/dev", "/proc"];

/// Applies the rules. Returns whether the kernel enforces anything of them: it may lack Landlock.
pub(super) fn restrict() -> Result<bool, Shortfall> {
    try_restrict().map_err(|(about, error)| {
        shortfall(ConfineStep::Landlock, &format!("{about}{error}"), Errno::IO)
    })
}

fn try_restrict() -> Result<bool, (&'static str, String)> {
    let refused = |error: RulesetError| ("", error.to_string());
    let all = AccessFs::from_all(NEWEST);
    let mut ruleset = Ruleset::default()
        .handle_access(all)
        .and_then(|ruleset| ruleset.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .map_err(refused)?;
    let reading = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::Execute;
    let rules = WRITABLE.map(|path| (path, all));
    for (path, access) in std::iter::once(("/", reading)).chain(rules) {
        let fd = PathFd::new(path).map_err(|error| (path, format!(": {error}")))?;
        ruleset = ruleset
            .add_rule(PathBeneath::new(fd, access))
            .map_err(refused)?;
    }
    let status = ruleset.restrict_self().map_err(refused)?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}
