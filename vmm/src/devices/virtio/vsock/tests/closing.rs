//! How connections end, in each direction and altogether.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::super::spec::{
    OP_REQUEST, OP_RESPONSE, OP_RST, OP_RW, OP_SHUTDOWN, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE,
    SHUTDOWN_SEND,
};
use super::guest::{Guest, Socket, noise, stream_pair};
use crate::devices::virtio::VirtioDevice;

fn is_closed(stream: &mut UnixStream) -> bool {
    matches!(stream.read(&mut [0; 16]), Ok(0))
}

/// Sends as much as the device gives credit for, so that the host's socket is full. Returns it.
fn fill(guest: &mut Guest, socket: &mut Socket) -> Vec<u8> {
    let data = noise(socket.credit(), 9);
    for piece in data.chunks(60_000) {
        guest.send(socket.header(OP_RW, piece.len()), piece);
        socket.sent += piece.len() as u32;
    }
    // What it says of credit on the way is no matter here.
    guest.receive();
    data
}

/// Reads all that there is until the end, letting the device go on.
fn read_to_end(guest: &mut Guest, stream: &mut UnixStream) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        match stream.read_to_end(&mut data) {
            Ok(_) => return data,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        guest.device.handle_events();
    }
}

#[test]
fn guest_half_close_is_eof_for_the_host_which_goes_on_sending() {
    let mut guest = Guest::started();
    let (socket, mut theirs) = guest.connected(7, 1024);
    guest.send(socket.header(OP_RW, 4), b"last");
    guest.send(socket.shutdown(OP_SHUTDOWN, SHUTDOWN_SEND), &[]);
    let mut got = Vec::new();
    theirs.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"last");
    theirs.write_all(b"answer").unwrap();
    guest.device.handle_events();
    let packets = guest.receive();
    assert_eq!(packets.len(), 1);
    assert_eq!(
        (packets[0].0.op, packets[0].1.as_slice()),
        (OP_RW, &b"answer"[..])
    );
    drop(theirs);
    guest.device.handle_events();
    let shutdown = guest.receive_one();
    assert_eq!((shutdown.op, shutdown.flags), (OP_SHUTDOWN, SHUTDOWN_BOTH));
}

#[test]
fn host_half_close_is_shutdown_for_the_guest_which_goes_on_sending() {
    let mut guest = Guest::started();
    let (socket, mut theirs) = guest.connected(7, 1024);
    theirs.write_all(b"last").unwrap();
    theirs.shutdown(Shutdown::Write).unwrap();
    guest.device.handle_events();
    let packets = guest.receive();
    assert_eq!(packets.len(), 2);
    assert_eq!(packets[0].1, b"last");
    assert_eq!(
        (packets[1].0.op, packets[1].0.flags),
        (OP_SHUTDOWN, SHUTDOWN_SEND)
    );
    guest.send(socket.header(OP_RW, 6), b"answer");
    let mut bytes = [0; 6];
    theirs.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"answer");
    guest.send(socket.shutdown(OP_SHUTDOWN, SHUTDOWN_BOTH), &[]);
    assert_eq!(guest.receive_one().op, OP_RST);
    assert!(is_closed(&mut theirs));
}

#[test]
fn eof_waits_for_the_bytes_before_it() {
    let mut guest = Guest::started();
    let (mut socket, mut theirs) = guest.connected(7, 1024);
    let data = fill(&mut guest, &mut socket);
    guest.send(socket.shutdown(OP_SHUTDOWN, SHUTDOWN_SEND), &[]);
    assert!(read_to_end(&mut guest, &mut theirs) == data);
    // Only one direction is over.
    theirs.write_all(b"x").unwrap();
    guest.device.handle_events();
    assert!(guest.receive().iter().any(|packet| packet.1 == b"x"));
}

#[test]
fn guest_that_sends_after_its_end_is_reset() {
    let mut guest = Guest::started();
    let (socket, _theirs) = guest.connected(7, 1024);
    guest.send(socket.shutdown(OP_SHUTDOWN, SHUTDOWN_SEND), &[]);
    guest.send(socket.header(OP_RW, 1), b"x");
    assert_eq!(guest.receive_one().op, OP_RST);
}

#[test]
fn guest_that_receives_no_more_stops_the_host_from_sending() {
    let mut guest = Guest::started();
    let (socket, mut theirs) = guest.connected(7, 1024);
    guest.send(socket.shutdown(OP_SHUTDOWN, SHUTDOWN_RECEIVE), &[]);
    assert_eq!(
        theirs.write(b"x").unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );
    guest.send(socket.header(OP_RW, 1), b"y");
    theirs.read_exact(&mut [0]).unwrap();
    drop(theirs);
    guest.device.handle_events();
    let shutdown = guest.receive_one();
    assert_eq!((shutdown.op, shutdown.flags), (OP_SHUTDOWN, SHUTDOWN_BOTH));
}

#[test]
fn close_of_the_guest_is_answered_at_once_and_loses_nothing() {
    let mut guest = Guest::started();
    let (mut socket, mut theirs) = guest.connected(7, 1024);
    let data = fill(&mut guest, &mut socket);
    guest.send(socket.shutdown(OP_SHUTDOWN, SHUTDOWN_BOTH), &[]);
    assert_eq!(guest.receive_one().op, OP_RST);
    // The port is free again while the host still reads.
    let (_second, mut second_end) = guest.connected(7, 1024);
    second_end.write_all(b"second").unwrap();
    assert_eq!(guest.device.entries(), 2);
    assert!(read_to_end(&mut guest, &mut theirs) == data);
    guest.device.handle_events();
    assert!(guest.receive().iter().any(|packet| packet.1 == b"second"));
    assert_eq!(guest.device.entries(), 1);
}

