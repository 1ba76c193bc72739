//! Files of the sandbox: what is promised of reading, writing and copying them.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::thread;
use std::time::Duration;

use agent_client::{Files, FilesError};
use agent_protocol::files::{FaultKind, FileFault, FileKind, FileOperation, FileRequest};
use agent_protocol::from_host::HostFrame;
use agent_protocol::message::{Hello, Request};
use serde_bytes::ByteBuf;

use crate::agent::{Agent, eventually};

pub(crate) fn own() -> String {
    let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
    format!("{}:{}", user.as_raw(), group.as_raw())
}

pub(crate) fn files(agent: &Agent) -> Files {
    agent.session().files(Some(own()))
}

pub(crate) fn bytes(path: &Path) -> &[u8] {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes()
}

#[track_caller]
pub(crate) fn fault<T: std::fmt::Debug>(result: Result<T, FilesError>) -> FileFault {
    match result {
        Err(FilesError::Fault(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

const SEQUENCE: [u8; 251] = {
    let mut bytes = [0_u8; 251];
    let mut index = 0;
    while index < 250 {
        bytes[index + 1] = bytes[index].wrapping_add(7);
        index += 1;
    }
    bytes
};

/// Bytes that look like no others, as many as wanted.
struct Pattern(u64);

impl Read for Pattern {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let count = usize::try_from(self.0).map_or(space.len(), |left| left.min(space.len()));
        // A length that no buffer has: every piece begins elsewhere.
        for piece in space[..count].chunks_mut(251) {
            piece.copy_from_slice(&SEQUENCE[..piece.len()]);
        }
        self.0 -= count as u64;
        Ok(count)
    }
}

#[test]
fn what_is_written_is_read() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a \u{e4}\n");
    let mut data = Vec::new();
    Pattern(3_000_000).read_to_end(&mut data).unwrap();
    let written = files(&agent)
        .write(bytes(&path), Some(0o640), &mut data.as_slice())
        .unwrap();
    assert_eq!(written.bytes, data.len() as u64);
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o640);
    let mut back = Vec::new();
    let read = files(&agent)
        .read(bytes(&path), 0, None, &mut back)
        .unwrap();
    assert!(back == data);
    assert_eq!(read.xxh3, written.xxh3);
    let mut part = Vec::new();
    files(&agent)
        .read(bytes(&path), 1_000_001, Some(5), &mut part)
        .unwrap();
    assert_eq!(part, data[1_000_001..1_000_006]);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

/// A user who is not root, in whose place the test may act.
fn ordinary() -> String {
    match rustix::process::getuid().is_root() {
        true => "65534:65534".to_owned(),
        false => own(),
    }
}

#[test]
fn folder_that_may_not_be_entered_is_not_empty() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let closed = folder.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("x"), "").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o444)).unwrap();
    let mut listed = 0;
    let session = agent.session().files(Some(ordinary()));
    let refused = fault(session.list(bytes(&closed), &mut |_| {
        listed += 1;
        Ok(())
    }));
    assert_eq!((refused.kind, listed), (FaultKind::PermissionDenied, 0));
    assert_eq!(refused.path, closed.join("x").to_str().unwrap());
    // Its owner has to remove it.
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn mode_of_the_old_file_stays() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("x"), folder.path().join("link"));
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
    symlink("x", &link).unwrap();
    files(&agent)
        .write(bytes(&link), None, &mut &b"new"[..])
        .unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o750);
    assert!(link.symlink_metadata().unwrap().is_symlink());
    let new = folder.path().join("new");
    files(&agent)
        .write(bytes(&new), None, &mut &b""[..])
        .unwrap();
    assert_eq!(new.metadata().unwrap().mode() & 0o7777, 0o644);
}

