//! T-APTS in a root file system: for every Python of the system, as a package of the distribution's.

use std::path::Path;
use std::time::Duration;

use crate::apts;
use crate::archive::elevate;
use crate::tool;

use super::{FILE_TIME, RootfsError, failed};

/// Where Debian keeps the modules that no version of Python 3 has for itself.
const MODULES: &str = "usr/lib/python3/dist-packages";

/// How long each step may take: Python compiles a dozen files.
const LIMIT: Duration = Duration::from_secs(60);

/// Puts the package into a tree, with byte code that is taken without a look at its source: packing
/// gives all files one time (see `customize.sh`).
pub(super) fn install(tree: &Path) -> Result<(), RootfsError> {
    let modules = tree.join(MODULES);
    apts::write_to(&modules).map_err(failed("write to", &modules))?;
    let mut compile = elevate::command("chroot");
    compile
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .arg(tree)
        .args(["python3", "-I", "-m", "compileall", "-q"])
        .args(["--invalidation-mode", "unchecked-hash"])
        .args(apts::PACKAGES.map(|name| format!("/{MODULES}/{name}")));
    tool::output(&compile, LIMIT)?;
    // Whoever builds may have a mask that hides files from others.
    let mut open = elevate::command("chmod");
    open.args(["-R", "u=rwX,go=rX", "--"])
        .args(apts::PACKAGES.map(|name| modules.join(name)));
    tool::output(&open, LIMIT)?;
    Ok(())
}

/// Adds the package from a tree to the archive that the rest of the tree came from.
pub(super) fn append_to(tar: &Path, tree: &Path) -> Result<(), RootfsError> {
    let mut command = elevate::command("tar");
    command
        .args(["--append", "--sort=name", "--format=pax"])
        .args(["--owner=0", "--group=0", "--numeric-owner"])
        .arg(format!("--mtime=@{FILE_TIME}"))
        .args(["--pax-option", "delete=atime,delete=ctime"])
        .arg("--file")
        .arg(tar)
        .arg("--directory")
        .arg(tree)
        .args(apts::PACKAGES.map(|name| format!("./{MODULES}/{name}")));
    tool::output(&command, LIMIT)?;
    Ok(())
}
