//! A disk that is soon full.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result};

/// How the script ends that could not mount it.
const NOT_MOUNTED: i32 = 99;

/// Memory of this size as a file system, in a mount namespace that nobody else sees.
pub(crate) struct SmallDisk {
    size: &'static str,
    place: PathBuf,
    variables: Vec<(&'static str, OsString)>,
}

impl SmallDisk {
    /// A disk of this size (tmpfs(5), `size=`), to be mounted on a folder that is there.
    pub(crate) fn of(size: &'static str, place: &Path) -> Self {
        Self {
            size,
            place: place.to_owned(),
            variables: Vec::new(),
        }
    }

    /// Sets a variable for what runs there.
    pub(crate) fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// Runs a script with the disk mounted: `$1` is where, `$2` is `program`. If no disk can be mounted
    /// here, the inner result says why.
    pub(crate) fn run(&self, program: &Path, script: &str) -> Result<Result<Output, String>> {
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        let size = self.size;
        let script = format!(
            "mount -t tmpfs -o size={size},mode=0700 tmpfs \"$1\" || exit {NOT_MOUNTED}\n{script}"
        );
        let output = command
            .args(["--mount", "sh", "-c", &script, "sh"])
            .arg(&self.place)
            .arg(program)
            .envs(self.variables.iter().cloned())
            .output()
            .context("cannot start unshare")?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.code() == Some(NOT_MOUNTED) || said.contains("unshare failed") {
            let reason = format!("no file system can be mounted here: {}", said.trim());
            return Ok(Err(reason));
        }
        Ok(Ok(output))
    }
}
