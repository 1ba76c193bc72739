//! Bytes: none lost, none twice, none out of order, and nobody waits for nothing.

use std::io::{ErrorKind, IoSlice, PipeWriter, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::super::packet::Header;
use super::super::spec::{
    HEADER_LEN, OP_CREDIT_REQUEST, OP_CREDIT_UPDATE, OP_REQUEST, OP_RESPONSE, OP_RST, OP_RW,
};
use super::guest::{Guest, RX_BUFFER, Socket, noise, stream_pair};
use crate::devices::virtio::block::lanes::{LANE_LEN, LaneNumber};
use crate::devices::virtio::driver::{Buffer, REGION_LEN, VIRTQ_DESC_F_INDIRECT};

/// A small generator for chunk sizes.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % below
    }
}

fn read_available(stream: &mut UnixStream, most: usize, into: &mut Vec<u8>) {
    let mut buffer = vec![0; most];
    match stream.read(&mut buffer) {
        Ok(count) => into.extend_from_slice(&buffer[..count]),
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
    }
}

#[test]
fn megabytes_pass_both_ways_at_once_in_random_pieces() {
    let mut guest = Guest::with_rx_buffers(20);
    let (mut socket, mut theirs) = guest.connected(7, 1024);
    let (to_host, to_guest) = (noise(6 << 20, 1), noise(5 << 20, 2));
    let (mut host_got, mut guest_got) = (Vec::new(), Vec::new());
    let (mut guest_sent, mut host_sent) = (0, 0);
    let mut dice = Dice(7);
    let mut rounds = 0;
    while host_got.len() < to_host.len() || guest_got.len() < to_guest.len() {
        rounds += 1;
        assert!(rounds < 200_000, "{} {}", host_got.len(), guest_got.len());
        for _ in 0..dice.roll(4) {
            let room = socket.credit().min(to_host.len() - guest_sent).min(65_536);
            let len = dice.roll(room + 1);
            guest.queue(
                socket.header(OP_RW, len),
                &to_host[guest_sent..guest_sent + len],
            );
            guest_sent += len;
            socket.sent = socket.sent.wrapping_add(len as u32);
        }
        guest.kick(1);
        let end = (host_sent + dice.roll(200_000)).min(to_guest.len());
        if let Ok(count) = theirs.write(&to_guest[host_sent..end]) {
            host_sent += count;
        }
        guest.device.handle_events();
        // The guest's program reads now and then; only then are buffers and credit given back.
        guest.refill = dice.roll(3) == 0;
        for (header, payload) in guest.receive() {
            socket.on_header(&header);
            guest_got.extend_from_slice(&payload);
        }
        if guest.refill {
            socket.fwd_cnt = socket.received;
            guest.send(socket.header(OP_CREDIT_UPDATE, 0), &[]);
        }
        read_available(&mut theirs, 1 + dice.roll(150_000), &mut host_got);
        guest.given_back();
    }
    assert!(host_got == to_host);
    assert!(guest_got == to_guest);
    assert!(!guest.is_broken());
}

/// Sends `payload` from wherever `layout` says that header and payload lie.
fn send_in_pieces(guest: &mut Guest, header: Header, payload: &[u8], pieces: &[usize]) {
    let slot = guest.tx_slot();
    guest.tx.write(slot, &header.to_bytes());
    guest.tx.write(slot + HEADER_LEN as u64, payload);
    let mut at = slot;
    let mut buffers = Vec::new();
    for len in pieces {
        buffers.push(Buffer::Readable(at, *len as u32));
        at += *len as u64;
    }
    guest.tx.submit(&buffers);
    guest.kick(1);
    guest.device.handle_events();
}

#[test]
fn header_and_payload_may_lie_in_any_buffers() {
    let layouts: [&[usize]; 7] = [
        &[44 + 1000],
        &[44, 1000],
        &[20, 24, 1000],
        &[1, 43 + 500, 500],
        &[44, 1, 1, 1, 997],
        &[10, 10, 10, 10, 10, 994],
        // More buffer than packet.
        &[44, 1000, 500],
    ];
    for layout in layouts {
        let mut guest = Guest::started();
        let (socket, mut theirs) = guest.connected(7, 1024);
        let payload = noise(1000, 5);
        send_in_pieces(&mut guest, socket.header(OP_RW, 1000), &payload, layout);
        let mut got = Vec::new();
        read_available(&mut theirs, 2000, &mut got);
        assert!(got == payload, "{layout:?}");
        assert_eq!(guest.given_back(), 2);
    }
}

