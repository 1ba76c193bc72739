//! Trees survive, and hostile archives write nothing outside their folder.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod odd_files;
mod support;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use agent_archive::{ArchiveError, Links, UnpackOptions};
use proptest::prelude::*;
use tar::{EntryType, Header};

use crate::support::{Forged, HOSTILE, Walled, assert_refused, packed, unpack_to};

#[test]
fn tree_survives() {
    let source = tempfile::tempdir().unwrap();
    let root = source.path().join("tree");
    let long = "n".repeat(200);
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(root.join("a/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("a/run"), fs::Permissions::from_mode(0o751)).unwrap();
    fs::write(root.join(&long), "long").unwrap();
    fs::write(root.join("one\ntwo"), vec![7; 100_000]).unwrap();
    fs::hard_link(root.join("a/run"), root.join("a/b/same")).unwrap();
    symlink("../run", root.join("a/b/link")).unwrap();
    symlink(&long, root.join("far")).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    let file = File::options()
        .write(true)
        .open(root.join("a/run"))
        .unwrap();
    file.set_modified(time).unwrap();
    File::open(root.join("a/b"))
        .unwrap()
        .set_modified(time)
        .unwrap();
    fs::set_permissions(root.join("a/b"), fs::Permissions::from_mode(0o500)).unwrap();

    let target = tempfile::tempdir().unwrap();
    let options = UnpackOptions {
        root: Some(b"copy"),
        ..HOSTILE
    };
    unpack_to(target.path(), &packed(&root, "copy"), options).unwrap();
    let copy = target.path().join("copy");
    let run = fs::metadata(copy.join("a/run")).unwrap();
    assert_eq!((run.mode() & 0o7777, run.nlink()), (0o751, 2));
    assert_eq!(run.modified().unwrap(), time);
    let folder = fs::metadata(copy.join("a/b")).unwrap();
    assert_eq!(folder.mode() & 0o7777, 0o500);
    assert_eq!(folder.modified().unwrap(), time);
    assert_eq!(fs::read(copy.join("one\ntwo")).unwrap(), vec![7; 100_000]);
    assert_eq!(fs::read(copy.join(&long)).unwrap(), b"long");
    assert_eq!(fs::read_link(copy.join("far")).unwrap(), Path::new(&long));
    assert_eq!(
        fs::read_link(copy.join("a/b/link")).unwrap(),
        Path::new("../run")
    );
    assert_eq!(
        fs::metadata(copy.join("a/b/same")).unwrap().ino(),
        run.ino()
    );
}

#[test]
fn holes_stay_holes() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("holes");
    let file = File::create(&source).unwrap();
    for index in 0..60 {
        std::os::unix::fs::FileExt::write_all_at(&file, b"data", index * 1_048_576).unwrap();
    }
    file.set_len(100 << 20).unwrap();
    let stream = packed(&source, "copy");
    assert!(stream.len() < 1 << 20, "{}", stream.len());
    unpack_to(folder.path(), &stream, HOSTILE).unwrap();
    let copy = folder.path().join("copy");
    assert!(copy.metadata().unwrap().blocks() * 512 < 1 << 20);
    assert!(fs::read(&copy).unwrap() == fs::read(&source).unwrap());
}

#[test]
fn other_tars_read_and_write_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let long = format!("{}/{}", "d".repeat(60), "e".repeat(60));
    let tree = folder.path().join("tree");
    fs::create_dir_all(tree.join(&long)).unwrap();
    fs::write(tree.join(&long).join("x"), "1").unwrap();
    let holes = File::create(tree.join("holes")).unwrap();
    holes.set_len(10 << 20).unwrap();
    let archive = folder.path().join("a.tar");
    for format in ["gnu", "pax", "ustar"] {
        let made = Command::new("tar")
            .args(["--format", format, "-C"])
            .arg(folder.path())
            .args(["-cf", "-", "tree"])
            .stderr(Stdio::null())
            .output()
            .unwrap();
        let target = tempfile::tempdir().unwrap();
        unpack_to(target.path(), &made.stdout, HOSTILE).unwrap();
        let read = fs::read(target.path().join("tree").join(&long).join("x"));
        assert_eq!(read.unwrap(), b"1", "{format}");
    }
    fs::write(&archive, packed(&tree, "ours")).unwrap();
    let status = Command::new("tar")
        .arg("-C")
        .arg(folder.path())
        .arg("-xf")
        .arg(&archive)
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(
        fs::read(folder.path().join("ours").join(&long).join("x")).unwrap(),
        b"1"
    );
    assert_eq!(
        folder.path().join("ours/holes").metadata().unwrap().len(),
        10 << 20
    );
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    for name in ["/secret", "../secret", "a/../../secret", "a/..", ".."] {
        let stream = Forged::default().file(name, b"new").end();
        assert_refused(Walled::new().unpack(&stream, HOSTILE), name);
    }
}

