//! Running commands on files of several users: as root, or as root of a user namespace.
//!
//! In that namespace root is the user, and the user's subordinate ids are everyone else. (mmdebstrap
//! has a namespace of its own, whose root is a subordinate id and does not get into the user's home.)

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::tool::{self, Tool, ToolError};

/// Namespaces for mounts and processes, with a `/proc` to match, that end with their first process.
const ISOLATION: &[&str] = &[
    "--mount",
    "--pid",
    "--fork",
    "--kill-child=SIGKILL",
    "--mount-proc",
    "--",
];

/// How long it may take to learn whether that works.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// How long removing a tree may take.
const REMOVE_LIMIT: Duration = Duration::from_secs(300);

/// This user may not do it.
#[derive(Debug, thiserror::Error)]
pub enum ElevateError {
    /// A tool is missing or failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// This user cannot own files of several users.
    #[error(
        "user {0} has no subordinate ids, which building a root file system as a user takes; \
         build as root, or add some with: sudo usermod --add-subuids 100000-165535 \
         --add-subgids 100000-165535 {0}"
    )]
    NoSubordinateIds(String),
}

/// mmdebstrap, so that nothing of it outlives us. As a user it makes its own namespaces. As root it
/// would mount into the host's, and a killed build would leave those mounts, with processes in them,
/// for the next one to trip over; in namespaces of their own they end with their first process,
/// which ends with us.
pub(crate) fn mmdebstrap() -> Command {
    if !is_root() {
        let mut command = Command::new("mmdebstrap");
        command.arg("--mode=unshare");
        return command;
    }
    let mut command = if can_isolate() {
        // unshare itself does not die of SIGTERM, so its parent-death signal is another one.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "unshare"]);
        command.args(ISOLATION).arg("mmdebstrap");
        command
    } else {
        // A container without the privilege to make namespaces has none to mount either.
        Command::new("mmdebstrap")
    };
    command.arg("--mode=root");
    command
}

/// Whether this root may make namespaces.
fn can_isolate() -> bool {
    let mut command = Command::new("unshare");
    command.args(ISOLATION).arg("true");
    tool::output(&command, PROBE_LIMIT).is_ok()
}

/// A command that may change files of every user of the root file system.
pub(crate) fn command(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--map-auto", "--", program]);
    command
}

/// Checks that this user may have files of several users.
pub(crate) fn check() -> Result<(), ElevateError> {
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
    Err(ElevateError::NoSubordinateIds(who))
}

/// Removes a folder whoever its files belong to, if it is there.
pub(crate) fn remove_folder(folder: &Path) -> Result<(), ElevateError> {
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
