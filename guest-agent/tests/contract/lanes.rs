//! Lanes beside a Unix socket: memory that comes with the request, and what is not taken for it.

use std::fs::{self, File};
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use agent_archive::lane::{LANE_LEN, SLOT_LEN};
use agent_client::{Session, SessionOptions};
use agent_protocol::files::{FaultKind, FileOperation, FileRequest};
use agent_protocol::from_agent::AgentFrame;
use agent_protocol::from_host::HostFrame;
use agent_protocol::message::{Hello, Request};
use agent_protocol::reader::FrameReader;
use rustix::fs::{
    CWD, MemfdFlags, Mode, SealFlags, fcntl_add_seals, ftruncate, memfd_create, mkfifoat,
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_bytes::ByteBuf;

use crate::agent::{Agent, eventually};
use crate::files::{bytes, fault, own};

/// The seals of memory that is taken.
const SEALS: SealFlags = SealFlags::GROW
    .union(SealFlags::SHRINK)
    .union(SealFlags::SEAL);

/// What the agent answers to an offer.
const REFUSED: u8 = 0;
const TAKEN: u8 = 1;

/// A record of 500 bytes in a slot.
const RECORD: [u8; 4] = (500 | 1_u32 << 31).to_le_bytes();

fn memory(length: u64, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = memfd_create("lane", flags).unwrap();
    ftruncate(&memory, length).unwrap();
    fcntl_add_seals(&memory, seals).unwrap();
    memory
}

/// Asks for an operation with a lane, and offers this as its memory. Returns the stream, and the first
/// byte of the operation's output.
fn offer(
    agent: &Agent,
    path: &Path,
    operation: FileOperation,
    memory: Option<BorrowedFd<'_>>,
) -> (UnixStream, u8) {
    let request = FileRequest {
        path: ByteBuf::from(bytes(path)),
        user: Some(own()),
        lane: true,
        operation,
    };
    let mut wire = Vec::new();
    HostFrame::Hello(Hello::new()).encode(&mut wire).unwrap();
    HostFrame::Request(Box::new(Request::Files(request)))
        .encode(&mut wire)
        .unwrap();
    let mut stream = agent.connect();
    let patience = Some(Duration::from_secs(20));
    stream.set_read_timeout(patience).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let memory = memory.map(|memory| [memory]);
    if let Some(memory) = &memory {
        assert!(control.push(SendAncillaryMessage::ScmRights(memory)));
    }
    let sent = sendmsg(
        &stream,
        &[IoSlice::new(&wire)],
        &mut control,
        SendFlags::empty(),
    );
    assert_eq!(sent.unwrap(), wire.len());
    let mut reader = FrameReader::new();
    loop {
        let count = stream.read(reader.space()).unwrap();
        assert!(count > 0, "the agent says nothing");
        reader.filled(count);
        while let Some((kind, payload)) = reader.next_frame().unwrap() {
            if let AgentFrame::Stdout(data) = AgentFrame::decode(kind, payload).unwrap() {
                let answer = data[0];
                return (stream, answer);
            }
        }
    }
}

fn answer(agent: &Agent, path: &Path, memory: Option<OwnedFd>) -> u8 {
    let operation = FileOperation::Read {
        offset: 0,
        length: None,
    };
    offer(agent, path, operation, memory.as_ref().map(AsFd::as_fd)).1
}

#[test]
fn only_memory_that_nobody_can_make_shorter_is_taken() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    fs::write(&path, "x").unwrap();
    let answer = |memory| answer(&agent, &path, memory);
    assert_eq!(answer(Some(memory(LANE_LEN, SEALS))), TAKEN);
    assert_eq!(answer(None), REFUSED);
    let shrinkable = SealFlags::GROW | SealFlags::SEAL;
    assert_eq!(answer(Some(memory(LANE_LEN, shrinkable))), REFUSED);
    for length in [0, LANE_LEN - 1, LANE_LEN + 1] {
        assert_eq!(answer(Some(memory(length, SEALS))), REFUSED, "{length}");
    }
    let unwritable = SEALS | SealFlags::WRITE;
    assert_eq!(answer(Some(memory(LANE_LEN, unwritable))), REFUSED);
    let file = tempfile::tempfile().unwrap();
    file.set_len(LANE_LEN).unwrap();
    assert_eq!(answer(Some(file.into())), REFUSED);
    let (pipe, _write) = std::io::pipe().unwrap();
    assert_eq!(answer(Some(pipe.into())), REFUSED);
}

