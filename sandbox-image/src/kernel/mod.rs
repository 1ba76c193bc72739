//! Builds the guest kernel from the distribution's source package and the fragment in
//! `sandbox-image/kernel`.
//!
//! ```text
//!  apt-get download ─▶ unpack ─▶ edit ─▶ allnoconfig + fragment ─▶ check ─▶ make vmlinux ─▶ strip ─▶ cache
//! ```
//!
//! The result is kept under the hash of everything that went into it: source, edits,
//! fragment, recipe and tool chain. The same inputs give the same bytes. A build that was interrupted goes on where it
//! was; one that failed keeps its tree and its log.

mod compile;
mod config;
mod edits;
mod source;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use config::{ConfigError, Lost};
pub use source::{Source, SourceError};

use crate::cache::{Cache, CacheError, Key};
use crate::manifest::Discovery;
use crate::progress::{Progress, Step};
use crate::tool::{self, Tool, ToolError};

/// What is switched on and off in the kernel.
pub const FRAGMENT: &str = include_str!("../../kernel/x86_64.config");

/// How this kernel learns of its devices: it has neither ACPI nor PCI.
pub const DISCOVERY: Discovery = Discovery::CommandLine;

/// The parameters that this kernel wants, one a line, with comments.
const PARAMETERS: &str = include_str!("../../kernel/x86_64.cmdline");

/// Changes with the steps below, so that kernels built by older steps are not found any more.
const RECIPE: &str = "1";

/// The kind of cache entry.
const KIND: &str = "kernel";

/// How long a tool may take to say its version.
const QUERY_LIMIT: Duration = Duration::from_secs(60);

/// What the build runs.
const TOOLS: &[Tool] = &[
    Tool {
        program: "make",
        package: "make",
    },
    Tool {
        program: "gcc",
        package: "gcc",
    },
    Tool {
        program: "ld",
        package: "binutils",
    },
    Tool {
        program: "strip",
        package: "binutils",
    },
    Tool {
        program: "flex",
        package: "flex",
    },
    Tool {
        program: "bison",
        package: "bison",
    },
    Tool {
        program: "bc",
        package: "bc",
    },
    Tool {
        program: "perl",
        package: "perl-base",
    },
    Tool {
        program: "tar",
        package: "tar",
    },
    Tool {
        program: "xz",
        package: "xz-utils",
    },
];

/// A kernel that was built or found in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltKernel {
    /// The stripped ELF file.
    pub vmlinux: PathBuf,
    /// The configuration it was built with, complete.
    pub config: PathBuf,
    /// What `uname -r` says in the guest.
    pub release: String,
    /// The version of the source.
    pub source_version: String,
}

/// The kernel could not be built.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// There is a fragment for x86_64 alone.
    #[error("the guest kernel can only be built on x86_64, this is {0}")]
    Architecture(&'static str),
    /// A tool is missing or failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The source could not be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The source is not the one that the edits are for.
    #[error(
        "{path} has {found} places that say {wanted:?}, expected one: this kernel source is not the \
         one that the build is made for",
        path = path.display()
    )]
    Edit {
        /// The file to be edited.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
        /// How often it is there.
        found: usize,
    },
    /// The kernel's configuration is not what the fragment says.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The compilation failed.
    #[error("the guest kernel did not compile; whole log: {log}", log = log.display())]
    Compile {
        /// Everything that the build printed.
        log: PathBuf,
        /// How it ended, and its last lines.
        #[source]
        source: ToolError,
    },
    /// The cache could not be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A file could not be read, written or removed.
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

/// The part of the command line that this kernel wants.
#[must_use]
pub fn cmdline() -> String {
    let words: Vec<_> = PARAMETERS
        .lines()
        .map(|line| line.split_once('#').map_or(line, |(words, _comment)| words))
        .flat_map(str::split_whitespace)
        .collect();
    words.join(" ")
}

