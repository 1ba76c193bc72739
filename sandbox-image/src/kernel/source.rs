//! Where the kernel's source comes from: Debian's package, whose signature `apt` checks, or a tarball
//! that the user names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::QUERY_LIMIT;
use crate::archive::{ExtractError, extract};
use crate::digest::Digest;
use crate::progress::Step;
use crate::tool::{self, Tool, ToolError};

/// Debian's package with the source of the long-term kernel that the fragment was made for.
const PACKAGE: &str = "linux-source-6.12";

/// How long the download (150 MB) may take.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(3600);

/// How long unpacking may take.
const UNPACK_LIMIT: Duration = Duration::from_secs(1800);

/// Where to take the kernel's source from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The package `linux-source-6.12`: the newest version that this machine's `apt` knows, and where
    /// it knows none, the one of Debian's archive.
    Debian,
    /// A tarball with one folder in it, as kernel.org and Debian make them.
    Tarball(PathBuf),
}

/// The source could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Debian's archive does not give it.
    #[error("cannot take the kernel's source from Debian; a tarball of Linux 6.12 will do as well")]
    Archive(#[from] ExtractError),
    /// The package was not downloaded or holds something else.
    #[error("{PACKAGE} was not downloaded whole: nothing like {expected} in {folder}",
        folder = folder.display())]
    Incomplete {
        /// What was looked for.
        expected: &'static str,
        /// Where.
        folder: PathBuf,
    },
    /// A tool failed.
    #[error("cannot {action} the kernel's source ({from})")]
    Tool {
        /// What was tried.
        action: &'static str,
        /// With what.
        from: String,
        /// Why it failed.
        #[source]
        source: ToolError,
    },
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

/// A source, and what this machine's `apt` knows of it: a build asks once, so that all of it goes by the
/// same answer.
#[derive(Debug)]
pub(super) struct Found<'a> {
    source: &'a Source,
    /// The newest version of Debian's package, if that is the source and `apt` knows one.
    known: Option<String>,
}

impl Source {
    /// Asks what there is to be known of it.
    pub(super) fn find(&self) -> Found<'_> {
        Found::by(self, known_version)
    }
}

impl<'a> Found<'a> {
    fn by(source: &'a Source, ask: impl FnOnce() -> Option<String>) -> Self {
        let known = match source {
            Source::Debian => ask(),
            Source::Tarball(_) => None,
        };
        Self { source, known }
    }

    /// The tools that this source needs.
    pub(super) fn tools(&self) -> &'static [Tool] {
        match self.source {
            Source::Debian if self.known.is_some() => &[
                Tool {
                    program: "apt-get",
                    package: "apt",
                },
                Tool {
                    program: "dpkg-deb",
                    package: "dpkg",
                },
            ],
            Source::Debian => extract::TOOLS,
            Source::Tarball(_) => &[],
        }
    }

    /// What tells this source from others.
    ///
    /// # Errors
    /// If there is no such source.
    pub(super) fn version(&self) -> Result<String, SourceError> {
        match self.source {
            Source::Debian => {
                let release = || format!("of Debian {}", extract::release());
                Ok(self.known.clone().unwrap_or_else(release))
            }
            Source::Tarball(path) => {
                let digest = Digest::of_file(path).map_err(failed("read", path))?;
                Ok(format!("sha256:{}", digest.to_hex()))
            }
        }
    }

    /// Unpacks the source below `work`, unless an earlier attempt got that far. Returns the tree.
    ///
    /// # Errors
    /// If it cannot be downloaded or unpacked.
    pub(super) fn unpack(&self, work: &Path, step: &Step<'_>) -> Result<PathBuf, SourceError> {
        let tree = work.join("source");
        if tree.is_dir() {
            step.log("going on with the tree that an earlier build left");
            return Ok(tree);
        }
        let package = work.join("package");
        let tarball = match self.source {
            Source::Debian => download(&package, self.known.is_some(), step)?,
            Source::Tarball(path) => path.clone(),
        };
        let partial = work.join("source.partial");
        empty_dir(&partial)?;
        step.log("unpacking the source");
        let mut tar = Command::new("tar");
        tar.args([
            "--extract",
            "--strip-components=1",
            "--no-same-owner",
            "--directory",
        ])
        .arg(&partial)
        .arg("--file")
        .arg(&tarball);
        run(&tar, UNPACK_LIMIT, step, "unpack", &tarball)?;
        fs::rename(&partial, &tree).map_err(failed("rename", &partial))?;
        remove_dir(&package)?;
        Ok(tree)
    }
}

/// The newest version of the package that this machine's `apt` knows.
fn known_version() -> Option<String> {
    let mut query = Command::new("apt-cache");
    query.args(["show", "--no-all-versions", PACKAGE]);
    let text = tool::output(&query, QUERY_LIMIT).ok()?;
    let version = text.lines().find_map(|line| line.strip_prefix("Version: "));
    version.map(|version| version.trim().to_owned())
}

