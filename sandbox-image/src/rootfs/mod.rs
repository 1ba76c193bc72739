//! Builds the root file system: a small Debian with Python, packed as an EROFS image.
//!
//! ```text
//!  mmdebstrap (packages, customize.sh) ─▶ tar ─▶ tree ─▶ check.sh inside it ─▶ mkfs.erofs ─▶ cache
//! ```
//!
//! It is not compressed. Measured in a guest, the first `python3 -c 1` of a boot takes 38 million
//! instructions from an uncompressed image and 64 million from an lz4hc one, of which 32 million are
//! Python's own: unpacking would cost each start more than a kernel's boot, to save 53 MB of 115 once.
//!
//! The tar is kept beside the image: it is the same userland for tiers that want a container image.
//! Works as root, and as any user with subordinate ids (mmdebstrap's `unshare` mode).

mod apt;
mod contract;
mod elevate;
mod scratch;
mod tar;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use contract::ContractError;
pub use tar::find_tar;

use crate::cache::{Cache, CacheError, Key};
use crate::digest::Digest;
use crate::erofs::{self, ErofsError};
use crate::manifest::{User, Userland};
use crate::progress::{Progress, Step};
use crate::space::NoSpace;
use crate::tool::{self, Tool, ToolError};

use apt::Archive;
use scratch::Scratch;

/// The recipe, as data.
const PACKAGES: &str = include_str!("../../rootfs/packages");
const CUSTOMIZE: &str = include_str!("../../rootfs/customize.sh");

/// Runs the script from the environment: in a user namespace its file might not be readable, and
/// mmdebstrap prints the whole of what it is given.
const CUSTOMIZE_HOOK: &str = "sh -c \"$SOVEREIGN_CUSTOMIZE\" customize \"$1\"";

/// Changes with the steps below, so that what older steps built is not found any more.
const RECIPE: &str = "1";

/// The kind of cache entry, and the files of one.
const KIND: &str = "rootfs";
const IMAGE: &str = "rootfs.erofs";
const TAR: &str = "rootfs.tar";
const FACTS: &str = "facts.json";

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

/// The time of all files (2025-01-01), so that the same packages make the same image.
const FILE_TIME: &str = "1735689600";

/// The file system's UUID: nobody looks for it, and a random one would change the image.
const UUID: &str = "736f7665-7265-4967-8e73-616e64626f78";

/// How long the download and the installation of some 80 packages (35 MB) may take.
const BOOTSTRAP_LIMIT: Duration = Duration::from_secs(1800);

/// How long each later step may take.
const STEP_LIMIT: Duration = Duration::from_secs(300);

/// What the build runs.
const TOOLS: &[Tool] = &[
    Tool {
        program: "mmdebstrap",
        package: "mmdebstrap",
    },
    Tool {
        program: "mkfs.erofs",
        package: "erofs-utils",
    },
    Tool {
        program: "tar",
        package: "tar",
    },
];

/// A root file system that was built or found in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltRootfs {
    /// The EROFS image.
    pub image: PathBuf,
    /// Its digest.
    pub digest: Digest,
    /// The same files as a tar archive, as `docker import` takes it.
    pub tar: PathBuf,
    /// What is in it.
    pub contents: Userland,
}

/// The root file system could not be built.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// A tool is missing or failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The packages could not be had or installed.
    #[error(
        "the root file system ({suite}) could not be installed; \
         check that `apt-get update` works on this machine"
    )]
    Bootstrap {
        /// The release.
        suite: String,
        /// How mmdebstrap ended.
        #[source]
        source: ToolError,
    },
    /// This user cannot own files of several users.
    #[error(
        "user {0} has no subordinate ids, which building a root file system as a user takes; \
         build as root, or add some with: sudo usermod --add-subuids 100000-165535 \
         --add-subgids 100000-165535 {0}"
    )]
    NoSubordinateIds(String),
    /// What was built is not what sandboxes rely on. It is not used.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// What was packed is no file system.
    #[error(transparent)]
    Image(#[from] ErofsError),
    /// The disk is full.
    #[error("{0}; free some, or set SOVEREIGN_CACHE_DIR and TMPDIR to folders on another disk")]
    NoSpace(NoSpace),
    /// The cache could not be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A file could not be read or written.
    #[error("cannot {action} {path}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// What is kept of a build besides its files.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    image: Digest,
    contents: Userland,
}