/// Builds the guest kernel, or finds it in the cache.
///
/// Needs some 3 GB below the cache's folder while it works, and leaves the kernel alone there.
///
/// # Errors
/// If a tool is missing, the source cannot be had, an option of the fragment does not hold, or the
/// compilation fails.
pub fn build(
    cache: &Cache,
    origin: &Source,
    progress: &dyn Progress,
) -> Result<BuiltKernel, KernelError> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(KernelError::Architecture(std::env::consts::ARCH));
    }
    let origin = origin.find();
    check_tools(&origin)?;
    let source_version = origin.version()?;
    let key = Key::builder()
        .input("source", &source_version)
        .input("edits", edits::text())
        .input("fragment", FRAGMENT)
        .input("recipe", RECIPE)
        .input("tool chain", tool_chain()?)
        .finish();
    let step = Step::begin(
        progress,
        &format!("building the guest kernel ({source_version})"),
    );
    if let Some(entry) = cache.find(KIND, &key) {
        step.up_to_date();
        return describe(&entry, source_version);
    }
    // Outside the entry, so that it outlives an interruption; the entry's lock guards it as well.
    let work = cache.work(KIND, &key);
    let entry = cache.find_or_make(KIND, &key, &step, |entry| {
        make_dir(&work)?;
        let tree = origin.unpack(&work, &step)?;
        edits::apply(&tree)?;
        compile::compile(&tree, &work.join("build.log"), &step)?;
        compile::install(&tree, entry)?;
        fs::remove_dir_all(&work).map_err(failed("remove", &work))
    })?;
    step.done();
    describe(&entry, source_version)
}

fn describe(entry: &Path, source_version: String) -> Result<BuiltKernel, KernelError> {
    let path = entry.join(compile::RELEASE);
    let release = fs::read_to_string(&path).map_err(failed("read", &path))?;
    Ok(BuiltKernel {
        vmlinux: entry.join(compile::VMLINUX),
        config: entry.join(compile::CONFIG),
        release: release.trim().to_owned(),
        source_version,
    })
}

fn check_tools(origin: &source::Found<'_>) -> Result<(), ToolError> {
    let tools: Vec<_> = TOOLS.iter().chain(origin.tools()).copied().collect();
    tool::require(&tools)?;
    // The kernel's own build tools (objtool) are compiled against libelf.
    let mut probe = std::process::Command::new("gcc");
    probe.args([
        "-E",
        "-include",
        "gelf.h",
        "-x",
        "c",
        "/dev/null",
        "-o",
        "/dev/null",
    ]);
    match tool::output(&probe, QUERY_LIMIT) {
        Err(ToolError::Failed { .. }) => tool::require(&[Tool {
            program: "gelf.h",
            package: "libelf-dev",
        }]),
        other => other.map(drop),
    }
}

/// The versions of what turns source into bytes.
fn tool_chain() -> Result<String, ToolError> {
    ["gcc", "ld"]
        .into_iter()
        .map(|program| {
            let mut command = std::process::Command::new(program);
            tool::output(command.arg("--version"), QUERY_LIMIT)
        })
        .collect()
}

fn make_dir(path: &Path) -> Result<(), KernelError> {
    fs::create_dir_all(path).map_err(failed("create", path))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KernelError {
    move |source| KernelError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cmdline_is_one_line_without_comments() {
        let line = cmdline();
        assert!(
            line.split(' ').any(|word| word == "noreplace-smp"),
            "{line}"
        );
        assert!(!line.contains(['#', '\n']), "{line}");
    }

    #[test]
    fn damaged_tarball_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let tarball = folder.path().join("linux.tar.xz");
        fs::write(&tarball, "no archive").unwrap();
        let cache = Cache::open(folder.path().join("cache"));
        let error = build(
            &cache,
            &Source::Tarball(tarball.clone()),
            &crate::progress::Silent,
        );
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains("linux.tar.xz") || text.contains("not installed"),
            "{text}"
        );
        assert!(!cache.root().join(KIND).join("entry").exists());
    }
}