#[test]
fn largest_packet_over_many_buffers_passes() {
    // Linux 6.17 and later: fragments of a page.
    let mut guest = Guest::started();
    let (socket, mut theirs) = guest.connected(7, 1024);
    let payload = noise(65_536, 5);
    let mut layout = vec![44];
    layout.extend([4096; 16]);
    send_in_pieces(&mut guest, socket.header(OP_RW, 65_536), &payload, &layout);
    let mut got = Vec::new();
    for _ in 0..100 {
        read_available(&mut theirs, 10_000, &mut got);
        guest.device.handle_events();
    }
    assert!(got == payload);
}

#[test]
fn buffers_may_be_listed_indirectly() {
    let mut guest = Guest::started();
    let (socket, mut theirs) = guest.connected(7, 1024);
    let slot = guest.tx_slot();
    let table = REGION_LEN - 64;
    guest.tx.write(slot, &socket.header(OP_RW, 5).to_bytes());
    guest.tx.write(slot + 100, b"hello");
    let mut bytes = Vec::new();
    for (address, len, flags, next) in [(slot, 44_u32, 1_u16, 1_u16), (slot + 100, 5, 0, 0)] {
        bytes.extend(address.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
    }
    guest.tx.write(table, &bytes);
    let head = guest.tx.submit(&[Buffer::Readable(table, 32)]);
    let flags_at = guest.tx.registers().descriptor_table + u64::from(head) * 16 + 12;
    guest
        .tx
        .write(flags_at, &VIRTQ_DESC_F_INDIRECT.to_le_bytes());
    guest.kick(1);
    guest.device.handle_events();
    let mut got = Vec::new();
    read_available(&mut theirs, 100, &mut got);
    assert_eq!(got, b"hello");
}

#[test]
fn rx_buffers_may_be_split_anywhere() {
    for layout in [
        &[44_u32, 100][..],
        &[10, 34, 50, 50],
        &[144],
        &[43, 101],
        &[45, 1, 1, 97],
    ] {
        let mut guest = Guest::with_rx_buffers(1);
        let (_socket, mut theirs) = guest.connected(7, 1024);
        guest.refill = false;
        guest.device.handle_events();
        // Take the buffer that `connected` has put back out of the way.
        theirs.write_all(b"-").unwrap();
        guest.device.handle_events();
        guest.receive();

        let mut at = 0x6_0000;
        let mut buffers = Vec::new();
        for len in layout {
            buffers.push(Buffer::Writable(at, *len));
            at += u64::from(*len);
        }
        guest.rx.submit(&buffers);
        let data = noise(300, 8);
        theirs.write_all(&data).unwrap();
        guest.kick(0);
        guest.device.handle_events();
        let used = guest.rx.take_used();
        assert_eq!(used.len(), 1, "{layout:?}");
        assert_eq!(used[0].len, 144);
        let header = Header::from_bytes(&guest.rx.read(0x6_0000));
        assert_eq!((header.op, header.len), (OP_RW, 100));
        assert_eq!(guest.rx.read::<100>(0x6_0000 + 44), data[..100]);
    }
}

#[test]
fn rx_buffers_in_crumbs_do_not_end_the_stream_early() {
    let mut guest = Guest::with_rx_buffers(1);
    let (_socket, mut theirs) = guest.connected(7, 1024);
    guest.refill = false;
    theirs.write_all(b"-").unwrap();
    guest.device.handle_events();
    guest.receive();

    let crumbs: Vec<_> = (0..60)
        .map(|index| Buffer::Writable(0x6_0000 + index * 16, 10))
        .collect();
    theirs.write_all(&noise(5000, 8)).unwrap();
    let mut got = 0;
    for _ in 0..40 {
        guest.rx.submit(&crumbs);
        guest.rx.submit(&crumbs);
        guest.kick(0);
        guest.device.handle_events();
        got += guest
            .rx
            .take_used()
            .iter()
            .map(|used| used.len - 44)
            .sum::<u32>();
    }
    assert_eq!(got, 5000);
}

#[test]
fn one_read_fills_many_buffers_and_the_rest_stay_available() {
    let mut guest = Guest::with_rx_buffers(64);
    let (mut socket, mut theirs) = guest.connected(7, 1024);
    for round in 0..50 {
        let data = noise(50_000 + round * 1111, round as u64);
        theirs.write_all(&data).unwrap();
        guest.device.handle_events();
        let mut got = Vec::new();
        for (header, payload) in guest.receive() {
            socket.on_header(&header);
            got.extend(payload);
        }
        assert!(got == data);
        let least = data.len().div_ceil(RX_BUFFER as usize - HEADER_LEN);
        assert!(least <= 64);
        socket.fwd_cnt = socket.received;
        guest.send(socket.header(OP_CREDIT_UPDATE, 0), &[]);
    }
}

#[test]
fn rx_queue_that_runs_dry_goes_on_when_it_is_refilled() {
    let mut guest = Guest::with_rx_buffers(4);
    let (mut socket, mut theirs) = guest.connected(7, 1024);
    guest.refill = false;
    let data = noise(100_000, 4);
    theirs.write_all(&data).unwrap();
    let mut got = Vec::new();
    let mut rounds = 0;
    while got.len() < data.len() {
        rounds += 1;
        assert!(rounds < 100, "stalled at {} bytes", got.len());
        guest.device.handle_events();
        for (header, payload) in guest.receive() {
            socket.on_header(&header);
            got.extend(payload);
        }
        let available = u16::from_le_bytes(guest.rx.read(guest.rx.registers().driver_area + 2));
        if got.len() < data.len() {
            // The device has asked for the kick that it gets now.
            assert_eq!(guest.rx.avail_event(), available);
        }
        guest.post_rx_buffers();
        guest.kick(0);
    }
    assert!(got == data);
}

#[test]
fn credit_of_the_guest_is_never_exceeded_and_more_is_asked_for_once() {
    let mut guest = Guest::started();
    let (ours, mut theirs) = stream_pair();
    guest.device.accept_stream(1024, ours);
    let mut socket = Socket::new(7, 1024);
    socket.buf_alloc = 10_000;
    guest.send(socket.header(OP_REQUEST, 0), &[]);
    assert_eq!(guest.receive_one().op, OP_RESPONSE);
    theirs.write_all(&noise(30_000, 4)).unwrap();
    guest.device.handle_events();
    let mut asked = 0;
    for _ in 0..10 {
        for (header, _) in guest.receive() {
            socket.on_header(&header);
            asked += usize::from(header.op == OP_CREDIT_REQUEST);
        }
        // An answer that brings nothing.
        guest.send(socket.header(OP_CREDIT_UPDATE, 0), &[]);
    }
    assert_eq!((socket.received, asked), (10_000, 1));
    socket.fwd_cnt = 5_000;
    guest.send(socket.header(OP_CREDIT_UPDATE, 0), &[]);
    for (header, _) in guest.receive() {
        socket.on_header(&header);
        asked += usize::from(header.op == OP_CREDIT_REQUEST);
    }
    assert_eq!((socket.received, asked), (15_000, 2));
}

#[test]
fn guest_without_credit_gets_nothing() {
    let mut guest = Guest::started();
    let (ours, mut theirs) = stream_pair();
    guest.device.accept_stream(1024, ours);
    let mut socket = Socket::new(7, 1024);
    socket.buf_alloc = 0;
    guest.send(socket.header(OP_REQUEST, 0), &[]);
    theirs.write_all(b"x").unwrap();
    guest.device.handle_events();
    let ops: Vec<_> = guest.receive().iter().map(|packet| packet.0.op).collect();
    assert_eq!(ops, [OP_RESPONSE, OP_CREDIT_REQUEST]);
}

#[test]
fn guest_that_sends_beyond_its_credit_is_reset_and_what_it_had_paid_for_arrives() {
    let mut guest = Guest::started();
    let (mut socket, mut theirs) = guest.connected(7, 1024);
    let data = noise(socket.credit(), 3);
    let mut overrun = false;
    // The host does not read, so the credit comes back only for what fits into its socket.
    for piece in data.chunks(50_000).cycle().take(40) {
        guest.send(socket.header(OP_RW, piece.len()), piece);
        socket.sent += piece.len() as u32;
        overrun |= guest.receive().iter().any(|packet| packet.0.op == OP_RST);
    }
    assert!(overrun);
    let mut got = Vec::new();
    while !matches!(theirs.read(&mut [0; 0]), Ok(1)) {
        let before = got.len();
        read_available(&mut theirs, 1 << 20, &mut got);
        guest.device.handle_events();
        if got.len() == before {
            break;
        }
    }
    let sent: Vec<u8> = data
        .chunks(50_000)
        .cycle()
        .take(40)
        .flatten()
        .copied()
        .collect();
    assert!(got.len() >= data.len() && got == sent[..got.len()]);
    assert_eq!(guest.device.entries(), 0);
}

#[test]
fn guest_that_claims_to_have_read_what_was_never_sent_is_reset() {
    let mut guest = Guest::started();
    let (mut socket, _theirs) = guest.connected(7, 1024);
    socket.fwd_cnt = 1;
    guest.send(socket.header(OP_CREDIT_UPDATE, 0), &[]);
    assert_eq!(guest.receive_one().op, OP_RST);
}

#[test]
fn credit_request_is_answered_with_what_is_free() {
    let mut guest = Guest::started();
    let (socket, _theirs) = guest.connected(7, 1024);
    guest.send(socket.header(OP_RW, 1000), &[1; 1000]);
    assert!(guest.receive().is_empty());
    guest.send(socket.header(OP_CREDIT_REQUEST, 0), &[]);
    let update = guest.receive_one();
    assert_eq!((update.op, update.fwd_cnt), (OP_CREDIT_UPDATE, 1000));
}

#[test]
fn credit_is_told_once_for_half_a_window_and_not_for_each_packet() {
    let mut guest = Guest::started();
    let (mut socket, mut theirs) = guest.connected(7, 1024);
    let mut updates = 0;
    let mut got = Vec::new();
    let packet = noise(4096, 1);
    for _ in 0..1024 {
        assert!(socket.credit() >= 4096, "the guest has to wait");
        guest.send(socket.header(OP_RW, 4096), &packet);
        socket.sent += 4096;
        for (header, _) in guest.receive() {
            assert_eq!(header.op, OP_CREDIT_UPDATE);
            socket.on_header(&header);
            updates += 1;
        }
        read_available(&mut theirs, 8192, &mut got);
    }
    assert_eq!(got.len(), 4 << 20);
    assert_eq!(updates, (4 << 20) / (128 * 1024));
}

#[test]
fn full_socket_takes_no_byte_twice_and_loses_none() {
    let mut guest = Guest::started();
    let (mut socket, mut theirs) = guest.connected(7, 1024);
    let mut dice = Dice(3);
    let (mut sent, mut got) = (Vec::new(), Vec::new());
    for round in 0..3000 {
        let len = socket.credit().min(1 + dice.roll(65_536));
        let piece = noise(len, round);
        // Fragments, so that the socket runs full in the middle of one.
        let mut layout = vec![44];
        layout.extend(piece.chunks(3000).map(<[u8]>::len));
        send_in_pieces(&mut guest, socket.header(OP_RW, len), &piece, &layout);
        socket.sent = socket.sent.wrapping_add(len as u32);
        sent.extend(piece);
        guest.given_back();
        read_available(&mut theirs, 1 + dice.roll(70_000), &mut got);
        guest.device.handle_events();
        for (header, _) in guest.receive() {
            socket.on_header(&header);
        }
    }
    while got.len() < sent.len() {
        read_available(&mut theirs, 100_000, &mut got);
        guest.device.handle_events();
    }
    assert!(got == sent);
    assert!(sent.len() > 20 << 20, "{}", sent.len());
}

#[test]
fn stalled_connection_slows_no_other() {
    let mut guest = Guest::with_rx_buffers(40);
    // One host that does not read, and one guest that does not: the first two connections stall.
    let (mut unread, _unread_end) = guest.connected(1, 1024);
    let (_deaf, mut deaf_end) = guest.connected(2, 1024);
    let data = noise(unread.credit(), 1);
    for piece in data.chunks(65_536) {
        guest.send(unread.header(OP_RW, piece.len()), piece);
        unread.sent += piece.len() as u32;
    }
    while deaf_end.write(&[1; 65_536]).is_ok() {
        guest.device.handle_events();
        guest.receive();
    }

    let (mut socket, mut theirs) = guest.connected(3, 1024);
    let mut got = Vec::new();
    for round in 0..100 {
        theirs.write_all(&noise(1000, round)).unwrap();
        guest.send(socket.header(OP_RW, 1000), &noise(1000, round));
        let packets = guest.receive();
        assert!(
            packets
                .iter()
                .any(|packet| packet.0.dst_port == 3 && packet.0.len == 1000)
        );
        for (header, _) in packets.iter().filter(|packet| packet.0.dst_port == 3) {
            socket.on_header(header);
        }
        socket.fwd_cnt = socket.received;
        read_available(&mut theirs, 2000, &mut got);
    }
    assert_eq!(got.len(), 100_000);
}

#[test]
fn busy_connections_share_the_rx_queue() {
    let mut guest = Guest::with_rx_buffers(40);
    let mut ends: Vec<_> = (0..8).map(|port| guest.connected(port, 1024)).collect();
    guest.refill = false;
    for (_, theirs) in &mut ends {
        theirs.write_all(&noise(100_000, 1)).unwrap();
    }
    let mut received = [0; 8];
    for _ in 0..20 {
        guest.device.handle_events();
        for (header, payload) in guest.receive() {
            received[header.dst_port as usize] += payload.len();
        }
        guest.post_rx_buffers();
        guest.kick(0);
    }
    guest.device.handle_events();
    assert!(received.iter().all(|bytes| *bytes > 40_000), "{received:?}");
}

/// Sends text with a descriptor.
fn send_with(stream: &UnixStream, text: &[u8], descriptor: impl AsFd) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [descriptor.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let text = [IoSlice::new(text)];
    sendmsg(stream, &text, &mut control, SendFlags::empty()).unwrap();
}

/// Memory that can be a lane.
fn lane_memory() -> OwnedFd {
    let memory = memfd_create("lane", MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&memory, LANE_LEN).unwrap();
    fcntl_add_seals(&memory, SealFlags::SHRINK).unwrap();
    memory
}

/// Whether somebody else has the pipe's other end.
fn is_held(writing_end: &PipeWriter) -> bool {
    let mut fds = [PollFd::new(writing_end, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec::default())).unwrap() == 0
}

#[test]
fn the_first_descriptor_sent_along_is_the_connections_lane() {
    let mut guest = Guest::started();
    let (socket, theirs) = guest.connected(7, 1024);
    let lane = lane_memory();
    let (second, second_witness) = std::io::pipe().unwrap();
    send_with(&theirs, b"first", &lane);
    send_with(&theirs, b"second", &second);
    drop((lane, second));
    guest.device.handle_events();
    let got: Vec<u8> = guest
        .receive()
        .into_iter()
        .flat_map(|packet| packet.1)
        .collect();
    assert_eq!(got, b"firstsecond");
    assert!(!is_held(&second_witness));
    let lanes = guest.device.lanes().unwrap();
    let number = LaneNumber::of_guest_port(7);
    assert!(lanes.open(number, lane_memory()).is_none(), "it is taken");
    guest.send(socket.header(OP_RST, 0), &[]);
    assert!(
        lanes.open(number, lane_memory()).is_some(),
        "it ends with its connection"
    );
}

#[test]
fn idle_device_is_not_woken() {
    // A stalled connection must not make the event loop spin.
    let mut guest = Guest::with_rx_buffers(4);
    let (mut socket, mut theirs) = guest.connected(7, 1024);
    guest.refill = false;
    while theirs.write(&[1; 65_536]).is_ok() {}
    for piece in noise(socket.credit(), 1).chunks(65_536) {
        guest.send(socket.header(OP_RW, piece.len()), piece);
        socket.sent += piece.len() as u32;
    }
    guest.device.handle_events();
    guest.device.handle_events();
    assert!(!guest.device.has_events());
}
