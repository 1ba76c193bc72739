//! Drivers that break the rules of the rings or of the packets.

use std::io::Read;

use super::super::packet::Header;
use super::super::spec::{HEADER_LEN, OP_REQUEST, OP_RESPONSE, OP_RST, OP_RW};
use super::guest::{Guest, Socket, stream_pair};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::driver::{
    Buffer, REGION_LEN, RawDescriptor, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE,
};

/// Breaks a rule with `crime` and expects the device to stop, close everything, and work after a
/// reset.
fn stops_on(crime: impl FnOnce(&mut Guest)) {
    let mut guest = Guest::started();
    let (_socket, mut theirs) = guest.connected(7, 1024);
    let (queued, mut queued_end) = stream_pair();
    guest.device.accept_stream(1024, queued);
    crime(&mut guest);
    guest.kick(0);
    guest.kick(1);
    guest.device.handle_events();
    assert!(guest.is_broken());
    assert!(matches!(theirs.read(&mut [0; 1]), Ok(0)));
    assert!(matches!(queued_end.read(&mut [0; 1]), Ok(0)));
    assert_eq!(guest.device.entries(), 0);

    guest.device.reset();
    guest.start();
    guest.connected(8, 1024);
}

#[test]
fn loop_of_descriptors_stops_the_device() {
    stops_on(|guest| {
        let slot = guest.tx_slot();
        for (index, next) in [(100, 101), (101, 100)] {
            guest.tx.set_descriptor(
                index,
                RawDescriptor {
                    address: slot,
                    len: 44,
                    flags: VIRTQ_DESC_F_NEXT,
                    next,
                },
            );
        }
        guest.tx.offer(100);
    });
}

#[test]
fn head_offered_twice_stops_the_device() {
    stops_on(|guest| {
        let slot = guest.tx_slot();
        guest
            .tx
            .write(slot, &Socket::new(7, 1024).header(OP_RW, 1).to_bytes());
        let head = guest.tx.submit(&[Buffer::Readable(slot, 45)]);
        guest.tx.offer(head);
    });
}

#[test]
fn available_index_that_runs_ahead_stops_the_device() {
    stops_on(|guest| guest.tx.set_avail_index(1000));
}

#[test]
fn head_outside_the_table_stops_the_device() {
    stops_on(|guest| guest.tx.offer(128));
}

#[test]
fn packet_outside_memory_stops_the_device() {
    stops_on(|guest| {
        guest.tx.submit(&[Buffer::Readable(REGION_LEN - 20, 44)]);
    });
}

#[test]
fn rx_buffer_without_room_for_a_byte_stops_the_device() {
    stops_on(|guest| {
        guest.refill = false;
        for port in 0..64 {
            guest.send(Socket::new(port, 1).header(OP_REQUEST, 0), &[]);
        }
        guest.receive();
        guest
            .rx
            .submit(&[Buffer::Writable(0x6_0000, HEADER_LEN as u32)]);
        guest.queue(Socket::new(99, 1).header(OP_REQUEST, 0), &[]);
    });
}

#[test]
fn packet_shorter_than_a_header_is_dropped() {
    let mut guest = Guest::started();
    let slot = guest.tx_slot();
    guest
        .tx
        .submit(&[Buffer::Readable(slot, HEADER_LEN as u32 - 1)]);
    guest.tx.submit(&[Buffer::Writable(slot, 4096)]);
    guest.kick(1);
    guest.device.handle_events();
    assert_eq!(guest.given_back(), 2);
    assert!(guest.receive().is_empty());
    assert!(!guest.is_broken());
}

#[test]
fn packet_that_lies_about_its_length_is_reset() {
    for (announced, there) in [(1, 0), (u32::MAX, 10), (65_537, 65_537), (0x8000_0000, 100)] {
        let mut guest = Guest::started();
        let (socket, mut theirs) = guest.connected(7, 1024);
        let header = Header {
            len: announced,
            ..socket.header(OP_RW, 0)
        };
        guest.send(header, &vec![7; there]);
        assert_eq!(guest.receive_one().op, OP_RST);
        assert!(
            matches!(theirs.read(&mut [0; 1]), Ok(0)),
            "{announced} bytes"
        );
        assert!(!guest.is_broken());
    }
}

#[test]
fn writable_buffers_in_the_tx_queue_are_no_payload() {
    let mut guest = Guest::started();
    let (socket, mut theirs) = guest.connected(7, 1024);
    let slot = guest.tx_slot();
    guest.tx.write(slot, &socket.header(OP_RW, 4).to_bytes());
    guest
        .tx
        .submit(&[Buffer::Readable(slot, 44), Buffer::Writable(slot + 44, 4)]);
    guest.kick(1);
    guest.device.handle_events();
    assert_eq!(guest.receive_one().op, OP_RST);
    assert!(matches!(theirs.read(&mut [0; 1]), Ok(0)));
}

#[test]
fn readable_buffers_in_the_rx_queue_are_left_alone() {
    let mut guest = Guest::with_rx_buffers(0);
    guest.rx.write(0x6_0000, &[0xee; 16]);
    guest.rx.submit(&[
        Buffer::Readable(0x6_0000, 16),
        Buffer::Writable(0x6_1000, 4096),
    ]);
    guest.kick(0);
    guest.send(Socket::new(7, 1024).header(OP_REQUEST, 0), &[]);
    assert_eq!(guest.rx.take_used()[0].len, 44);
    assert_eq!(guest.rx.read::<16>(0x6_0000), [0xee; 16]);
    assert_eq!(Header::from_bytes(&guest.rx.read(0x6_1000)).op, OP_RST);
}

#[test]
fn broken_device_serves_nobody_until_it_is_reset() {
    let mut guest = Guest::started();
    guest.tx.set_avail_index(1000);
    guest.kick(1);
    guest.device.handle_events();
    assert!(guest.is_broken());
    guest.receive();
    let (ours, _theirs) = stream_pair();
    guest.device.connect_stream(99, ours);
    guest.device.handle_events();
    assert!(guest.receive().is_empty());
    guest.device.reset();
    guest.start();
    let request = guest.receive_one();
    guest.send(Socket::answering(&request).header(OP_RESPONSE, 0), &[]);
    assert_eq!(guest.device.entries(), 1);
}

#[test]
fn header_is_read_once() {
    // The write flag makes no difference to what the device does with a second look at memory: the
    // header that decided is the one that is used, which the length check above depends on.
    let mut guest = Guest::started();
    let slot = guest.tx_slot();
    guest.tx.set_descriptor(
        90,
        RawDescriptor {
            address: slot,
            len: 44,
            flags: VIRTQ_DESC_F_WRITE,
            next: 0,
        },
    );
    guest.tx.offer(90);
    guest.kick(1);
    guest.device.handle_events();
    assert!(!guest.is_broken());
    assert_eq!(guest.given_back(), 1);
}