#[test]
fn files_behind_links_are_refused() {
    for link in ["..", "/", ".", "/tmp"] {
        let walled = Walled::new();
        let stream = Forged::default()
            .entry(EntryType::Symlink, "way", link, b"")
            .file("way/secret", b"new")
            .end();
        assert_refused(walled.unpack(&stream, HOSTILE), "way");
    }
}

#[test]
fn links_are_followed_beneath_the_folder_alone() {
    let options = UnpackOptions {
        links: Links::StayBeneath,
        ..HOSTILE
    };
    let through = |link| {
        Forged::default()
            .entry(EntryType::Directory, "real", "", b"")
            .entry(EntryType::Symlink, "way", link, b"")
            .file("way/file", b"new")
            .end()
    };
    let walled = Walled::new();
    walled.unpack(&through("real"), options).unwrap();
    assert_eq!(fs::read(walled.inside().join("real/file")).unwrap(), b"new");
    for link in ["..", "/", "real/../.."] {
        assert_refused(Walled::new().unpack(&through(link), options), "way");
    }
}

#[test]
fn file_takes_a_links_place() {
    let walled = Walled::new();
    let stream = Forged::default()
        .entry(EntryType::Symlink, "file", "../secret", b"")
        .file("file", b"new")
        .end();
    walled.unpack(&stream, HOSTILE).unwrap();
    let file = walled.inside().join("file");
    assert!(file.symlink_metadata().unwrap().is_file());
    assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn owners_are_kept_if_that_is_wanted_and_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), "x").unwrap();
    symlink("file", tree.join("link")).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        for name in ["", "file", "link"] {
            std::os::unix::fs::lchown(tree.join(name), Some(70_001), Some(3_000_000)).unwrap();
        }
    }
    let owners = UnpackOptions {
        owners: true,
        ..HOSTILE
    };
    let stream = packed(&tree, "copy");
    unpack_to(folder.path(), &stream, owners).unwrap();
    for name in ["", "file", "link"] {
        let [was, is] = ["tree", "copy"].map(|tree| {
            let path = folder.path().join(tree).join(name);
            let metadata = path.symlink_metadata().unwrap();
            (metadata.uid(), metadata.gid())
        });
        assert_eq!(was, is, "{name:?}");
    }
    if is_root {
        return;
    }
    // Somebody else's, which only root could make.
    let mut header = Header::new_gnu();
    header.set_path("theirs").unwrap();
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header.set_mode(0o644);
    header.set_cksum();
    let mut stream = header.as_bytes().to_vec();
    stream.resize(1536, 0);
    let refused = unpack_to(folder.path(), &stream, owners);
    assert!(
        matches!(refused, Err(ArchiveError::Owner { user: 0, .. })),
        "{refused:?}"
    );
    assert!(!folder.path().join("theirs").exists());
}

#[test]
fn hard_links_out_are_refused() {
    for target in ["../secret", "/etc/passwd"] {
        let stream = Forged::default()
            .entry(EntryType::Link, "file", target, b"")
            .end();
        assert_refused(Walled::new().unpack(&stream, HOSTILE), target);
    }
    let through_link = Forged::default()
        .entry(EntryType::Symlink, "way", "..", b"")
        .entry(EntryType::Link, "file", "way/secret", b"")
        .end();
    assert_refused(Walled::new().unpack(&through_link, HOSTILE), "way");
}

