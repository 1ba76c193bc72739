//! A file that is not there until it is whole.
//!
//! While it is written it has no name (`O_TMPFILE`): whatever kills this process, the old file stays
//! as it is, and nothing else is left. File systems that cannot do that get a name of ours in the
//! same folder, which is removed when this is dropped, and by the next one in that folder if this
//! process is killed before (`temporary`).

use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{AtFlags, CWD, OFlags};
use rustix::io::Errno;

use crate::temporary::{self, OWN_MODE};

/// A file on its way to its place in a folder.
#[derive(Debug)]
pub struct NewFile<'a> {
    file: File,
    folder: BorrowedFd<'a>,
    /// Its name until then, if it must have one.
    name: Option<Vec<u8>>,
}

impl<'a> NewFile<'a> {
    /// An empty one, in a folder, of mode 0600.
    ///
    /// # Errors
    ///
    /// If none can be made there.
    pub fn create(folder: BorrowedFd<'a>) -> io::Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let (file, name) = match rustix::fs::openat(folder, ".", flags, OWN_MODE) {
            Ok(file) => (file.into(), None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
                let (file, name) = temporary::create(folder)?;
                (file, Some(name))
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self { file, folder, name })
    }

    /// What is written to.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Gives it its name, in the place of whatever has it.
    ///
    /// # Errors
    ///
    /// If it cannot have it; what has it stays.
    pub fn place(mut self, name: &[u8]) -> io::Result<()> {
        if self.name.is_none() {
            match self.link(name) {
                Ok(()) => return Ok(()),
                // link(2) replaces nothing, and rename(2) can.
                Err(Errno::EXIST) => {
                    let own = temporary::name()?;
                    // Whoever needs names here must not take it for left behind.
                    temporary::hold(&self.file);
                    self.link(&own)?;
                    self.name = Some(own);
                }
                // Where it cannot be given a name, a copy can.
                Err(_) => self.copy()?,
            }
        }
        if let Some(own) = &self.name {
            rustix::fs::renameat(self.folder, own.as_slice(), self.folder, name)?;
        }
        self.name = None;
        Ok(())
    }

    /// Gives a file without a name one.
    fn link(&self, name: &[u8]) -> rustix::io::Result<()> {
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rustix::fs::linkat(CWD, own, self.folder, name, AtFlags::SYMLINK_FOLLOW)
    }

    /// Becomes a copy that has a name, with the same mode, owner and times.
    fn copy(&mut self) -> io::Result<()> {
        let (mut copy, name) = temporary::create(self.folder)?;
        self.name = Some(name);
        self.file.rewind()?;
        io::copy(&mut self.file, &mut copy)?;
        let metadata = self.file.metadata()?;
        std::os::unix::fs::fchown(&copy, Some(metadata.uid()), Some(metadata.gid()))?;
        copy.set_permissions(metadata.permissions())?;
        copy.set_modified(metadata.modified()?)?;
        copy.sync_all()?;
        self.file = copy;
        Ok(())
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // Nothing more can be done about it here.
            let _ = rustix::fs::unlinkat(self.folder, name.as_slice(), AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;

    use rustix::fs::Mode;

    use super::*;

    fn names(folder: &tempfile::TempDir) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// One that has a name while it is written, as on a file system that wants it so.
    fn named(folder: BorrowedFd<'_>) -> NewFile<'_> {
        let (file, name) = temporary::create(folder).unwrap();
        NewFile {
            file,
            folder,
            name: Some(name),
        }
    }

    #[test]
    fn file_is_there_when_it_is_placed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let opened = File::open(&folder).unwrap();
        for (text, make) in [
            ("first", NewFile::create as fn(_) -> _),
            ("second", NewFile::create),
            ("third", |folder| Ok(named(folder))),
        ] {
            let mut new = make(opened.as_fd()).unwrap();
            new.file().write_all(text.as_bytes()).unwrap();
            new.place(b"x").unwrap();
            assert_eq!(fs::read_to_string(folder.path().join("x")).unwrap(), text);
            assert_eq!(names(&folder), ["x"]);
        }
    }

    #[test]
    fn file_that_is_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let opened = File::open(&folder).unwrap();
        drop(NewFile::create(opened.as_fd()).unwrap());
        let named = named(opened.as_fd());
        assert_eq!(names(&folder).len(), 1);
        drop(named);
        assert_eq!(names(&folder), [""; 0]);
    }

    #[test]
    fn name_of_a_folder_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("x")).unwrap();
        let opened = File::open(&folder).unwrap();
        let new = NewFile::create(opened.as_fd()).unwrap();
        assert!(new.place(b"x").is_err());
        assert_eq!(names(&folder), ["x"]);
    }

    #[test]
    fn copy_takes_the_place_of_what_cannot_have_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let opened = File::open(&folder).unwrap();
        let mut new = NewFile::create(opened.as_fd()).unwrap();
        new.file().write_all(b"text").unwrap();
        rustix::fs::fchmod(&new.file, Mode::from_raw_mode(0o640)).unwrap();
        new.copy().unwrap();
        new.place(b"x").unwrap();
        let path = folder.path().join("x");
        assert_eq!(fs::read(&path).unwrap(), b"text");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(names(&folder), ["x"]);
    }
}
