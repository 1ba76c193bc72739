//! T-APTS, the Python package that every sandbox has, as it is built into this program.
//!
//! ```text
//!  python/src ─▶ FILES ─┬─▶ root file system: dist-packages, with byte code    (rootfs)
//!                       └─▶ a folder of the user's, for the local tier         (environment)
//! ```
//!
//! An installed program needs no checkout and no network for either.

pub mod environment;

use std::fs;
use std::io;
use std::path::Path;

use crate::digest::{Digest, Hasher};

/// What the package's folders are called: itself, and the shim for its old name.
pub const PACKAGES: [&str; 2] = ["terminai_apts", "apts"];

/// The package's version, which it gives as `terminai_apts.__version__`.
pub const VERSION: &str = "0.1.0";

/// A file of the package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File {
    /// Where it is, below a folder of Python's path.
    pub path: &'static str,
    /// What is in it.
    pub text: &'static str,
}

macro_rules! files {
    ($($path:literal,)*) => {
        &[$(File {
            path: $path,
            text: include_str!(concat!("../../python/src/", $path)),
        }),*]
    };
}

/// The package.
pub const FILES: &[File] = files![
    "apts/__init__.py",
    "terminai_apts/__init__.py",
    "terminai_apts/__main__.py",
    "terminai_apts/action/__init__.py",
    "terminai_apts/action/_ignore.py",
    "terminai_apts/action/_read.py",
    "terminai_apts/action/_search.py",
    "terminai_apts/action/_write.py",
    "terminai_apts/action/cleanup.py",
    "terminai_apts/action/files.py",
    "terminai_apts/errors.py",
    "terminai_apts/model.py",
    "terminai_apts/py.typed",
];

/// The digest of the package: of the names and contents of all its files.
#[must_use]
pub fn digest() -> Digest {
    let mut hash = Hasher::default();
    for file in FILES {
        for part in [file.path, file.text] {
            // Lengths keep names and contents apart.
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
    }
    hash.finish().0
}

/// Writes the package into a folder, which then is one for Python's path.
///
/// # Errors
/// If a file cannot be written.
pub fn write_to(folder: &Path) -> io::Result<()> {
    for file in FILES {
        let path = folder.join(file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, file.text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// The files below a folder, relative to it, but for what Python keeps there for itself.
    fn files_below(root: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut pending = vec![PathBuf::new()];
        while let Some(folder) = pending.pop() {
            for entry in fs::read_dir(root.join(&folder)).unwrap() {
                let path = folder.join(entry.unwrap().file_name());
                if path.ends_with("__pycache__")
                    || path.extension().is_some_and(|e| e == "egg-info")
                {
                    continue;
                } else if root.join(&path).is_dir() {
                    pending.push(path);
                } else {
                    found.push(path.to_str().unwrap().to_owned());
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn no_file_of_the_package_is_forgotten() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/src");
        let listed: Vec<_> = FILES.iter().map(|file| file.path).collect();
        assert_eq!(files_below(&source), listed);
    }

    #[test]
    fn version_is_the_packages_own() {
        let init = FILES
            .iter()
            .find(|file| file.path == "terminai_apts/__init__.py");
        assert!(
            init.unwrap()
                .text
                .contains(&format!("__version__ = \"{VERSION}\"\n"))
        );
        let project = include_str!("../../python/pyproject.toml");
        assert!(project.contains(&format!("version = \"{VERSION}\"\n")));
    }

    #[test]
    fn what_is_written_is_the_package() {
        let folder = tempfile::tempdir().unwrap();
        write_to(folder.path()).unwrap();
        let listed: Vec<_> = FILES.iter().map(|file| file.path).collect();
        assert_eq!(files_below(folder.path()), listed);
        for file in FILES {
            let text = fs::read_to_string(folder.path().join(file.path)).unwrap();
            assert_eq!(text, file.text);
        }
    }
}