#[test]
fn what_was_not_asked_for_is_refused() {
    let options = UnpackOptions {
        root: Some(b"x"),
        ..HOSTILE
    };
    for name in [".bashrc", "xy", "y/x", "."] {
        let stream = Forged::default()
            .entry(EntryType::Directory, name, "", b"")
            .end();
        assert_refused(Walled::new().unpack(&stream, options), name);
    }
    // Through a link that has the right name, too.
    let stream = Forged::default()
        .entry(EntryType::Symlink, "x", ".", b"")
        .file("x/.bashrc", b"evil")
        .end();
    let walled = Walled::new();
    assert_refused(walled.unpack(&stream, options), "x");
    assert!(!walled.inside().join(".bashrc").exists());
}

#[test]
fn devices_are_refused() {
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo] {
        let stream = Forged::default().entry(kind, "node", "", b"").end();
        assert_refused(Walled::new().unpack(&stream, HOSTILE), "node");
    }
}

#[test]
fn what_is_no_tar_archive_is_told_as_what_it_is() {
    let compressed = |length| [b"\x1f\x8b\x08".as_slice(), &vec![7; length]].concat();
    for (stream, words) in [
        (compressed(20), "gzip"),
        (compressed(5000), "gzip"),
        (b"BZh91AY&SY".to_vec(), "bzip2"),
        (vec![b'x'; 1024], "header"),
    ] {
        match Walled::new().unpack(&stream, HOSTILE) {
            Err(ArchiveError::Foreign(what)) => assert!(what.contains(words), "{what}"),
            other => panic!("{words}: {other:?}"),
        }
    }
    // A stream that nothing has come of may have failed: who knows why tells.
    for stream in [&b""[..], b"short"] {
        let result = Walled::new().unpack(stream, HOSTILE);
        assert!(matches!(result, Err(ArchiveError::Stream(_))), "{result:?}");
    }
}

#[test]
fn name_of_a_gigabyte_costs_nothing() {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 30);
    header.set_cksum();
    let result = Walled::new().unpack(header.as_bytes(), HOSTILE);
    assert!(
        matches!(result, Err(ArchiveError::Malformed(_))),
        "{result:?}"
    );
}

#[test]
fn archive_that_is_cut_off_leaves_the_old_file() {
    let walled = Walled::new();
    fs::write(walled.inside().join("file"), "old").unwrap();
    let stream = Forged::default().file("file", &[1; 10_000]).end();
    let result = walled.unpack(&stream[..5_000], HOSTILE);
    assert!(matches!(result, Err(ArchiveError::Stream(_))), "{result:?}");
    assert_eq!(fs::read(walled.inside().join("file")).unwrap(), b"old");
    assert_eq!(fs::read_dir(walled.inside()).unwrap().count(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_sequence_of_entries_leaves_the_folder(
        entries in prop::collection::vec(
            (0usize..4, "(\\.|\\.\\.|a|b|/|secret){1,4}(/(\\.\\.|a|b|secret)){0,3}",
             "(\\.|\\.\\.|a|/|b)(/(\\.\\.|a|secret)){0,3}"),
            1..8),
        follow in any::<bool>(),
    ) {
        let walled = Walled::new();
        let links = if follow { Links::StayBeneath } else { Links::Refuse };
        // Each on its own: the first refusal would hide the others.
        for (kind, path, link) in entries {
            let stream = match kind {
                0 => Forged::default().file(&path, b"new"),
                1 => Forged::default().entry(EntryType::Symlink, &path, &link, b""),
                2 => Forged::default().entry(EntryType::Link, &path, &link, b""),
                _ => Forged::default().entry(EntryType::Directory, &path, "", b""),
            };
            let _ = walled.unpack(&stream.end(), UnpackOptions { links, ..HOSTILE });
        }
    }

    #[test]
    fn arbitrary_streams_never_panic(stream in prop::collection::vec(any::<u8>(), 0..3000)) {
        let _ = Walled::new().unpack(&stream, HOSTILE);
    }
}
