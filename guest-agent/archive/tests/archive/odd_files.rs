//! What is no file, what says less of itself than it has, and what is gone when it is wanted.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use agent_archive::room::Room;
use agent_archive::{ArchiveError, pack};
use tar::EntryType;

use crate::support::{Forged, HOSTILE, Walled, packed, unpack_to};

#[test]
fn what_others_have_open_is_not_replaced() {
    let walled = Walled::new();
    let pipe = walled.inside().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let socket = walled.inside().join("socket");
    let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for name in ["pipe", "socket"] {
        let path = walled.inside().join(name);
        let kind = path.symlink_metadata().unwrap().file_type();
        for stream in [
            Forged::default().file(name, b"new"),
            Forged::default().entry(EntryType::Symlink, name, "x", b""),
            Forged::default()
                .file("x", b"new")
                .entry(EntryType::Link, name, "x", b""),
        ] {
            match walled.unpack(&stream.end(), HOSTILE) {
                Err(ArchiveError::Unfit { path, .. }) => assert_eq!(path, name),
                other => panic!("{other:?}"),
            }
            assert_eq!(path.symlink_metadata().unwrap().file_type(), kind);
        }
    }
}

#[test]
fn socket_is_left_out_of_a_folder_and_refused_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let _listening = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut stream = Vec::new();
    let whole = pack(folder.path(), b"copy", false, &mut stream).unwrap();
    assert_eq!((whole.entries, whole.skipped), (1, 1));
    for source in [path.as_path(), Path::new("/dev/null")] {
        match pack(source, b"copy", false, &mut Vec::new()) {
            Err(ArchiveError::Unfit { path, .. }) => assert_eq!(path, "copy"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_the_kernel_makes_is_packed_as_it_is_read() {
    for source in [
        "/proc/version",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/devices/system/cpu/possible",
    ] {
        let Ok(text) = fs::read(source) else { continue };
        assert!(!text.is_empty(), "{source}");
        let target = tempfile::tempdir().unwrap();
        let stream = packed(Path::new(source), "copy");
        unpack_to(target.path(), &stream, HOSTILE).unwrap();
        let copy = fs::read(target.path().join("copy")).unwrap();
        assert_eq!(copy, text, "{source}");
    }
}

#[test]
fn what_tells_no_size_is_not_read_without_end() {
    // Room for much, of which nothing is there: 8 bytes a page of this process's addresses.
    let source = Path::new("/proc/self/pagemap");
    match pack(source, b"copy", false, &mut Vec::new()) {
        Err(ArchiveError::Unfit { path, why }) => {
            assert_eq!(path, "copy");
            assert!(why.contains("fs cat"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

/// Takes an archive, and removes all files of a folder as soon as the first of them comes.
struct Removing<'a> {
    folder: &'a Path,
    taken: Vec<u8>,
}

impl Write for Removing<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if data.starts_with(b"copy/file") {
            for found in fs::read_dir(self.folder)? {
                fs::remove_file(found?.path())?;
            }
        }
        self.taken.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Room for Removing<'_> {
    fn lend(&mut self, most: usize, fill: &mut dyn FnMut(&mut [u8]) -> usize) -> io::Result<usize> {
        self.taken.lend(most, fill)
    }
}

#[test]
fn what_is_gone_before_it_is_read_is_left_out_and_counted() {
    let source = tempfile::tempdir().unwrap();
    for index in 0..5 {
        fs::write(source.path().join(format!("file{index}")), "data").unwrap();
    }
    let mut out = Removing {
        folder: source.path(),
        taken: Vec::new(),
    };
    let whole = pack(source.path(), b"copy", false, &mut out).unwrap();
    assert_eq!((whole.entries, whole.vanished), (2, 4));
    let target = tempfile::tempdir().unwrap();
    unpack_to(target.path(), &out.taken, HOSTILE).unwrap();
    let copies = fs::read_dir(target.path().join("copy")).unwrap();
    for copy in copies {
        assert_eq!(fs::read(copy.unwrap().path()).unwrap(), b"data");
    }
    // What was asked for has to be there.
    let missing = pack(&source.path().join("x"), b"x", false, &mut Vec::new());
    assert!(
        matches!(missing, Err(ArchiveError::File { .. })),
        "{missing:?}"
    );
}