/// Moves files in all ways that take lanes.
fn move_files(files: &dyn Fn() -> agent_client::Files) {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let path = folder.path().join("x");
    let whole: Vec<u8> = (0..=250).cycle().take(3_000_000).collect();
    let sent = files().write(bytes(&path), None, &mut whole.as_slice());
    assert_eq!(sent.unwrap().bytes, whole.len() as u64);
    let mut come = Vec::new();
    files().read(bytes(&path), 0, None, &mut come).unwrap();
    assert!(come == whole);
    files()
        .copy_in(&path, bytes(folder.path()), b"y", false)
        .unwrap();
    let open = File::open(folder.path()).unwrap();
    let copied = folder.path().join("y");
    files()
        .copy_out(bytes(&copied), open.as_fd(), b"z", false)
        .unwrap();
    assert!(fs::read(folder.path().join("z")).unwrap() == whole);
    let missing = folder.path().join("missing");
    let refused = fault(files().read(bytes(&missing), 0, None, &mut Vec::new()));
    assert_eq!(refused.kind, FaultKind::NotFound);
    let refused = fault(files().write(bytes(&missing.join("x")), None, &mut &b"x"[..]));
    assert_eq!(refused.kind, FaultKind::NotFound);
    let mut large = whole.repeat(3);
    let refused = fault(files().write(bytes(&missing.join("x")), None, &mut large.as_slice()));
    assert_eq!(refused.kind, FaultKind::NotFound);
    large.clear();
    files()
        .write(bytes(&path), None, &mut large.as_slice())
        .unwrap();
    assert_eq!(path.metadata().unwrap().len(), 0);
}

#[test]
fn files_move_through_a_lane() {
    let agent = Agent::start();
    move_files(&|| agent.session().with_lanes(true).files(Some(own())));
}

/// Tells of each piece that is written.
struct Told(Sender<Vec<u8>>);

impl Write for Told {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.send(data.to_vec()).unwrap();
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A slot that waits to be full would hold it back.
#[test]
fn what_comes_slowly_is_passed_on_as_it_comes() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    let files = agent.session().with_lanes(true).files(Some(own()));
    let (told, pieces) = channel();
    thread::scope(|scope| {
        let path = &path;
        scope.spawn(move || files.read(bytes(path), 0, None, &mut Told(told)).unwrap());
        let mut fifo = File::options().write(true).open(path).unwrap();
        for piece in ["one", "and", "two"] {
            fifo.write_all(piece.as_bytes()).unwrap();
            let come = pieces.recv_timeout(Duration::from_secs(20)).unwrap();
            assert_eq!(come, piece.as_bytes());
        }
    });
}

/// The operation has the rights of its user, who could not open the memory.
#[test]
fn lane_is_there_for_whatever_user_asks() {
    if !rustix::process::getuid().is_root() {
        return;
    }
    let agent = Agent::start();
    let files = || agent.session().with_lanes(true).files(None);
    move_files(&files);
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let path = folder.path().join("x");
    let data = vec![7; 2 * SLOT_LEN];
    files()
        .write(bytes(&path), None, &mut data.as_slice())
        .unwrap();
    assert_eq!(path.metadata().unwrap().uid(), 1000);
}

/// Through a bridge only bytes come.
#[test]
fn lane_that_cannot_be_had_is_done_without() {
    let agent = Agent::start();
    move_files(&|| {
        let (near, far) = UnixStream::pair().unwrap();
        let there = agent.connect();
        for (mut from, mut to) in [
            (far.try_clone().unwrap(), there.try_clone().unwrap()),
            (there, far),
        ] {
            thread::spawn(move || {
                let _ = std::io::copy(&mut Bytes(&mut from), &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
        }
        Session::new(near, SessionOptions::default())
            .with_lanes(true)
            .files(Some(own()))
    });
}

/// Has what is copied be read and written, as a bridge does, and not be passed on by the kernel.
struct Bytes<'a>(&'a mut UnixStream);

impl Read for Bytes<'_> {
    fn read(&mut self, space: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(space)
    }
}

#[test]
fn host_that_dies_beside_its_lane_leaves_the_old_file_alone() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    fs::write(&path, "old").unwrap();
    let memory = memory(LANE_LEN, SEALS);
    let operation = FileOperation::Write { mode: None };
    let (mut stream, answer) = offer(&agent, &path, operation, Some(memory.as_fd()));
    assert_eq!(answer, TAKEN);
    File::from(memory).write_all_at(&[b'n'; 500], 0).unwrap();
    let mut wire = Vec::new();
    HostFrame::Stdin(&RECORD).encode(&mut wire).unwrap();
    stream.write_all(&wire).unwrap();
    // It says that the slot is free again.
    assert!(stream.read(&mut [0; 64]).unwrap() > 0);
    drop(stream);
    eventually("nothing is left but the old file", || {
        fs::read_dir(&folder).unwrap().count() == 1
    });
    assert_eq!(fs::read(&path).unwrap(), b"old");
}