#[test]
fn reset_by_the_guest_loses_nothing_that_it_has_sent() {
    let mut guest = Guest::started();
    let (mut socket, mut theirs) = guest.connected(7, 1024);
    let data = fill(&mut guest, &mut socket);
    guest.send(socket.header(OP_RST, 0), &[]);
    assert!(read_to_end(&mut guest, &mut theirs) == data);
    assert_eq!(guest.device.entries(), 0);
    assert!(guest.receive().is_empty());
}

#[test]
fn host_that_leaves_while_bytes_wait_for_it_frees_them() {
    let mut guest = Guest::started();
    let (mut socket, theirs) = guest.connected(7, 1024);
    fill(&mut guest, &mut socket);
    guest.send(socket.header(OP_RST, 0), &[]);
    assert_eq!(guest.device.entries(), 1);
    drop(theirs);
    guest.device.handle_events();
    assert_eq!(guest.device.entries(), 0);
}

#[test]
fn close_of_the_host_delivers_its_bytes_and_then_ends_both_directions() {
    let mut guest = Guest::started();
    let (socket, mut theirs) = guest.connected(7, 1024);
    let data = noise(100_000, 3);
    theirs.write_all(&data).unwrap();
    drop(theirs);
    guest.device.handle_events();
    let packets = guest.receive();
    let got: Vec<u8> = packets.iter().flat_map(|packet| packet.1.clone()).collect();
    assert!(got == data);
    let last = packets.last().unwrap().0;
    assert_eq!((last.op, last.flags), (OP_SHUTDOWN, SHUTDOWN_BOTH));
    assert_eq!(guest.device.entries(), 1);
    guest.send(socket.header(OP_RST, 0), &[]);
    assert_eq!(guest.device.entries(), 0);
    assert!(guest.receive().is_empty());
}

#[test]
fn guest_that_does_not_answer_a_shutdown_is_reset() {
    let mut guest = Guest::started();
    let (_socket, theirs) = guest.connected(7, 1024);
    drop(theirs);
    guest.device.handle_events();
    assert_eq!(guest.receive_one().op, OP_SHUTDOWN);
    guest.pass_time(Duration::from_secs(3));
    assert_eq!(guest.receive_one().op, OP_RST);
    assert_eq!(guest.device.entries(), 0);
}

#[test]
fn port_of_a_connection_that_the_host_has_ended_can_be_used_again() {
    let mut guest = Guest::started();
    let (_socket, theirs) = guest.connected(7, 1024);
    drop(theirs);
    guest.device.handle_events();
    assert_eq!(guest.receive_one().op, OP_SHUTDOWN);
    let (_socket, mut theirs) = guest.connected(7, 1024);
    theirs.write_all(b"again").unwrap();
    guest.device.handle_events();
    assert!(guest.receive().iter().any(|packet| packet.1 == b"again"));
}

#[test]
fn host_that_takes_no_more_is_told_to_the_guest_and_its_bytes_are_dropped() {
    let mut guest = Guest::started();
    let (mut socket, theirs) = guest.connected(7, 1024);
    theirs.shutdown(Shutdown::Read).unwrap();
    for _ in 0..100 {
        guest.send(socket.header(OP_RW, 10_000), &noise(10_000, 1));
        for (header, _) in guest.receive() {
            socket.on_header(&header);
            assert!(matches!(header.op, OP_SHUTDOWN | 6), "{header:?}");
            if header.op == OP_SHUTDOWN {
                assert_eq!(header.flags, SHUTDOWN_RECEIVE);
            }
        }
        socket.sent += 10_000;
    }
}

#[test]
fn driver_reset_closes_connections_keeps_what_is_new_and_what_was_sent() {
    let mut guest = Guest::started();
    let (_socket, mut plain) = guest.connected(6, 1024);
    let (mut socket, mut slow) = guest.connected(7, 1024);
    let data = fill(&mut guest, &mut socket);
    let (requested, mut requested_end) = stream_pair();
    guest.device.connect_stream(99, requested);
    assert_eq!(guest.receive().last().unwrap().0.op, OP_REQUEST);
    let (queued, mut queued_end) = stream_pair();
    guest.device.accept_stream(1024, queued);

    guest.device.reset();
    assert!(is_closed(&mut plain));
    assert!(is_closed(&mut requested_end));
    assert!(read_to_end(&mut guest, &mut slow) == data);

    guest.start();
    assert!(guest.receive().is_empty());
    let (late, mut late_end) = stream_pair();
    guest.device.connect_stream(98, late);
    let request = guest.receive_one();
    assert_eq!((request.op, request.dst_port), (OP_REQUEST, 98));
    guest.send(Socket::answering(&request).header(OP_RESPONSE, 0), &[]);
    late_end.write_all(b"late").unwrap();
    guest.send(Socket::new(8, 1024).header(OP_REQUEST, 0), &[]);
    queued_end.write_all(b"queued").unwrap();
    guest.device.handle_events();
    let packets = guest.receive();
    assert!(packets.iter().any(|packet| packet.1 == b"late"));
    assert!(packets.iter().any(|packet| packet.1 == b"queued"));
}
