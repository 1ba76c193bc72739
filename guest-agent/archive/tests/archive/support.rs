//! What archives are made of and unpacked in here.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use agent_archive::{ArchiveError, Links, UnpackOptions, Unpacked, pack, unpack};
use tar::{EntryType, Header};
use tempfile::TempDir;

pub(crate) const HOSTILE: UnpackOptions<'static> = UnpackOptions {
    root: None,
    links: Links::Refuse,
    modes: 0o777,
    owners: false,
};

pub(crate) fn packed(source: &Path, name: &str) -> Vec<u8> {
    let mut stream = Vec::new();
    pack(source, name.as_bytes(), false, &mut stream).unwrap();
    stream
}

pub(crate) fn unpack_to(
    folder: &Path,
    stream: &[u8],
    options: UnpackOptions<'_>,
) -> Result<Unpacked, ArchiveError> {
    let folder = File::open(folder).unwrap();
    unpack(&mut &stream[..], folder.as_fd(), options)
}

/// An archive of entries that no packer would make.
#[derive(Default)]
pub(crate) struct Forged(Vec<u8>);

impl Forged {
    pub(crate) fn entry(mut self, kind: EntryType, path: &str, link: &str, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o4755);
        header.set_size(data.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, path: &str, data: &[u8]) -> Self {
        self.entry(EntryType::Regular, path, "", data)
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A folder inside another one, in which nothing else may appear.
pub(crate) struct Walled {
    outer: TempDir,
}

impl Walled {
    pub(crate) fn new() -> Self {
        let outer = tempfile::tempdir().unwrap();
        fs::create_dir(outer.path().join("in")).unwrap();
        fs::write(outer.path().join("secret"), "old").unwrap();
        Self { outer }
    }

    pub(crate) fn inside(&self) -> std::path::PathBuf {
        self.outer.path().join("in")
    }

    pub(crate) fn unpack(
        &self,
        stream: &[u8],
        options: UnpackOptions<'_>,
    ) -> Result<Unpacked, ArchiveError> {
        let result = unpack_to(&self.inside(), stream, options);
        let mut names: Vec<_> = fs::read_dir(&self.outer)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["in", "secret"]);
        let secret = self.outer.path().join("secret");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "old");
        assert_eq!(secret.metadata().unwrap().nlink(), 1);
        result
    }
}

#[track_caller]
pub(crate) fn assert_refused(result: Result<Unpacked, ArchiveError>, entry: &str) {
    match result {
        Err(ArchiveError::Refused { entry: named, .. }) => assert_eq!(named, entry),
        other => panic!("{other:?}"),
    }
}