#[test]
fn owner_of_the_old_file_stays_or_its_privileges_go() {
    if !rustix::process::getuid().is_root() {
        return;
    }
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let path = folder.path().join("x");
    fs::write(&path, "old").unwrap();
    std::os::unix::fs::chown(&path, Some(1000), Some(1001)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
    let write = |user: &str| {
        let files = agent.session().files(Some(user.to_owned()));
        files.write(bytes(&path), None, &mut &b"new"[..]).unwrap();
        let metadata = path.metadata().unwrap();
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
    };
    assert_eq!(write("0:0"), (1000, 1001, 0o6777));
    assert_eq!(write("65534:65534"), (65534, 65534, 0o777));
}

#[test]
fn interrupted_write_leaves_the_old_file_alone() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    fs::write(&path, "old").unwrap();
    // A host that dies in the middle, and one that ends early without a digest.
    for says_end in [false, true] {
        let mut stream = agent.connect();
        let request = FileRequest {
            path: ByteBuf::from(bytes(&path)),
            user: Some(own()),
            lane: false,
            operation: FileOperation::Write { mode: None },
        };
        let mut wire = Vec::new();
        HostFrame::Hello(Hello::new()).encode(&mut wire).unwrap();
        HostFrame::Request(Box::new(Request::Files(request)))
            .encode(&mut wire)
            .unwrap();
        HostFrame::Stdin(&[b'n'; 10_000]).encode(&mut wire).unwrap();
        if says_end {
            HostFrame::StdinEof.encode(&mut wire).unwrap();
        }
        stream.write_all(&wire).unwrap();
        if says_end {
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            let text = String::from_utf8_lossy(&answer).into_owned();
            assert!(text.contains("did not arrive whole"), "{text:?}");
        } else {
            thread::sleep(Duration::from_millis(200));
        }
        drop(stream);
        eventually("nothing is left but the old file", || {
            fs::read_dir(&folder).unwrap().count() == 1
        });
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}

#[test]
fn source_that_fails_leaves_the_old_file_alone() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("no more"))
        }
    }
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    fs::write(&path, "old").unwrap();
    let mut input = (&b"new"[..]).chain(Failing);
    let result = files(&agent).write(bytes(&path), None, &mut input);
    assert!(matches!(result, Err(FilesError::Io { .. })), "{result:?}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn faults_name_path_and_reason() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let inside = missing.join("x");
    let here = bytes(folder.path());
    let mut nowhere = io::sink();
    let expect = |fault: FileFault, path: &Path, kind| {
        assert_eq!(
            (fault.path.as_str(), fault.kind),
            (path.to_str().unwrap(), kind),
            "{fault}"
        );
    };
    let found = fault(files(&agent).read(bytes(&missing), 0, None, &mut nowhere));
    assert_eq!(
        found.to_string(),
        format!("{}: No such file or directory", missing.display())
    );
    expect(found, &missing, FaultKind::NotFound);
    let found = fault(files(&agent).read(here, 0, None, &mut nowhere));
    expect(found, folder.path(), FaultKind::IsADirectory);
    let found = fault(files(&agent).write(bytes(&inside), None, &mut &b"x"[..]));
    expect(found, &inside, FaultKind::NotFound);
    let found = fault(files(&agent).write(here, None, &mut Pattern(5_000_000)));
    expect(found, folder.path(), FaultKind::IsADirectory);
    let found = fault(files(&agent).remove(here, false));
    expect(found, folder.path(), FaultKind::IsADirectory);
    let found = fault(files(&agent).make_directory(here, false, None));
    expect(found, folder.path(), FaultKind::Exists);
    let found = fault(files(&agent).rename(bytes(&missing), here));
    expect(found, &missing, FaultKind::NotFound);
    let found = fault(files(&agent).pack(bytes(&missing), b"x", false, &mut nowhere));
    expect(found, &missing, FaultKind::NotFound);
    for (stream, reason) in [
        (&b""[..], "it is empty"),
        (b"short", "it is no tar archive"),
        (b"\x1f\x8b\x08 compressed", "gzip"),
        (&[b'x'; 1024], "it is no tar archive"),
    ] {
        let found = fault(files(&agent).unpack(here, None, &mut &*stream));
        assert_eq!(found.kind, FaultKind::Archive, "{found}");
        assert!(found.reason.contains(reason), "{found}");
    }
    let found = fault(files(&agent).find(here, Some(b"[a"), None, &mut |_| Ok(())));
    expect(found, folder.path(), FaultKind::Invalid);
}

#[test]
fn folders_are_made_listed_moved_and_removed() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("a/b/c");
    files(&agent)
        .make_directory(bytes(&deep), true, Some(0o700))
        .unwrap();
    files(&agent)
        .make_directory(bytes(&deep), true, None)
        .unwrap();
    assert_eq!(deep.metadata().unwrap().mode() & 0o7777, 0o700);
    fs::write(deep.join("file"), "12345").unwrap();
    symlink("file", deep.join("link")).unwrap();
    let mut entries = Vec::new();
    files(&agent)
        .list(bytes(&deep), &mut |entry| {
            entries.push((entry.path.into_vec(), entry.kind, entry.size, entry.target));
            Ok(())
        })
        .unwrap();
    entries.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(entries[0], (b"file".to_vec(), FileKind::File, 5, None));
    assert_eq!(entries[1].1, FileKind::Symlink);
    assert_eq!(entries[1].3, Some(ByteBuf::from("file")));
    let link = deep.join("link");
    assert_eq!(
        files(&agent).stat(bytes(&link), true).unwrap().kind,
        FileKind::File
    );
    assert_eq!(
        files(&agent).stat(bytes(&link), false).unwrap().kind,
        FileKind::Symlink
    );
    let moved = folder.path().join("moved");
    files(&agent)
        .rename(bytes(&folder.path().join("a")), bytes(&moved))
        .unwrap();
    assert!(moved.join("b/c/file").exists());
    files(&agent).remove(bytes(&moved), true).unwrap();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn folder_of_many_files_is_listed_whole() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    for index in 0..3000 {
        File::create(folder.path().join(format!("{index:0200}"))).unwrap();
    }
    let mut count = 0;
    let told = files(&agent)
        .list(bytes(folder.path()), &mut |_| {
            count += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!((count, told.entries), (3000, 3000));
}

#[test]
fn files_are_found_by_name_and_content() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("src/deep")).unwrap();
    fs::write(folder.path().join("src/one.rs"), "fn needle() {}").unwrap();
    fs::write(folder.path().join("src/deep/two.rs"), "fn other() {}").unwrap();
    fs::write(folder.path().join("needle.txt"), "needle").unwrap();
    let find = |name: Option<&str>, contains: Option<&str>| {
        let mut found = Vec::new();
        files(&agent)
            .find(
                bytes(folder.path()),
                name.map(str::as_bytes),
                contains.map(str::as_bytes),
                &mut |entry| {
                    found.push(String::from_utf8(entry.path.into_vec()).unwrap());
                    Ok(())
                },
            )
            .unwrap();
        found.sort();
        found.join(" ")
    };
    assert_eq!(find(Some("*.rs"), None), "src/deep/two.rs src/one.rs");
    assert_eq!(find(Some("src/*.rs"), None), "src/one.rs");
    assert_eq!(find(None, Some("needle")), "needle.txt src/one.rs");
    assert_eq!(find(Some("*.{rs,py}"), Some("needle")), "src/one.rs");
}

