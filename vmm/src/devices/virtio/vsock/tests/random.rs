//! Random guests: nothing panics, hangs or grows.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proptest::prelude::*;

use super::super::hostile;
use super::super::packet::Header;
use super::super::table::MAX_ENTRIES;
use super::guest::{CID, Guest, stream_pair};
use crate::devices::virtio::VirtioDevice;

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    Packet { header: Header, len: usize },
    Accept(u32),
    Connect(u32),
    HostWrites(usize),
    HostReads(usize),
    HostLeaves(usize),
    GuestReads,
    TimePasses,
    DriverResets,
}

fn header() -> impl Strategy<Value = Header> {
    // Few ports and mostly sensible values, so that packets meet connections.
    let cids = (
        prop_oneof![9 => Just(u64::from(CID)), 1 => any::<u64>()],
        prop_oneof![9 => Just(2), 1 => any::<u64>()],
    );
    let ports = (
        0..3_u32,
        prop_oneof![0..3_u32, (1_u32 << 30)..(1 << 30) + 3],
    );
    let kind = (
        prop_oneof![19 => Just(1_u16), 1 => any::<u16>()],
        prop_oneof![9 => 0..9_u16, 1 => any::<u16>()],
    );
    let credit = (
        prop_oneof![Just(0), 1..100_000_u32, any::<u32>()],
        prop_oneof![8 => Just(0), 1 => any::<u32>()],
    );
    (cids, ports, kind, credit, 0..4_u32).prop_map(|(cids, ports, kind, credit, flags)| Header {
        src_cid: cids.0,
        dst_cid: cids.1,
        src_port: ports.0,
        dst_port: ports.1,
        len: 0,
        socket_type: kind.0,
        op: kind.1,
        flags,
        buf_alloc: credit.0,
        fwd_cnt: credit.1,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![4 => Just(0_usize), 2 => 0..5000_usize, 1 => 0..66_000_usize];
    prop_oneof![
        12 => (header(), len, prop_oneof![15 => Just(0_u32), 1 => any::<u32>()]).prop_map(|(header, len, lie)| {
            Step::Packet { header: Header { len: (len as u32).wrapping_add(lie), ..header }, len }
        }),
        3 => (0..3_u32).prop_map(Step::Accept),
        2 => (0..3_u32).prop_map(Step::Connect),
        3 => (1..100_000_usize).prop_map(Step::HostWrites),
        3 => (1..100_000_usize).prop_map(Step::HostReads),
        2 => any::<usize>().prop_map(Step::HostLeaves),
        3 => Just(Step::GuestReads),
        1 => Just(Step::TimePasses),
        1 => Just(Step::DriverResets),
    ]
}

fn take(guest: &mut Guest, hosts: &mut Vec<UnixStream>, step: Step) {
    match step {
        Step::Packet { header, len } => guest.send(header, &vec![1; len]),
        Step::Accept(port) => {
            let (ours, theirs) = stream_pair();
            guest.device.accept_stream(port, ours);
            hosts.push(theirs);
        }
        Step::Connect(port) => {
            let (ours, theirs) = stream_pair();
            guest.device.connect_stream(port, ours);
            hosts.push(theirs);
        }
        Step::HostWrites(len) => {
            for host in hosts {
                let _ = host.write(&vec![1; len]);
            }
        }
        Step::HostReads(len) => {
            for host in hosts {
                let _ = host.read(&mut vec![0; len]);
            }
        }
        Step::HostLeaves(which) => {
            if !hosts.is_empty() {
                hosts.swap_remove(which % hosts.len());
            }
        }
        Step::GuestReads => drop(guest.receive()),
        Step::TimePasses => guest.pass_time(Duration::from_secs(60)),
        Step::DriverResets => {
            guest.device.reset();
            guest.start();
        }
    }
    guest.tx.take_used();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn random_packets_break_nothing(steps in prop::collection::vec(step(), 1..120)) {
        let mut guest = Guest::with_rx_buffers(16);
        let mut hosts = Vec::new();
        for step in steps {
            take(&mut guest, &mut hosts, step);
            guest.device.handle_events();
            prop_assert!(!guest.is_broken());
            prop_assert!(guest.device.entries() <= MAX_ENTRIES);
        }
        // Without a driver and with the hosts gone nothing is left.
        guest.device.reset();
        hosts.clear();
        for _ in 0..3 {
            guest.device.handle_events();
            guest.start();
            guest.receive();
            guest.device.reset();
        }
        prop_assert_eq!(guest.device.entries(), 0);
    }

    #[test]
    fn random_scripts_break_nothing(data in prop::collection::vec(any::<u8>(), 0..2000)) {
        hostile::drive(&data);
    }

    #[test]
    fn header_survives_the_wire(header in header()) {
        prop_assert_eq!(Header::from_bytes(&header.to_bytes()), header);
    }
}
