//! How connections come about, or do not.

use std::io::{Read, Write};
use std::time::Duration;

use super::super::packet::Header;
use super::super::spec::{
    OP_CREDIT_UPDATE, OP_REQUEST, OP_RESPONSE, OP_RST, OP_RW, OP_SHUTDOWN, TYPE_STREAM,
};
use super::super::table::MAX_ENTRIES;
use super::guest::{CID, Guest, Socket, stream_pair};
use crate::devices::virtio::VirtioDevice;

fn is_closed(stream: &mut impl Read) -> bool {
    matches!(stream.read(&mut [0; 16]), Ok(0))
}

#[test]
fn config_space_is_the_guest_cid() {
    let guest = Guest::started();
    let mut bytes = [0xaa; 12];
    guest.device.read_config(0, &mut bytes);
    assert_eq!(bytes, [42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    guest.device.read_config(u64::MAX, &mut bytes[..2]);
    guest.device.read_config(7, &mut bytes[..2]);
    assert_eq!(bytes[..2], [0, 0]);
}

#[test]
fn guest_is_joined_to_the_streams_of_its_port_in_order() {
    let mut guest = Guest::started();
    let (first, mut first_end) = stream_pair();
    let (second, mut second_end) = stream_pair();
    guest.device.accept_stream(1024, first);
    guest.device.accept_stream(1024, second);
    for guest_port in [5000, 5001] {
        let socket = Socket::new(guest_port, 1024);
        guest.send(socket.header(OP_REQUEST, 0), &[]);
        let response = guest.receive_one();
        assert_eq!(response.op, OP_RESPONSE);
        assert_eq!(response.dst_port, guest_port);
        assert!(response.buf_alloc >= 64 * 1024);
        guest.send(socket.header(OP_RW, 4), &guest_port.to_be_bytes());
    }
    let mut bytes = [0; 4];
    first_end.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, 5000_u32.to_be_bytes());
    second_end.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, 5001_u32.to_be_bytes());
}

#[test]
fn stream_accepted_before_the_driver_is_up_is_used() {
    let mut guest = Guest::not_started(None, 8);
    let (ours, mut theirs) = stream_pair();
    guest.device.accept_stream(1024, ours);
    theirs.write_all(b"early").unwrap();
    // Linux resets a device before it drives it.
    guest.device.reset();
    guest.start();
    guest.send(Socket::new(7, 1024).header(OP_REQUEST, 0), &[]);
    let packets = guest.receive();
    assert_eq!(
        packets.iter().map(|packet| packet.0.op).collect::<Vec<_>>(),
        [OP_RESPONSE, OP_RW]
    );
    assert_eq!(packets[1].1, b"early");
}

#[test]
fn connect_issued_before_the_driver_is_up_waits_for_it() {
    let mut guest = Guest::not_started(None, 8);
    let (ours, mut theirs) = stream_pair();
    guest.device.connect_stream(1024, ours);
    guest.device.handle_events();
    guest.pass_time(Duration::from_secs(3600));
    guest.device.reset();
    guest.start();
    let request = guest.receive_one();
    assert_eq!((request.op, request.dst_port), (OP_REQUEST, 1024));
    let socket = Socket::answering(&request);
    guest.send(socket.header(OP_RESPONSE, 0), &[]);
    guest.send(socket.header(OP_RW, 2), b"hi");
    let mut bytes = [0; 2];
    theirs.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hi");
}

#[test]
fn nothing_is_read_from_the_host_before_the_guest_has_accepted() {
    let mut guest = Guest::started();
    let (ours, mut theirs) = stream_pair();
    theirs.write_all(b"data").unwrap();
    guest.device.connect_stream(1024, ours);
    guest.device.handle_events();
    let request = guest.receive_one();
    guest.send(Socket::answering(&request).header(OP_RESPONSE, 0), &[]);
    let packets = guest.receive();
    assert_eq!(packets.len(), 1);
    assert_eq!(
        (packets[0].0.op, packets[0].1.as_slice()),
        (OP_RW, &b"data"[..])
    );
}

