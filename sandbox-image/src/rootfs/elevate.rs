//! Running commands on files of several users: as root, or as root of a user namespace.
//!
//! In that namespace root is the user, and the user's subordinate ids are everyone else. (mmdebstrap
//! has a namespace of its own, whose root is a subordinate id and does not get into the user's home.)

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::tool::{self, Tool};

use super::RootfsError;

/// How long removing a tree may take.
const REMOVE_LIMIT: Duration = Duration::from_secs(300);

/// How mmdebstrap is to work.
pub(super) fn mmdebstrap_mode() -> &'static str {
    if is_root() { "root" } else { "unshare" }
}

/// A command that may change files of every user of the root file system.
pub(super) fn command(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--map-auto", "--", program]);
    command
}

/// Checks that this user may have files of several users.
pub(super) fn check() -> Result<(), RootfsError> {
    if is_root() {
        return Ok(());
    }
    tool::require(&[Tool {
        program: "newuidmap",
        package: "uidmap",
    }])?;
    let uid = rustix::process::getuid().as_raw().to_string();
    let name = env::var("USER").unwrap_or_default();
    let has = |file: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().any(|line| {
            let owner = line.split(':').next().unwrap_or_default();
            !owner.is_empty() && (owner == name || owner == uid)
        })
    };
    if has("/etc/subuid") && has("/etc/subgid") {
        return Ok(());
    }
    let who = if name.is_empty() { uid } else { name };
    Err(RootfsError::NoSubordinateIds(who))
}

/// Removes a folder whoever its files belong to, if it is there.
pub(super) fn remove_folder(folder: &Path) -> Result<(), RootfsError> {
    if !folder.exists() {
        return Ok(());
    }
    let mut remove = command("rm");
    remove.args(["-rf", "--one-file-system", "--"]).arg(folder);
    tool::output(&remove, REMOVE_LIMIT)?;
    Ok(())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
