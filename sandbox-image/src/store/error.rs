//! What can go wrong with the image store, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::image::DEFAULT_IMAGE;
use crate::lock::LockError;
use crate::manifest::ManifestError;
use crate::space;

/// The image store could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing says where it is to be.
    #[error("no place for the image store: set SOVEREIGN_DATA_DIR, XDG_DATA_HOME or HOME")]
    NoPlace,
    /// A name that no image can have.
    #[error(
        "`{name}` is no image name: 1 to 64 of a-z, 0-9, `.`, `_`, `-`, the first a letter or digit"
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// There is no image of that name.
    #[error("no image `{name}` in {store}; build it with: {command}", store = store.display(),
        command = build_command(name))]
    NoSuchImage {
        /// The name.
        name: String,
        /// Where it was looked for.
        store: PathBuf,
    },
    /// A file of an image is not what it was.
    #[error(
        "image `{name}` is damaged: its {part}, {path}, {damage}; \
         remove it and build it again with: sovereign image rm {name} && {command}",
        path = path.display(), command = build_command(name)
    )]
    Corrupt {
        /// The image's name.
        name: String,
        /// `kernel`, `initramfs`, `root file system`.
        part: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        damage: Box<Damage>,
    },
    /// A manifest cannot be understood.
    #[error(
        "the manifest {path} of image `{name}` cannot be used; \
         remove it and build it again with: sovereign image rm {name} && {command}",
        path = path.display(), command = build_command(name)
    )]
    BadManifest {
        /// The image's name.
        name: String,
        /// The manifest.
        path: PathBuf,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// Others could change a file.
    #[error("{path} is not safe to use: {problem}; {remedy}", path = path.display())]
    Insecure {
        /// The file or folder.
        path: PathBuf,
        /// Who owns it, or who can write to it.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// The disk is full.
    #[error(
        "not enough space for {path}: {needed} bytes needed, {available} available; \
         free some (`sovereign image prune`) or set SOVEREIGN_DATA_DIR to another disk",
        path = path.display()
    )]
    NoSpace {
        /// What was written.
        path: PathBuf,
        /// How much it takes.
        needed: u64,
        /// How much there is.
        available: u64,
    },
    /// A file that was to be stored is not the one that was meant.
    #[error(
        "{path} has the hash {actual}, expected {expected}: it was changed after it was built; \
         build it anew with: sovereign image build --force",
        path = path.display()
    )]
    BadSource {
        /// The file.
        path: PathBuf,
        /// The digest it should have.
        expected: Digest,
        /// The digest it has.
        actual: Digest,
    },
    /// Another process is changing the store.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file could not be used.
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

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// It is gone.
    Missing,
    /// It is a link, a folder or a device.
    NotAFile,
    /// It is too short or too long.
    Size {
        /// The length it should have.
        expected: u64,
        /// The length it has.
        actual: u64,
    },
    /// Its content is another.
    Content {
        /// The digest it should have.
        expected: Digest,
        /// The digest it has.
        actual: Digest,
    },
    /// It was written to while it was read.
    Changing,
}

impl fmt::Display for Damage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => out.write_str("is missing"),
            Self::NotAFile => out.write_str("is not a regular file"),
            Self::Size { expected, actual } => {
                write!(out, "has {actual} bytes, expected {expected}")
            }
            Self::Content { expected, actual } => {
                write!(out, "has the hash {actual}, expected {expected}")
            }
            Self::Changing => out.write_str("changes while it is read"),
        }
    }
}

/// Attaches what was tried to an error of the operating system.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Like [`failed`] for a write of `needed` bytes: tells a full disk apart.
pub(super) fn write_failed(path: &Path, needed: u64) -> impl FnOnce(io::Error) -> StoreError {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::NoSpace {
            path: path.to_owned(),
            needed,
            available: space::available(path).unwrap_or(0),
        },
        _ => failed("write", path)(source),
    }
}

fn build_command(name: &str) -> String {
    if name == DEFAULT_IMAGE {
        "sovereign image build".to_owned()
    } else {
        format!("sovereign image build --name {name}")
    }
}
