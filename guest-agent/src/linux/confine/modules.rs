//! Python modules that the host gives to commands.
//!
//! They are copied into the sandbox, a few dozen kilobytes: the folder may lie where nobody but the
//! host's user gets to, whom the sandbox does not know, so it cannot be mounted; and a copy stays what
//! it is while the host changes its own.

use std::ffi::{CStr, OsStr};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Dir, FileType, Mode, OFlags, open, openat};
use rustix::io::Errno;

/// Folders in folders, and the bytes of all files: more is no package that a host gives.
const MAX_DEPTH: u32 = 8;
const MAX_BYTES: u64 = 1 << 20;

/// A folder of modules.
#[derive(Debug)]
pub(super) struct Modules(OwnedFd);

impl Modules {
    /// Opens a folder; `None` if there is nothing to open.
    pub(super) fn open(path: &[u8]) -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open(path, flags, Mode::empty()).ok().map(Self)
    }

    /// Copies all that is in it.
    pub(super) fn copy_to(&self, target: &str) -> io::Result<()> {
        fs::create_dir_all(target)?;
        let mut room = MAX_BYTES;
        copy(&self.0, Path::new(target), MAX_DEPTH, &mut room)
    }
}

fn copy(source: impl AsFd, target: &Path, depth: u32, room: &mut u64) -> io::Result<()> {
    for entry in Dir::read_from(&source)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let path = target.join(OsStr::from_bytes(name.to_bytes()));
        match entry.file_type() {
            FileType::Directory if depth > 0 => {
                let folder = open_below(&source, name, OFlags::DIRECTORY)?;
                fs::create_dir(&path)?;
                copy(folder, &path, depth - 1, room)?;
            }
            FileType::RegularFile => {
                let file = File::from(open_below(&source, name, OFlags::NONBLOCK)?);
                let copied = io::copy(&mut file.take(*room), &mut File::create(path)?)?;
                *room -= copied;
            }
            // Links and the like are in no package.
            _ => {}
        }
        if *room == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
    Ok(())
}

fn open_below(folder: impl AsFd, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(folder, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn copied(fill: impl FnOnce(&Path)) -> (tempfile::TempDir, io::Result<()>) {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        fs::create_dir(&source).unwrap();
        fill(&source);
        let modules = Modules::open(source.as_os_str().as_bytes()).unwrap();
        let target = folder.path().join("a/b");
        let result = modules.copy_to(target.to_str().unwrap());
        (folder, result)
    }

    #[test]
    fn files_and_folders_are_copied_and_links_are_not() {
        let (folder, result) = copied(|source| {
            fs::create_dir_all(source.join("package/inner")).unwrap();
            fs::write(source.join("package/inner/x.py"), "x = 1").unwrap();
            fs::write(source.join("y.py"), "").unwrap();
            symlink("/etc/passwd", source.join("z.py")).unwrap();
        });
        result.unwrap();
        let target = folder.path().join("a/b");
        let text = fs::read_to_string(target.join("package/inner/x.py")).unwrap();
        assert_eq!(text, "x = 1");
        assert!(target.join("y.py").exists());
        assert!(fs::symlink_metadata(target.join("z.py")).is_err());
    }

    #[test]
    fn what_is_too_large_is_no_package() {
        let (_folder, result) = copied(|source| {
            fs::write(source.join("x.py"), vec![b' '; 2 << 20]).unwrap();
        });
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_folder_that_is_not_there_is_none() {
        assert!(Modules::open(b"/no/such/folder").is_none());
    }
}
