//! Files that are not finished: nothing of them is left, and nobody waits for more of them.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use agent_client::FilesError;
use agent_protocol::files::{FaultKind, FileOperation, FileRequest};
use agent_protocol::from_host::HostFrame;
use agent_protocol::message::{Hello, Request};
use serde_bytes::ByteBuf;

use crate::agent::{Agent, eventually};
use crate::files::{bytes, fault, files, own, tar_header};

#[test]
fn archive_that_breaks_off_leaves_the_old_file_alone() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x"), "old").unwrap();
    let mut stream = agent.connect();
    let request = FileRequest {
        path: ByteBuf::from(bytes(folder.path())),
        user: Some(own()),
        lane: false,
        operation: FileOperation::Unpack {
            root: None,
            owners: false,
        },
    };
    let mut archive = tar_header("first", 0);
    archive.extend(tar_header("x", 1 << 20));
    archive.resize(40_000, b'n');
    let mut wire = Vec::new();
    HostFrame::Hello(Hello::new()).encode(&mut wire).unwrap();
    HostFrame::Request(Box::new(Request::Files(request)))
        .encode(&mut wire)
        .unwrap();
    for part in archive.chunks(10_000) {
        HostFrame::Stdin(part).encode(&mut wire).unwrap();
    }
    stream.write_all(&wire).unwrap();
    eventually("it is being unpacked", || {
        folder.path().join("first").exists()
    });
    thread::sleep(Duration::from_millis(100));
    drop(stream);
    thread::sleep(Duration::from_millis(100));
    eventually("nothing is left but what was whole", || {
        fs::read_dir(&folder).unwrap().count() == 2
    });
    assert_eq!(fs::read(folder.path().join("x")).unwrap(), b"old");
}

#[test]
fn refusal_is_told_while_nothing_comes() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing/x");
    let (silent, _writer) = rustix::pipe::pipe().unwrap();
    let written = files(&agent).write_from(bytes(&missing), None, silent.as_fd());
    assert_eq!(fault(written).kind, FaultKind::NotFound);
    let unpacked = files(&agent).unpack_from(bytes(&missing), None, silent.as_fd());
    assert_eq!(fault(unpacked).kind, FaultKind::NotFound);
}

#[test]
fn descriptors_are_read_to_their_ends() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    fs::write(&source, vec![7; 300_001]).unwrap();
    let input = File::open(&source).unwrap();
    let written = files(&agent).write_from(bytes(&target), None, input.as_fd());
    assert_eq!(written.unwrap().bytes, 300_001);
    assert!(fs::read(&source).unwrap() == fs::read(&target).unwrap());
    // Where nothing can be read, the reason is told.
    let unreadable = File::options().write(true).open(&source).unwrap();
    let refused = files(&agent).write_from(bytes(&target), None, unreadable.as_fd());
    assert!(matches!(refused, Err(FilesError::Io { .. })), "{refused:?}");
}

#[test]
fn list_that_nobody_wants_any_more_ends() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x"), "").unwrap();
    // Also for a reason that writers are used to get over.
    for kind in [ErrorKind::Other, ErrorKind::Interrupted] {
        let ended = files(&agent).list(bytes(folder.path()), &mut |_| Err(kind.into()));
        assert!(matches!(ended, Err(FilesError::Io { .. })), "{ended:?}");
    }
}
