//! The contract of a root file system: what sandboxes rely on, checked inside what was built.
//!
//! `check.sh` runs in the finished tree with the tree's own programs: that they are there is not
//! enough, they must start. What does not pass is not published.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::archive::elevate;
use crate::manifest::Userland;
use crate::tool::{self, ToolError};

use super::{RootfsError, default_user, failed};

/// The checks. Prints facts as `fact NAME VALUE`.
pub(super) const SCRIPT: &str = include_str!("../../rootfs/check.sh");

/// How long the checks may take: Python starts a few times.
const LIMIT: Duration = Duration::from_secs(120);

/// A root file system is not what sandboxes rely on.
#[derive(Debug, thiserror::Error)]
pub enum ContractError {
    /// A check failed.
    #[error("the root file system that was built does not keep its contract and is not used")]
    Broken(#[source] ToolError),
    /// The checks did not say what they should.
    #[error("the checks of the root file system did not say its {0}")]
    Silent(&'static str),
}

/// Checks a tree, and says what is in it.
pub(super) fn check(tree: &Path) -> Result<Userland, RootfsError> {
    let mut command = elevate::command("chroot");
    command
        .env_clear()
        .arg(tree)
        .args(["/bin/sh", "-c", SCRIPT]);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    let text = tool::output(&command, LIMIT).map_err(ContractError::Broken)?;
    clear_devices(tree)?;
    Ok(parse(&text)?)
}

/// Programs that wrote to `/dev/null` have made a file of that name.
fn clear_devices(tree: &Path) -> Result<(), RootfsError> {
    let devices = tree.join("dev");
    for entry in fs::read_dir(&devices).map_err(failed("list", &devices))? {
        let path = entry.map_err(failed("list", &devices))?.path();
        let mut remove = elevate::command("rm");
        remove.arg("--").arg(&path);
        tool::output(&remove, LIMIT)?;
    }
    Ok(())
}

/// Reads the facts.
fn parse(text: &str) -> Result<Userland, ContractError> {
    let mut packages = BTreeMap::new();
    let mut facts = BTreeMap::new();
    for line in text.lines() {
        let Some((name, value)) = line.strip_prefix("fact ").and_then(|l| l.split_once(' ')) else {
            continue;
        };
        match value.split_once(' ') {
            Some((package, version)) if name == "package" => {
                packages.insert(package.to_owned(), version.to_owned());
            }
            _ => {
                facts.insert(name, value.to_owned());
            }
        }
    }
    let mut fact = |name: &'static str| facts.remove(name).ok_or(ContractError::Silent(name));
    if packages.is_empty() {
        return Err(ContractError::Silent("packages"));
    }
    Ok(Userland {
        system: fact("system")?,
        version: fact("version")?,
        python: fact("python")?,
        packages,
        user: default_user(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn facts_are_read() {
        let contents = parse(
            "a line of noise\nfact system Debian GNU/Linux 12 (bookworm)\nfact version 12.11\n\
             fact python 3.11.2\nfact package bash 5.2.15-2+b13\nfact package curl 7.88.1\n",
        )
        .unwrap();
        assert_eq!(contents.system, "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(contents.python, "3.11.2");
        assert_eq!(contents.packages["bash"], "5.2.15-2+b13");
        assert_eq!(contents.packages.len(), 2);
    }

    #[test]
    fn missing_fact_is_named() {
        let error = parse("fact system Debian\nfact version 12\nfact package a 1\n").unwrap_err();
        assert!(error.to_string().contains("python"), "{error}");
    }

    #[test]
    fn tree_without_a_shell_is_broken() {
        let tree = tempfile::tempdir().unwrap();
        let error = check(tree.path()).unwrap_err();
        let broken = matches!(error, RootfsError::Contract(ContractError::Broken(_)));
        assert!(broken, "{error}");
    }

    #[test]
    fn the_script_is_shell() {
        let mut shell = std::process::Command::new("sh");
        tool::output(shell.args(["-nc", SCRIPT]), LIMIT).unwrap();
    }

    proptest! {
        #[test]
        fn any_output_is_read_or_refused(text: String) {
            let _ = parse(&text);
        }
    }
}
