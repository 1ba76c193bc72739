//! The Debian that a root file system begins with, as a tar archive.
//!
//! It takes a minute and the network, so it is kept by itself: what is put on top of it may change
//! often.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::archive::elevate;
use crate::archive::mirrors::{self, Archive};
use crate::cache::{Cache, Key};
use crate::digest::Digest;
use crate::progress::{Progress, Step};
use crate::tool::{self, Tool};

use super::scratch::Scratch;
use super::{FILE_TIME, RootfsError, failed};

/// The recipe, as data.
const PACKAGES: &str = include_str!("../../rootfs/packages");
const CUSTOMIZE: &str = include_str!("../../rootfs/customize.sh");

/// Runs the script from the environment: in a user namespace its file might not be readable, and
/// mmdebstrap prints the whole of what it is given.
const CUSTOMIZE_HOOK: &str = "sh -c \"$SOVEREIGN_CUSTOMIZE\" customize \"$1\"";

/// Changes with the steps below, so that what older steps built is not found any more.
const RECIPE: &str = "1";

/// The kind of cache entry, and the files of one.
const KIND: &str = "base";
const TAR: &str = "base.tar";
const DIGEST: &str = "digest";

/// Documentation and translations are not even unpacked. Licences are.
const DPKG_OPTIONS: &[&str] = &[
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/bash-completion/*",
];

/// mmdebstrap's hooks for a merged `/usr` on releases that still have a choice.
const MERGED_USR_HOOK: &str = "/usr/share/mmdebstrap/hooks/merged-usr";

/// How long the download and the installation of some 80 packages (35 MB) may take.
const BOOTSTRAP_LIMIT: Duration = Duration::from_secs(1800);

/// What the build runs.
const TOOLS: &[Tool] = &[Tool {
    program: "mmdebstrap",
    package: "mmdebstrap",
}];

/// A base that was built or found in the cache.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) tar: PathBuf,
    /// The archive's digest: a build from newer packages has another.
    pub(super) digest: Digest,
}

/// Builds the base, or finds it in the cache. `fresh` builds it in any case.
pub(super) fn build(
    cache: &Cache,
    fresh: bool,
    progress: &dyn Progress,
) -> Result<Base, RootfsError> {
    let archive = Archive::of_host();
    let key = Key::builder()
        .input("recipe", RECIPE)
        .input("packages", PACKAGES)
        .input("customize", CUSTOMIZE)
        .input("architecture", std::env::consts::ARCH)
        .input("suite", &archive.suite)
        .input("sources", &archive.sources)
        .finish();
    let name = format!("installing Debian {} for the sandbox", archive.suite);
    let step = Step::begin(progress, &name);
    if let Some(entry) = cache.find(KIND, &key).filter(|_| !fresh) {
        step.up_to_date();
        return describe(&entry);
    }
    tool::require(TOOLS)?;
    elevate::check()?;
    let make = |entry: &Path| {
        let scratch = Scratch::make(cache, KIND, &key)?;
        let made = make(&archive, &scratch, entry, &step);
        scratch.remove()?;
        made
    };
    let entry = if fresh {
        cache.make_anew(KIND, &key, &step, make)?
    } else {
        cache.find_or_make(KIND, &key, &step, make)?
    };
    step.done();
    describe(&entry)
}

fn make(
    archive: &Archive,
    scratch: &Scratch,
    entry: &Path,
    step: &Step<'_>,
) -> Result<(), RootfsError> {
    let tar = entry.join(TAR);
    bootstrap(archive, scratch, &tar, step)?;
    let digest = Digest::of_file(&tar).map_err(failed("read", &tar))?;
    let path = entry.join(DIGEST);
    fs::write(&path, digest.to_hex()).map_err(failed("write", &path))
}

fn describe(entry: &Path) -> Result<Base, RootfsError> {
    let path = entry.join(DIGEST);
    let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
    let damaged = || failed("use", &path)(std::io::ErrorKind::InvalidData.into());
    Ok(Base {
        tar: entry.join(TAR),
        digest: Digest::from_hex(&text).ok_or_else(damaged)?,
    })
}

/// The packages to install, as mmdebstrap wants them.
fn packages() -> String {
    let names: Vec<_> = PACKAGES
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|name| !name.is_empty())
        .collect();
    names.join(",")
}

/// Installs the packages into a tar archive.
fn bootstrap(
    archive: &Archive,
    scratch: &Scratch,
    tar: &Path,
    step: &Step<'_>,
) -> Result<(), RootfsError> {
    let mut command = elevate::mmdebstrap();
    command
        .env("TMPDIR", &scratch.temporary)
        .env("SOURCE_DATE_EPOCH", FILE_TIME)
        .env("SOVEREIGN_CUSTOMIZE", CUSTOMIZE)
        .args(["--variant=essential", "--format=tar"])
        .arg(format!("--include={}", packages()))
        .args(
            DPKG_OPTIONS
                .iter()
                .map(|option| format!("--dpkgopt={option}")),
        )
        .args(
            mirrors::proxies()
                .iter()
                .map(|option| format!("--aptopt={option}")),
        )
        .arg(format!("--customize-hook={CUSTOMIZE_HOOK}"));
    if Path::new(MERGED_USR_HOOK).is_dir() {
        command.arg(format!("--hook-directory={MERGED_USR_HOOK}"));
    }
    command.arg(&archive.suite).arg(tar);
    if !archive.sources.is_empty() {
        let sources = scratch.work.join("host.sources");
        fs::write(&sources, &archive.sources).map_err(failed("write", &sources))?;
        command.arg(sources);
    }
    tool::run(&command, BOOTSTRAP_LIMIT, step).map_err(|source| RootfsError::Bootstrap {
        suite: archive.suite.clone(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn package_list_has_no_comments_in_it() {
        let list = packages();
        assert!(list.split(',').any(|name| name == "python3"), "{list}");
        assert!(
            list.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b",.+-".contains(&b)),
            "{list}"
        );
    }

    #[test]
    fn the_script_is_shell() {
        let mut shell = Command::new("sh");
        tool::output(shell.args(["-nc", CUSTOMIZE]), Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn a_damaged_entry_is_named() {
        let entry = tempfile::tempdir().unwrap();
        fs::write(entry.path().join(DIGEST), "x").unwrap();
        let error = describe(entry.path()).unwrap_err().to_string();
        assert!(error.contains("digest"), "{error}");
    }
}
