//! The interface by paths.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::spec::{OP_REQUEST, OP_RESPONSE, OP_RST, OP_RW};
use super::super::{Vsock, VsockError};
use super::guest::{CID, Guest, Socket};
use crate::config::VsockConfig;

fn guest_at(path: &Path) -> Guest {
    let mut guest = Guest::not_started(Some(path.to_owned()), 32);
    guest.start();
    guest
}

fn vsock_at(path: &Path) -> Result<Vsock, VsockError> {
    Vsock::new(&VsockConfig {
        guest_cid: CID,
        lanes: false,
        uds_path: Some(path.to_owned()),
    })
}

fn client(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_nonblocking(true).unwrap();
    stream
}

#[test]
fn client_connects_and_hears_ok_when_the_guest_accepts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.sock");
    let mut guest = guest_at(&path);
    let mut client = client(&path);
    // What follows the line belongs to the guest.
    client.write_all(b"CONNECT 1024\nhello").unwrap();
    guest.device.handle_events();
    let request = guest.receive_one();
    assert_eq!((request.op, request.dst_port), (OP_REQUEST, 1024));
    assert_eq!(
        client.read(&mut [0; 8]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    guest.send(Socket::answering(&request).header(OP_RESPONSE, 0), &[]);
    let packets = guest.receive();
    assert_eq!(packets[0].1, b"hello");
    guest.send(Socket::answering(&request).header(OP_RW, 5), b"world");
    let mut answer = [0; 64];
    let count = client.read(&mut answer).unwrap();
    let expected = format!("OK {}\nworld", request.src_port);
    assert_eq!(&answer[..count], expected.as_bytes());
}

#[test]
fn client_is_closed_when_the_guest_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.sock");
    let mut guest = guest_at(&path);
    let mut client = client(&path);
    client.write_all(b"CONNECT 1024\n").unwrap();
    guest.device.handle_events();
    let request = guest.receive_one();
    guest.send(Socket::answering(&request).header(OP_RST, 0), &[]);
    assert!(matches!(client.read(&mut [0; 8]), Ok(0)));
}

#[test]
fn line_may_come_in_pieces_and_blocks_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.sock");
    let mut guest = guest_at(&path);
    let mut slow = client(&path);
    let mut fast = client(&path);
    for byte in b"CONNECT 17" {
        slow.write_all(&[*byte]).unwrap();
        guest.device.handle_events();
    }
    fast.write_all(b"CONNECT 18\n").unwrap();
    guest.device.handle_events();
    assert_eq!(guest.receive_one().dst_port, 18);
    slow.write_all(b"\n").unwrap();
    guest.device.handle_events();
    assert_eq!(guest.receive_one().dst_port, 17);
}

#[test]
fn garbage_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.sock");
    let mut guest = guest_at(&path);
    for line in [
        "\n",
        "GET / HTTP/1.1\r\n",
        "CONNECT\n",
        "CONNECT 99999999999\n",
        &"x".repeat(40),
    ] {
        let mut client = client(&path);
        client.write_all(line.as_bytes()).unwrap();
        guest.device.handle_events();
        let end = client.read(&mut [0; 8]);
        let gone = match end {
            Ok(count) => count == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        };
        assert!(gone, "{line:?}");
    }
    let client = client(&path);
    guest.device.handle_events();
    assert_eq!(guest.device.entries(), 1);
    drop(client);
    guest.device.handle_events();
    assert_eq!(guest.device.entries(), 0);
    assert!(guest.receive().is_empty());
}

#[test]
fn clients_that_say_nothing_make_room_for_others_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.sock");
    let mut guest = guest_at(&path);
    let silent: Vec<_> = (0..64).map(|_| client(&path)).collect();
    guest.device.handle_events();
    let mut waiting = client(&path);
    waiting.write_all(b"CONNECT 5\n").unwrap();
    guest.device.handle_events();
    assert!(guest.receive().is_empty());
    guest.pass_time(Duration::from_secs(3));
    guest.device.handle_events();
    guest.device.handle_events();
    assert_eq!(guest.receive_one().dst_port, 5);
    for mut client in silent {
        assert!(matches!(client.read(&mut [0; 8]), Ok(0)));
    }
}

#[test]
fn client_before_the_driver_is_up_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.sock");
    let mut guest = Guest::not_started(Some(path.clone()), 8);
    let mut client = client(&path);
    client.write_all(b"CONNECT 5\n").unwrap();
    guest.device.handle_events();
    guest.start();
    assert_eq!(guest.receive_one().dst_port, 5);
}

#[test]
fn guest_connects_to_the_socket_of_its_port() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.sock");
    let mut guest = guest_at(&path);
    let listener = UnixListener::bind(folder.path().join("v.sock_77")).unwrap();
    let socket = Socket::new(7, 77);
    guest.send(socket.header(OP_REQUEST, 0), &[]);
    assert_eq!(guest.receive_one().op, OP_RESPONSE);
    guest.send(socket.header(OP_RW, 2), b"hi");
    let mut bytes = [0; 2];
    let mut theirs = listener.accept().unwrap().0;
    theirs.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hi");

    guest.send(Socket::new(7, 78).header(OP_REQUEST, 0), &[]);
    assert_eq!(guest.receive_one().op, OP_RST);
}

#[test]
fn file_is_removed_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.sock");
    let device = vsock_at(&path).unwrap();
    assert!(path.exists());
    drop(device);
    assert!(!path.exists());
    drop(vsock_at(&path).unwrap());
}

#[test]
fn what_exists_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.sock");
    drop(UnixListener::bind(&path).unwrap());
    let error = vsock_at(&path).unwrap_err();
    assert!(matches!(error, VsockError::SocketExists { .. }));
    assert!(error.to_string().contains("remove the file"));
    fs::remove_file(&path).unwrap();
    fs::write(&path, "data").unwrap();
    assert!(matches!(
        vsock_at(&path).unwrap_err(),
        VsockError::ForeignFile { .. }
    ));
    assert_eq!(fs::read(&path).unwrap(), b"data");
}

#[test]
fn bad_configurations_are_refused() {
    let long = PathBuf::from("/tmp").join("x".repeat(100));
    assert!(matches!(
        vsock_at(&long).unwrap_err(),
        VsockError::PathTooLong { len: 105, .. }
    ));
    let nowhere = Path::new("/nonexistent/v.sock");
    assert!(matches!(
        vsock_at(nowhere).unwrap_err(),
        VsockError::Listen { .. }
    ));
    for cid in [0, 1, 2, u32::MAX] {
        let error = Vsock::new(&VsockConfig {
            guest_cid: cid,
            lanes: false,
            uds_path: None,
        })
        .unwrap_err();
        assert!(matches!(error, VsockError::ReservedCid { .. }));
    }
}
