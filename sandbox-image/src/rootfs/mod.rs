//! Builds the root file system: a small Debian with Python, packed as an EROFS image.
//!
//! ```text
//!  mmdebstrap (packages, customize.sh) ─▶ base tar ─▶ cache                                (debian)
//!  base tar ─▶ tree, T-APTS into it ─▶ check.sh inside it ─▶ mkfs.erofs, tar with T-APTS ─▶ cache
//! ```
//!
//! The two are kept apart so that a change of T-APTS takes seconds, and no network.
//!
//! It is not compressed. Measured in a guest, the first `python3 -c 1` of a boot takes 38 million
//! instructions from an uncompressed image and 64 million from an lz4hc one, of which 32 million are
//! Python's own: unpacking would cost each start more than a kernel's boot, to save 53 MB of 115 once.
//!
//! The tar is kept beside the image: it is the same userland for tiers that want a container image.
//! Works as root, and as any user with subordinate ids (mmdebstrap's `unshare` mode).

mod contract;
mod debian;
mod package;
mod scratch;
mod tar;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use contract::ContractError;
pub use tar::find_tar;

use crate::apts;
use crate::archive::{ElevateError, elevate};
use crate::cache::{Cache, CacheError, Key};
use crate::digest::Digest;
use crate::erofs::{self, ErofsError};
use crate::manifest::{User, Userland};
use crate::progress::{Progress, Step};
use crate::space::NoSpace;
use crate::tool::{self, Tool, ToolError};

use scratch::Scratch;

/// Changes with the steps below, so that what older steps built is not found any more.
const RECIPE: &str = "2";

/// The kind of cache entry, and the files of one.
const KIND: &str = "rootfs";
const IMAGE: &str = "rootfs.erofs";
const TAR: &str = "rootfs.tar";
const FACTS: &str = "facts.json";

/// The time of all files (2025-01-01), so that the same packages make the same image.
const FILE_TIME: &str = "1735689600";

/// The file system's UUID: nobody looks for it, and a random one would change the image.
const UUID: &str = "736f7665-7265-4967-8e73-616e64626f78";

/// How long each later step may take.
const STEP_LIMIT: Duration = Duration::from_secs(300);

/// What the build runs.
const TOOLS: &[Tool] = &[
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
    #[error(transparent)]
    Elevate(#[from] ElevateError),
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
    let base = debian::build(cache, fresh, progress)?;
    let key = Key::builder()
        .input("recipe", RECIPE)
        .input("base", base.digest.to_hex())
        .input("package", apts::digest().to_hex())
        .input("contract", contract::SCRIPT)
        .finish();
    let step = Step::begin(progress, "making the root file system");
    if let Some(entry) = cache.find(KIND, &key) {
        step.up_to_date();
        return describe(&entry);
    }
    tool::require(TOOLS)?;
    elevate::check()?;
    let entry = cache.find_or_make(KIND, &key, &step, |entry: &Path| {
        let scratch = Scratch::make(cache, KIND, &key)?;
        let made = make(&base.tar, &scratch, entry, &step);
        scratch.remove()?;
        made
    })?;
    step.done();
    describe(&entry)
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

fn make(base: &Path, scratch: &Scratch, entry: &Path, step: &Step<'_>) -> Result<(), RootfsError> {
    let tree = scratch.work.join("tree");
    step.log("unpacking");
    unpack(base, &tree, step)?;
    step.log("installing T-APTS");
    package::install(&tree)?;
    let tar = entry.join(TAR);
    fs::copy(base, &tar).map_err(failed("write", &tar))?;
    package::append_to(&tar, &tree)?;
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
