//! Taking packages out of Debian's archive, whatever this machine's own apt knows.

use std::path::Path;
use std::time::Duration;

use super::elevate::{self, ElevateError};
use super::mirrors::{self, OLDEST_RELEASE};
use crate::progress::Step;
use crate::tool::{self, Tool, ToolError};

/// How long the download of some hundred MB may take.
const LIMIT: Duration = Duration::from_secs(3600);

/// What it takes.
pub(crate) const TOOLS: &[Tool] = &[Tool {
    program: "mmdebstrap",
    package: "mmdebstrap",
}];

/// Packages could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// A tool is missing.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// This user cannot own files of several users.
    #[error(transparent)]
    Elevate(#[from] ElevateError),
    /// The archive did not give them.
    #[error(
        "cannot take {packages} from Debian {suite}; see that its mirrors can be reached, and that \
         debian-archive-keyring is installed", suite = OLDEST_RELEASE.1
    )]
    Failed {
        /// Which packages.
        packages: String,
        /// How mmdebstrap ended.
        #[source]
        source: ToolError,
    },
}

/// The release that [`extract`] takes packages from.
pub(crate) fn release() -> &'static str {
    OLDEST_RELEASE.1
}

/// Writes the files of packages, and of those that they depend on, as the archive `tar`. Nothing is
/// installed and no script of them runs. Their signatures are checked.
///
/// # Errors
///
/// If mmdebstrap is missing, this user may not use it, or it cannot have the packages.
pub fn extract(packages: &[&str], tar: &Path, step: &Step<'_>) -> Result<(), ExtractError> {
    tool::require(TOOLS)?;
    elevate::check()?;
    let mut command = elevate::mmdebstrap();
    command
        .args(["--variant=extract", "--format=tar"])
        .arg(format!("--include={}", packages.join(",")))
        .args(
            mirrors::proxies()
                .iter()
                .map(|option| format!("--aptopt={option}")),
        )
        .arg(release())
        .arg(tar);
    tool::run(&command, LIMIT, step).map_err(|source| ExtractError::Failed {
        packages: packages.join(", "),
        source,
    })
}