/// Downloads the package and takes the tarball out of it.
fn download(folder: &Path, is_known: bool, step: &Step<'_>) -> Result<PathBuf, SourceError> {
    empty_dir(folder)?;
    step.log("downloading the source (150 MB)");
    let root = folder.join("root");
    if is_known {
        let mut apt = Command::new("apt-get");
        apt.args(["download", "--quiet", PACKAGE])
            .current_dir(folder);
        run(&apt, DOWNLOAD_LIMIT, step, "download", Path::new(PACKAGE))?;
        let package = find(folder, "deb", ".deb")?;
        let mut dpkg = Command::new("dpkg-deb");
        dpkg.arg("--extract").arg(&package).arg(&root);
        run(&dpkg, UNPACK_LIMIT, step, "unpack", &package)?;
    } else {
        step.log("this machine's apt does not know it: taking it from Debian's archive");
        let packed = folder.join("packages.tar");
        extract(&[PACKAGE], &packed, step)?;
        empty_dir(&root)?;
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--no-same-owner", "--directory"])
            .arg(&root)
            .arg("--file")
            .arg(&packed)
            .arg("./usr/src");
        run(&tar, UNPACK_LIMIT, step, "unpack", &packed)?;
    }
    find(&root.join("usr/src"), "xz", "linux-source-*.tar.xz")
}

fn run(
    command: &Command,
    limit: Duration,
    step: &Step<'_>,
    action: &'static str,
    from: &Path,
) -> Result<(), SourceError> {
    tool::run(command, limit, step).map_err(|source| SourceError::Tool {
        action,
        from: from.display().to_string(),
        source,
    })
}

/// The file with this extension in `folder`.
fn find(folder: &Path, extension: &str, expected: &'static str) -> Result<PathBuf, SourceError> {
    let entries = fs::read_dir(folder).map_err(failed("read", folder))?;
    entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|found| found == extension))
        .ok_or_else(|| SourceError::Incomplete {
            expected,
            folder: folder.to_owned(),
        })
}

fn empty_dir(path: &Path) -> Result<(), SourceError> {
    remove_dir(path)?;
    fs::create_dir_all(path).map_err(failed("create", path))
}

fn remove_dir(path: &Path) -> Result<(), SourceError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SourceError {
    move |source| SourceError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    /// A tarball with one folder and a file in it.
    fn tarball(folder: &Path) -> PathBuf {
        fs::create_dir_all(folder.join("linux-1.0")).unwrap();
        fs::write(folder.join("linux-1.0/Makefile"), "all:\n").unwrap();
        let path = folder.join("linux.tar");
        let mut tar = Command::new("tar");
        tar.arg("--create")
            .arg("--file")
            .arg(&path)
            .arg("--directory")
            .arg(folder)
            .arg("linux-1.0");
        tool::output(&tar, UNPACK_LIMIT).unwrap();
        path
    }

    #[test]
    fn tarball_is_unpacked_without_its_outer_folder() {
        let folder = tempfile::tempdir().unwrap();
        let source = Source::Tarball(tarball(folder.path()));
        let step = Step::begin(&Silent, "unpacking");
        let tree = source
            .find()
            .unpack(&folder.path().join("work"), &step)
            .unwrap();
        assert_eq!(fs::read_to_string(tree.join("Makefile")).unwrap(), "all:\n");
    }

    #[test]
    fn unpacked_tree_is_kept_and_half_unpacked_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let source = Source::Tarball(tarball(folder.path()));
        let work = folder.path().join("work");
        fs::create_dir_all(work.join("source.partial")).unwrap();
        fs::write(work.join("source.partial/half"), "").unwrap();
        let step = Step::begin(&Silent, "unpacking");
        let tree = source.find().unpack(&work, &step).unwrap();
        assert!(!tree.join("half").exists());
        fs::write(tree.join("object.o"), "compiled").unwrap();
        assert_eq!(source.find().unpack(&work, &step).unwrap(), tree);
        assert!(tree.join("object.o").exists());
    }

    #[test]
    fn tarballs_are_told_apart_by_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        fs::write(&path, "one").unwrap();
        let source = Source::Tarball(path.clone());
        let one = source.find().version().unwrap();
        fs::write(&path, "two").unwrap();
        assert_ne!(one, source.find().version().unwrap());
    }

    #[test]
    fn apt_is_asked_once_and_about_its_package_alone() {
        let known = Found::by(&Source::Debian, || Some("6.12.1-1".to_owned()));
        assert_eq!(known.version().unwrap(), "6.12.1-1");
        assert_eq!(known.tools()[0].program, "apt-get");
        let unknown = Found::by(&Source::Debian, || None);
        assert!(unknown.version().unwrap().starts_with("of Debian "));
        assert_eq!(unknown.tools().len(), extract::TOOLS.len());
        let tarball = Source::Tarball(PathBuf::from("a.tar"));
        let tarball = Found::by(&tarball, || panic!("apt does not know it"));
        assert!(tarball.tools().is_empty());
    }

    #[test]
    fn missing_tarball_is_named() {
        let error = Source::Tarball(PathBuf::from("/nonexistent/linux.tar"))
            .find()
            .version()
            .unwrap_err();
        assert!(
            error.to_string().contains("/nonexistent/linux.tar"),
            "{error}"
        );
    }
}
