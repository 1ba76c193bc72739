//! The programs that the lab takes from the machine it runs on.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Returns where Sovereign keeps what can be made again: `$XDG_CACHE_HOME/sovereign`, by default
/// below `~/.cache`.
///
/// # Errors
///
/// If neither `XDG_CACHE_HOME` nor `HOME` is set.
pub fn cache_dir() -> Result<PathBuf> {
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set: no place for the lab's cache")?;
    Ok(base.join("sovereign"))
}

/// A program, and the Debian package that brings it.
#[derive(Clone, Copy)]
pub(crate) struct Tool {
    name: &'static str,
    package: &'static str,
}

pub(crate) const QEMU: Tool = Tool::new("qemu-system-x86_64", "qemu-system-x86");
pub(crate) const MKFS: Tool = Tool::new("mkfs.ext4", "e2fsprogs");
pub(crate) const DEBUGFS: Tool = Tool::new("debugfs", "e2fsprogs");
pub(crate) const DPKG_DEB: Tool = Tool::new("dpkg-deb", "dpkg");
pub(crate) const APT_GET: Tool = Tool::new("apt-get", "apt");
pub(crate) const APT_CACHE: Tool = Tool::new("apt-cache", "apt");
pub(crate) const SETPRIV: Tool = Tool::new("setpriv", "util-linux");

impl Tool {
    const fn new(name: &'static str, package: &'static str) -> Self {
        Self { name, package }
    }

    /// Returns where the program is. Administrators' folders count too: ordinary users often lack
    /// them in `PATH`.
    pub(crate) fn find(self) -> Result<PathBuf> {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path)
            .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
            .map(|dir| dir.join(self.name))
            .find(|candidate| candidate.is_file())
            .with_context(|| {
                format!(
                    "{} is not installed; install it with: sudo apt-get install {}",
                    self.name, self.package
                )
            })
    }

    /// Starts a command line with this program.
    pub(crate) fn command(self) -> Result<Command> {
        let mut command = Command::new(self.find()?);
        command.stdin(Stdio::null()).env("LC_ALL", "C");
        Ok(command)
    }
}

/// Runs `command` to its end and returns what it printed.
pub(crate) fn output_of(command: &mut Command) -> Result<Vec<u8>> {
    let name = display_name(command.get_program());
    let output = command
        .output()
        .with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}): {}", output.status, said.trim());
    }
    Ok(output.stdout)
}

fn display_name(program: &OsStr) -> String {
    Path::new(program)
        .file_name()
        .unwrap_or(program)
        .to_string_lossy()
        .into_owned()
}