#[test]
fn stream_is_closed_when_the_guest_refuses() {
    let mut guest = Guest::started();
    let (ours, mut theirs) = stream_pair();
    guest.device.connect_stream(1024, ours);
    let request = guest.receive_one();
    guest.send(Socket::answering(&request).header(OP_RST, 0), &[]);
    assert!(is_closed(&mut theirs));
    assert!(guest.receive().is_empty());
    assert_eq!(guest.device.entries(), 0);
}

#[test]
fn stream_is_closed_when_the_guest_does_not_answer() {
    let mut guest = Guest::started();
    let (ours, mut theirs) = stream_pair();
    guest.device.connect_stream(1024, ours);
    assert_eq!(guest.receive_one().op, OP_REQUEST);
    guest.pass_time(Duration::from_secs(9));
    assert!(!is_closed(&mut theirs));
    guest.pass_time(Duration::from_secs(11));
    assert!(is_closed(&mut theirs));
    assert_eq!(guest.receive_one().op, OP_RST);
    assert_eq!(guest.device.entries(), 0);
}

#[test]
fn host_that_gives_up_before_the_guest_answers_ends_the_request() {
    let mut guest = Guest::started();
    let (ours, theirs) = stream_pair();
    guest.device.connect_stream(1024, ours);
    assert_eq!(guest.receive_one().op, OP_REQUEST);
    drop(theirs);
    guest.device.handle_events();
    assert_eq!(guest.receive_one().op, OP_RST);
    assert_eq!(guest.device.entries(), 0);
}

#[test]
fn host_that_writes_and_leaves_before_the_guest_answers_is_still_heard() {
    let mut guest = Guest::started();
    let (ours, mut theirs) = stream_pair();
    guest.device.connect_stream(1024, ours);
    let request = guest.receive_one();
    theirs.write_all(b"farewell").unwrap();
    drop(theirs);
    guest.device.handle_events();
    guest.send(Socket::answering(&request).header(OP_RESPONSE, 0), &[]);
    let packets = guest.receive();
    assert!(
        packets.iter().any(|packet| packet.1 == b"farewell"),
        "{packets:?}"
    );
    assert_eq!(packets.last().map(|packet| packet.0.op), Some(OP_SHUTDOWN));
}

#[test]
fn request_for_a_port_nobody_serves_is_refused_at_once() {
    let mut guest = Guest::started();
    guest.send(Socket::new(7, 1024).header(OP_REQUEST, 0), &[]);
    let reset = guest.receive_one();
    assert_eq!(
        (reset.op, reset.src_port, reset.dst_port),
        (OP_RST, 1024, 7)
    );
    assert_eq!((reset.src_cid, reset.dst_cid), (2, u64::from(CID)));
}

#[test]
fn request_for_a_served_port_waits_for_the_next_stream() {
    let mut guest = Guest::started();
    let _served = guest.connected(7, 1024);
    let (first, second) = (Socket::new(8, 1024), Socket::new(9, 1024));
    guest.send(first.header(OP_REQUEST, 0), &[]);
    guest.send(second.header(OP_REQUEST, 0), &[]);
    assert!(guest.receive().is_empty());
    let (ours, _theirs) = stream_pair();
    guest.device.accept_stream(1024, ours);
    let response = guest.receive_one();
    assert_eq!((response.op, response.dst_port), (OP_RESPONSE, 8));
    guest.pass_time(Duration::from_secs(3));
    let reset = guest.receive_one();
    assert_eq!((reset.op, reset.dst_port), (OP_RST, 9));
    assert_eq!(guest.device.entries(), 2);
}

#[test]
fn packet_from_another_source_is_dropped() {
    let mut guest = Guest::started();
    let header = Socket::new(7, 1024).header(OP_REQUEST, 0);
    guest.send(
        Header {
            src_cid: 43,
            ..header
        },
        &[],
    );
    guest.send(
        Header {
            src_cid: u64::from(CID) | 1 << 32,
            ..header
        },
        &[],
    );
    assert!(guest.receive().is_empty());
}

#[test]
fn packet_to_another_destination_is_refused_in_its_name() {
    let mut guest = Guest::started();
    let header = Socket::new(7, 1024).header(OP_REQUEST, 0);
    guest.send(
        Header {
            dst_cid: 5,
            ..header
        },
        &[],
    );
    let reset = guest.receive_one();
    assert_eq!((reset.op, reset.src_cid), (OP_RST, 5));
}