/// Builds the root file system, or finds it in the cache. `fresh` builds it in any case, from the
/// packages that the archive has now.
///
/// # Errors
/// If a tool is missing, packages cannot be had, or what was built does not keep the contract.
pub fn build(
    cache: &Cache,
    fresh: bool,
    progress: &dyn Progress,
) -> Result<BuiltRootfs, RootfsError> {
    let archive = Archive::of_host();
    let key = Key::builder()
        .input("recipe", RECIPE)
        .input("packages", PACKAGES)
        .input("customize", CUSTOMIZE)
        .input("contract", contract::SCRIPT)
        .input("architecture", std::env::consts::ARCH)
        .input("suite", &archive.suite)
        .input("sources", &archive.sources)
        .finish();
    let name = format!("building the root file system (Debian {})", archive.suite);
    let step = Step::begin(progress, &name);
    if let Some(entry) = cache.find(KIND, &key).filter(|_| !fresh) {
        step.up_to_date();
        return describe(&entry);
    }
    tool::require(TOOLS)?;
    elevate::check()?;
    let make = |entry: &Path| {
        let scratch = Scratch::make(cache, &key)?;
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

/// The packages to install, as mmdebstrap wants them.
fn packages() -> String {
    let names: Vec<_> = PACKAGES
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|name| !name.is_empty())
        .collect();
    names.join(",")
}

fn describe(entry: &Path) -> Result<BuiltRootfs, RootfsError> {
    let path = entry.join(FACTS);
    let text = fs::read(&path).map_err(failed("read", &path))?;
    let facts: Facts = serde_json::from_slice(&text)
        .map_err(io::Error::from)
        .map_err(failed("read", &path))?;
    Ok(BuiltRootfs {
        image: entry.join(IMAGE),
        digest: facts.image,
        tar: entry.join(TAR),
        contents: facts.contents,
    })
}

fn make(
    archive: &Archive,
    scratch: &Scratch,
    entry: &Path,
    step: &Step<'_>,
) -> Result<(), RootfsError> {
    let tar = entry.join(TAR);
    bootstrap(archive, scratch, &tar, step)?;
    let tree = scratch.work.join("tree");
    step.log("unpacking");
    unpack(&tar, &tree, step)?;
    step.log("checking what is in it");
    let contents = contract::check(&tree)?;
    let image = entry.join(IMAGE);
    step.log("packing");
    pack(&tree, &image)?;
    erofs::check(&image)?;
    let digest = Digest::of_file(&image).map_err(failed("read", &image))?;
    let facts = Facts {
        image: digest,
        contents,
    };
    let path = entry.join(FACTS);
    let json = serde_json::to_vec_pretty(&facts).map_err(io::Error::from);
    json.and_then(|json| fs::write(&path, json))
        .map_err(failed("write", &path))
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
            apt::proxies()
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

/// Unpacks the archive. Devices stay out: every guest gets its own `/dev`, and a user cannot make
/// them.
fn unpack(tar: &Path, tree: &Path, step: &Step<'_>) -> Result<(), RootfsError> {
    fs::create_dir_all(tree).map_err(failed("create", tree))?;
    let mut command = elevate::command("tar");
    command
        .args(["--extract", "--preserve-permissions", "--numeric-owner"])
        .args(["--exclude", "./dev/*"])
        .arg("--file")
        .arg(tar)
        .arg("--directory")
        .arg(tree);
    Ok(tool::run(&command, STEP_LIMIT, step)?)
}

/// Packs a tree. What the tool prints (each file's name) is of no interest unless it fails.
fn pack(tree: &Path, image: &Path) -> Result<(), RootfsError> {
    let mut command = elevate::command("mkfs.erofs");
    command
        .args(["-d0", "-x-1", "-T", FILE_TIME, "-U", UUID])
        .arg(image)
        .arg(tree);
    tool::output(&command, STEP_LIMIT)?;
    Ok(())
}

/// Who commands run as. `customize.sh` makes this user, `check.sh` looks.
fn default_user() -> User {
    User {
        name: "sandbox".to_owned(),
        uid: 1000,
        gid: 1000,
        home: "/home/sandbox".to_owned(),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RootfsError {
    move |source| RootfsError::Io {
        action,
        path: path.to_owned(),
        source,
    }
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
    fn scripts_are_shell() {
        for script in [CUSTOMIZE, contract::SCRIPT] {
            let mut shell = Command::new("sh");
            tool::output(shell.args(["-nc", script]), STEP_LIMIT).unwrap();
        }
    }
}