#[test]
fn trees_are_copied_in_and_out() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("sub/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(source.join("sub/run"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("run", source.join("sub/link")).unwrap();
    fs::hard_link(source.join("sub/run"), source.join("same")).unwrap();
    File::create(source.join("holes"))
        .unwrap()
        .set_len(50 << 20)
        .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();

    let sandbox = folder.path().join("sandbox");
    fs::create_dir(&sandbox).unwrap();
    let copied = files(&agent)
        .copy_in(&source, bytes(&sandbox), b"in", false)
        .unwrap();
    assert_eq!((copied.entries, copied.skipped), (6, 1));
    assert!(copied.bytes < 1 << 20, "{}", copied.bytes);
    let target = folder.path().join("target");
    fs::create_dir(&target).unwrap();
    let handle = File::open(&target).unwrap();
    files(&agent)
        .copy_out(bytes(&sandbox.join("in")), handle.as_fd(), b"out", false)
        .unwrap();
    let out = target.join("out");
    let run = out.join("sub/run").metadata().unwrap();
    assert_eq!((run.mode() & 0o7777, run.nlink()), (0o755, 2));
    assert_eq!(
        run.modified().unwrap(),
        source.join("same").metadata().unwrap().modified().unwrap()
    );
    assert_eq!(
        fs::read_link(out.join("sub/link")).unwrap(),
        Path::new("run")
    );
    let holes = out.join("holes").metadata().unwrap();
    assert_eq!(holes.len(), 50 << 20);
    assert!(holes.blocks() < 100);
    // What is in it, without itself.
    files(&agent)
        .copy_out(bytes(&out), handle.as_fd(), b".", false)
        .unwrap();
    assert!(target.join("sub/run").exists());
}

#[test]
fn archive_that_would_leave_its_folder_is_refused_by_name() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("in");
    fs::create_dir(&inside).unwrap();
    let mut header = tar_header("../evil", 4);
    header.extend_from_slice(b"evil");
    header.resize(2048, 0);
    let found = fault(files(&agent).unpack(bytes(&inside), None, &mut header.as_slice()));
    assert_eq!(
        (found.path.as_str(), found.kind),
        ("../evil", FaultKind::Refused)
    );
    assert!(!folder.path().join("evil").exists());
    let mut other = tar_header("other", 0);
    other.resize(1536, 0);
    let found = fault(files(&agent).unpack(bytes(&inside), Some(b"x"), &mut other.as_slice()));
    assert_eq!(found.kind, FaultKind::Refused);
    assert_eq!(fs::read_dir(&inside).unwrap().count(), 0);
}

pub(crate) fn tar_header(name: &str, size: usize) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[test]
fn large_file_costs_no_memory() {
    // More than all other tests of this process need together.
    const SIZE: u64 = 160 << 20;
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large");
    files(&agent)
        .write(bytes(&path), None, &mut Pattern(SIZE))
        .unwrap();
    assert_eq!(path.metadata().unwrap().len(), SIZE);
    let mut nowhere = io::sink();
    let read = files(&agent)
        .read(bytes(&path), 0, None, &mut nowhere)
        .unwrap();
    assert_eq!(read.bytes, SIZE);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    let kib: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < SIZE / 1024, "{peak}");
}

#[test]
fn users_rights_count() {
    if !rustix::process::getuid().is_root() {
        return;
    }
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "x").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let as_user = || agent.session().files(None);
    let found = fault(as_user().read(bytes(&secret), 0, None, &mut io::sink()));
    assert_eq!(found.kind, FaultKind::PermissionDenied);
    let found = fault(as_user().write(bytes(&secret), None, &mut &b"y"[..]));
    assert_eq!(found.kind, FaultKind::PermissionDenied);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let mine = folder.path().join("mine");
    as_user().write(bytes(&mine), None, &mut &b"y"[..]).unwrap();
    assert_eq!(mine.metadata().unwrap().uid(), 1000);
    assert_eq!(fs::read(&secret).unwrap(), b"x");
}