#[test]
fn unknown_type_is_answered_by_reset_of_that_type() {
    let mut guest = Guest::started();
    let (ours, _theirs) = stream_pair();
    guest.device.accept_stream(1024, ours);
    let header = Socket::new(7, 1024).header(OP_REQUEST, 0);
    guest.send(
        Header {
            socket_type: 2,
            ..header
        },
        &[],
    );
    let reset = guest.receive_one();
    assert_eq!((reset.op, reset.socket_type), (OP_RST, 2));
    guest.send(
        Header {
            socket_type: TYPE_STREAM,
            ..header
        },
        &[],
    );
    assert_eq!(guest.receive_one().op, OP_RESPONSE);
}

#[test]
fn packet_without_connection_is_answered_by_reset_unless_it_is_one() {
    let mut guest = Guest::started();
    let socket = Socket::new(7, 1024);
    for op in [
        OP_RESPONSE,
        OP_SHUTDOWN,
        OP_RW,
        OP_CREDIT_UPDATE,
        0,
        8,
        u16::MAX,
    ] {
        guest.send(socket.header(op, 0), &[]);
        assert_eq!(guest.receive_one().op, OP_RST, "operation {op}");
    }
    guest.send(socket.header(OP_RST, 0), &[]);
    assert!(guest.receive().is_empty());
}

#[test]
fn operation_out_of_place_resets_the_connection() {
    for op in [OP_RESPONSE, 0, 8, u16::MAX] {
        let mut guest = Guest::started();
        let (socket, mut theirs) = guest.connected(7, 1024);
        guest.send(socket.header(op, 0), &[]);
        assert_eq!(guest.receive_one().op, OP_RST, "operation {op}");
        assert!(is_closed(&mut theirs));
    }
}

#[test]
fn second_request_ends_the_first_connection() {
    let mut guest = Guest::started();
    let (socket, mut theirs) = guest.connected(7, 1024);
    guest.send(socket.header(OP_REQUEST, 0), &[]);
    assert_eq!(guest.receive_one().op, OP_RST);
    assert!(is_closed(&mut theirs));
    assert_eq!(guest.device.entries(), 0);
}

#[test]
fn connections_beyond_the_limit_are_refused_and_the_others_live() {
    let mut guest = Guest::started();
    let mut ends = Vec::new();
    for guest_port in 0..u32::try_from(MAX_ENTRIES).unwrap() {
        ends.push(guest.connected(guest_port, 1024));
    }
    let (ours, _theirs) = stream_pair();
    guest.device.accept_stream(1024, ours);
    guest.send(Socket::new(5000, 1024).header(OP_REQUEST, 0), &[]);
    assert_eq!(guest.receive_one().op, OP_RST);
    let (ours, mut refused) = stream_pair();
    guest.device.connect_stream(99, ours);
    assert!(is_closed(&mut refused));

    for (socket, theirs) in &mut ends {
        guest.send(socket.header(OP_RW, 1), b"x");
        theirs.read_exact(&mut [0]).unwrap();
    }
    drop(ends.pop());
    guest.device.handle_events();
    assert_eq!(guest.receive_one().op, OP_SHUTDOWN);
    let (gone, _) = ends.pop().unwrap();
    guest.send(gone.header(OP_RST, 0), &[]);
    guest.receive();
    guest.send(Socket::new(5000, 1024).header(OP_REQUEST, 0), &[]);
    assert_eq!(guest.receive_one().op, OP_RESPONSE);
}

#[test]
fn storm_of_requests_without_rx_buffers_is_bounded_and_answered_later() {
    let mut guest = Guest::with_rx_buffers(0);
    let mut sent = 0_u32;
    let mut taken = 0;
    for _ in 0..100 {
        for _ in 0..64 {
            guest.queue(Socket::new(sent, 1).header(OP_REQUEST, 0), &[]);
            sent += 1;
        }
        guest.kick(1);
        guest.device.handle_events();
        let now = guest.given_back();
        taken += now;
        if now < 64 {
            break;
        }
    }
    assert!((1024..1024 + 64).contains(&taken), "{taken}");
    guest.add_rx_buffers(16);
    let mut answered = 0;
    for _ in 0..1000 {
        answered += guest.receive().len();
        guest.device.handle_events();
    }
    assert_eq!(answered, sent as usize);
}
