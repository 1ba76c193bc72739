//! Honest and hostile drivers against the rings.

use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::*;
use crate::devices::virtio::INTERRUPT_USED_RING;
use crate::devices::virtio::driver::{
    Buffer, REGION_LEN, RawDescriptor, RingDriver, SECOND_REGION, VIRTQ_DESC_F_INDIRECT,
    VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE, Wire, guest_memory, interrupt,
};
use crate::memory::GuestRamHandle;

const RING: u64 = 0x1000;
const DATA: u64 = 0x1_0000;
const SIZE: u16 = 16;

fn ring(event_idx: bool) -> (GuestRamHandle, RingDriver, VirtQueue) {
    let memory = guest_memory();
    let driver = RingDriver::new(&memory, RING, SIZE);
    let queue = VirtQueue::new(driver.active_queue(event_idx));
    (memory, driver, queue)
}

/// What a driver gets for one available chain at head 0 that it built from `descriptors`.
fn pop_error(descriptors: &[(u16, RawDescriptor)]) -> QueueError {
    let (memory, mut driver, mut queue) = ring(false);
    for (index, descriptor) in descriptors {
        driver.set_descriptor(*index, *descriptor);
    }
    driver.offer(0);
    queue
        .pop(&memory.memory())
        .expect_err("the chain must be refused")
}

fn descriptor(address: u64, len: u32, flags: u16, next: u16) -> RawDescriptor {
    RawDescriptor {
        address,
        len,
        flags,
        next,
    }
}

#[test]
fn chain_is_split_into_readable_and_writable_buffers() {
    let (memory, mut driver, mut queue) = ring(false);
    driver.write(DATA, b"hello, device");
    driver.submit(&[
        Buffer::Readable(DATA, 5),
        Buffer::Readable(DATA + 5, 8),
        Buffer::Writable(DATA + 0x100, 4),
    ]);
    let memory = memory.memory();
    let mut chain = queue.pop(&memory).unwrap().unwrap();
    let mut request = [0; 13];
    chain.readable.read_exact(&mut request).unwrap();
    chain.writable.write_all(b"done").unwrap();
    assert_eq!(&request, b"hello, device");
    assert!(chain.readable.is_empty() && chain.writable.is_empty());
    assert_eq!(&driver.read::<4>(DATA + 0x100), b"done");
    assert!(queue.pop(&memory).unwrap().is_none());
}

#[test]
fn used_ring_tells_head_and_length() {
    let (memory, mut driver, mut queue) = ring(false);
    driver.submit(&[Buffer::Writable(DATA, 8)]);
    let head = driver.submit(&[Buffer::Writable(DATA, 8)]);
    let memory = memory.memory();
    queue.pop(&memory).unwrap().unwrap();
    queue.pop(&memory).unwrap().unwrap();
    queue.push_used(&memory, head, 7).unwrap();
    let used = driver.take_used();
    assert_eq!((used[0].id, used[0].len), (u32::from(head), 7));
    assert_eq!(used.len(), 1);
}

#[test]
fn chain_that_was_put_back_is_popped_again() {
    let (memory, mut driver, mut queue) = ring(false);
    let head = driver.submit(&[Buffer::Writable(DATA, 8)]);
    let memory = memory.memory();
    let chain = queue.pop(&memory).unwrap().unwrap();
    queue.put_back(chain);
    assert_eq!(queue.pop(&memory).unwrap().unwrap().head(), head);
    assert!(queue.pop(&memory).unwrap().is_none());
}

#[test]
fn buffer_across_two_regions_without_hole_is_two_slices() {
    let first = (GuestAddress(0), 0x10_0000);
    let second = (GuestAddress(0x10_0000), 0x10_0000);
    let memory = GuestRamHandle::new(GuestRam::from_ranges(&[first, second]).unwrap());
    let mut driver = RingDriver::new(&memory, RING, SIZE);
    let mut queue = VirtQueue::new(driver.active_queue(false));
    driver.submit(&[Buffer::Writable(0x10_0000 - 2, 4)]);
    let memory = memory.memory();
    let mut chain = queue.pop(&memory).unwrap().unwrap();
    assert_eq!(chain.writable.slices().len(), 2);
    chain.writable.write_all(b"abcd").unwrap();
    assert_eq!(&driver.read::<4>(0x10_0000 - 2), b"abcd");
}

#[test]
fn indirect_table_is_followed() {
    let (memory, mut driver, mut queue) = ring(false);
    driver.write(
        DATA,
        &descriptor(DATA + 0x1000, 3, VIRTQ_DESC_F_NEXT, 1).to_bytes(),
    );
    driver.write(
        DATA + 16,
        &descriptor(DATA + 0x2000, 5, VIRTQ_DESC_F_WRITE, 0).to_bytes(),
    );
    driver.set_descriptor(0, descriptor(DATA, 32, VIRTQ_DESC_F_INDIRECT, 0));
    driver.offer(0);
    let memory = memory.memory();
    let chain = queue.pop(&memory).unwrap().unwrap();
    assert_eq!((chain.readable.len(), chain.writable.len()), (3, 5));
}

#[test]
fn empty_buffers_are_passed_over() {
    let (memory, mut driver, mut queue) = ring(false);
    driver.submit(&[
        Buffer::Readable(DATA, 0),
        Buffer::Readable(DATA, 2),
        Buffer::Writable(u64::MAX, 0),
    ]);
    let memory = memory.memory();
    let chain = queue.pop(&memory).unwrap().unwrap();
    assert_eq!(
        (chain.readable.slices().len(), chain.writable.len()),
        (1, 0)
    );
}

// VIRTIO 1.2 §2.7.5.2: "The driver MUST NOT ... loop".
#[test]
fn looping_chain_is_refused() {
    let error = pop_error(&[
        (0, descriptor(DATA, 1, VIRTQ_DESC_F_NEXT, 1)),
        (1, descriptor(DATA, 1, VIRTQ_DESC_F_NEXT, 0)),
    ]);
    assert!(
        matches!(error, QueueError::ChainBroken { head: 0 }),
        "{error}"
    );
}

#[test]
fn chain_that_leaves_the_table_is_refused() {
    let error = pop_error(&[(0, descriptor(DATA, 1, VIRTQ_DESC_F_NEXT, SIZE))]);
    assert!(matches!(error, QueueError::ChainBroken { .. }), "{error}");
}

// VIRTIO 1.2 §2.7.5.3.1: an indirect descriptor does not refer to another indirect table.
#[test]
fn nested_indirect_table_is_refused() {
    let (memory, mut driver, mut queue) = ring(false);
    driver.write(
        DATA,
        &descriptor(DATA, 16, VIRTQ_DESC_F_INDIRECT, 0).to_bytes(),
    );
    driver.set_descriptor(0, descriptor(DATA, 16, VIRTQ_DESC_F_INDIRECT, 0));
    driver.offer(0);
    assert!(matches!(
        queue.pop(&memory.memory()),
        Err(QueueError::ChainBroken { .. })
    ));
}

#[test]
fn indirect_table_of_odd_length_or_outside_memory_is_refused() {
    for (address, len) in [
        (DATA, 0),
        (DATA, 15),
        (DATA, 17),
        (REGION_LEN, 16),
        (u64::MAX - 7, 16),
    ] {
        let error = pop_error(&[(0, descriptor(address, len, VIRTQ_DESC_F_INDIRECT, 0))]);
        assert!(
            matches!(error, QueueError::ChainBroken { .. }),
            "{address:#x}+{len}: {error}"
        );
    }
}

#[test]
fn indirect_chain_longer_than_the_queue_is_refused() {
    let (memory, mut driver, mut queue) = ring(false);
    let entries = SIZE + 1;
    for index in 0..entries {
        let flags = if index + 1 == entries {
            0
        } else {
            VIRTQ_DESC_F_NEXT
        };
        let entry = descriptor(DATA, 1, flags, index + 1);
        driver.write(DATA + 0x1000 + 16 * u64::from(index), &entry.to_bytes());
    }
    let table = descriptor(
        DATA + 0x1000,
        16 * u32::from(entries),
        VIRTQ_DESC_F_INDIRECT,
        0,
    );
    driver.set_descriptor(0, table);
    driver.offer(0);
    let error = queue.pop(&memory.memory()).expect_err("too long");
    assert!(
        matches!(error, QueueError::ChainTooLong { limit: SIZE, .. }),
        "{error}"
    );
}

// VIRTIO 1.2 §2.7.5.2: a chain is not longer than 2^32 bytes in total.
#[test]
fn chain_longer_than_4_gib_is_refused() {
    // The first buffer is outside memory too; use small real memory and overlapping buffers.
    let regions = [(GuestAddress(0), 1 << 20), (GuestAddress(1 << 20), 1 << 31)];
    let memory = GuestRamHandle::new(GuestRam::from_ranges(&regions).unwrap());
    let mut driver = RingDriver::new(&memory, RING, SIZE);
    let mut queue = VirtQueue::new(driver.active_queue(false));
    driver.submit(&[
        Buffer::Readable(1 << 20, 1 << 31),
        Buffer::Readable(1 << 20, 1 << 31),
        Buffer::Readable(1 << 20, 1),
    ]);
    assert!(matches!(
        queue.pop(&memory.memory()),
        Err(QueueError::ChainBroken { .. })
    ));
}

#[test]
fn buffer_outside_memory_is_refused() {
    let cases = [
        (REGION_LEN, 1),
        (REGION_LEN - 1, 2),
        (SECOND_REGION - 1, 2),
        (SECOND_REGION + REGION_LEN, 1),
        (0, u32::MAX),
        (u64::MAX, 1),
        (u64::MAX - 3, 8),
    ];
    for (address, len) in cases {
        for flags in [0, VIRTQ_DESC_F_WRITE] {
            let error = pop_error(&[(0, descriptor(address, len, flags, 0))]);
            let expected = matches!(error, QueueError::OutsideMemory { .. });
            assert!(expected, "{address:#x}+{len}: {error}");
        }
    }
}

// VIRTIO 1.2 §2.7.4.2: device-writable elements come after device-readable ones.
#[test]
fn readable_buffer_after_writable_one_is_refused() {
    let error = pop_error(&[
        (
            0,
            descriptor(DATA, 1, VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT, 1),
        ),
        (1, descriptor(DATA, 1, 0, 0)),
    ]);
    assert!(
        matches!(error, QueueError::BufferOrder { head: 0 }),
        "{error}"
    );
}

#[test]
fn head_outside_the_table_is_refused() {
    for head in [SIZE, u16::MAX] {
        let (memory, mut driver, mut queue) = ring(false);
        driver.offer(head);
        let error = queue.pop(&memory.memory()).expect_err("no such descriptor");
        assert!(
            matches!(error, QueueError::HeadOutOfRange { .. }),
            "{error}"
        );
    }
}

// GHSA-f47p-p25q-83rh: the same head made available twice before it came back.
#[test]
fn head_in_flight_is_refused_until_it_was_given_back() {
    let (memory, mut driver, mut queue) = ring(false);
    let head = driver.submit(&[Buffer::Writable(DATA, 8)]);
    driver.offer(head);
    let memory = memory.memory();
    queue.pop(&memory).unwrap().unwrap();
    let error = queue.pop(&memory).expect_err("in flight");
    assert!(
        matches!(error, QueueError::HeadInFlight { head: 0 }),
        "{error}"
    );

    queue.push_used(&memory, head, 0).unwrap();
    driver.offer(head);
    assert_eq!(queue.pop(&memory).unwrap().unwrap().head(), head);
}

#[test]
fn available_index_that_runs_ahead_is_refused() {
    for index in [SIZE + 1, 0x8000, u16::MAX] {
        let (memory, mut driver, mut queue) = ring(false);
        driver.set_avail_index(index);
        let error = queue.pop(&memory.memory()).expect_err("too many chains");
        assert!(matches!(error, QueueError::AvailableRing(_)), "{error}");
    }
}

#[test]
fn indices_wrap_around() {
    let (memory, mut driver, mut queue) = ring(true);
    let memory = memory.memory();
    let interrupt = interrupt();
    for round in 0..70_000_u32 {
        let head = driver.submit(&[Buffer::Writable(DATA, 8)]);
        let served = queue
            .serve::<QueueError>(&memory, &interrupt, SIZE, |_| Ok(round))
            .unwrap();
        assert_eq!(served, Served::All);
        let used = driver.take_used();
        assert_eq!(
            (used.len(), used[0].id, used[0].len),
            (1, u32::from(head), round)
        );
    }
}

// Cloud Hypervisor fbcf2fd6b: a driver that adds chains as fast as they are served.
#[test]
fn serve_stops_at_its_limit_when_the_driver_keeps_adding() {
    let (memory, mut driver, mut queue) = ring(true);
    let memory = memory.memory();
    driver.submit(&[Buffer::Writable(DATA, 8)]);
    let mut requests = 0;
    let served = queue
        .serve::<QueueError>(&memory, &interrupt(), SIZE, |_| {
            requests += 1;
            driver.submit(&[Buffer::Writable(DATA, 8)]);
            Ok(0)
        })
        .unwrap();
    assert_eq!((served, requests), (Served::Partly, SIZE));
}

#[test]
fn one_interrupt_for_all_that_was_served() {
    let (memory, mut driver, mut queue) = ring(false);
    for _ in 0..5 {
        driver.submit(&[Buffer::Writable(DATA, 8)]);
    }
    let wire = Wire::default();
    let interrupt = wire.interrupt();
    queue
        .serve::<QueueError>(&memory.memory(), &interrupt, SIZE, |_| Ok(0))
        .unwrap();
    assert_eq!(driver.take_used().len(), 5);
    assert_eq!(wire.pulses(), 1);
    assert_eq!(interrupt.status.load(Ordering::SeqCst), INTERRUPT_USED_RING);
}

#[test]
fn nothing_served_means_no_interrupt() {
    let (memory, _driver, mut queue) = ring(false);
    let wire = Wire::default();
    let interrupt = wire.interrupt();
    queue
        .serve::<QueueError>(&memory.memory(), &interrupt, SIZE, |_| Ok(0))
        .unwrap();
    assert_eq!(wire.pulses(), 0);
}

// VIRTIO 1.2 §2.7.7.2: without EVENT_IDX the available ring's flag suppresses interrupts.
#[test]
fn avail_flag_no_interrupt_is_honoured() {
    let (memory, mut driver, mut queue) = ring(false);
    driver.set_avail_flags(VIRTQ_AVAIL_F_NO_INTERRUPT);
    driver.submit(&[Buffer::Writable(DATA, 8)]);
    let wire = Wire::default();
    let interrupt = wire.interrupt();
    queue
        .serve::<QueueError>(&memory.memory(), &interrupt, SIZE, |_| Ok(0))
        .unwrap();
    assert_eq!(wire.pulses(), 0);
}

// VIRTIO 1.2 §2.7.7.2: with EVENT_IDX the driver hears of the entry after used_event, and of it only.
#[test]
fn used_event_decides_on_the_interrupt() {
    let (memory, mut driver, mut queue) = ring(true);
    let memory = memory.memory();
    let wire = Wire::default();
    let interrupt = wire.interrupt();
    let mut interrupted = Vec::new();
    driver.set_used_event(2);
    // Ignored when EVENT_IDX was negotiated.
    driver.set_avail_flags(VIRTQ_AVAIL_F_NO_INTERRUPT);
    for _ in 0..5 {
        driver.submit(&[Buffer::Writable(DATA, 8)]);
        queue
            .serve::<QueueError>(&memory, &interrupt, SIZE, |_| Ok(0))
            .unwrap();
        interrupted.push(wire.pulses() == 1);
    }
    assert_eq!(interrupted, [false, false, true, false, false]);
}

// VIRTIO 1.2 §2.7.10: an idle device asks for the next kick.
#[test]
fn idle_queue_asks_for_kicks() {
    let (memory, mut driver, mut queue) = ring(true);
    driver.submit(&[Buffer::Writable(DATA, 8)]);
    queue
        .serve::<QueueError>(&memory.memory(), &interrupt(), SIZE, |_| Ok(0))
        .unwrap();
    assert_eq!(driver.avail_event(), 1);

    let (memory, mut driver, mut queue) = ring(false);
    driver.submit(&[Buffer::Writable(DATA, 8)]);
    queue
        .serve::<QueueError>(&memory.memory(), &interrupt(), SIZE, |_| {
            assert_eq!(driver.used_flags(), 1);
            Ok(0)
        })
        .unwrap();
    assert_eq!(driver.used_flags(), 0);
}

#[test]
fn buffers_are_consumed_from_the_front() {
    let (memory, mut driver, mut queue) = ring(false);
    driver.write(DATA, b"abcdefghij");
    driver.submit(&[
        Buffer::Readable(DATA, 3),
        Buffer::Readable(DATA + 3, 3),
        Buffer::Readable(DATA + 6, 4),
    ]);
    let memory = memory.memory();
    let mut front = queue.pop(&memory).unwrap().unwrap().readable;
    let mut back = front.split_off(7).unwrap();
    front.advance(1);
    let mut data = [0; 6];
    front.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"bcdefg");
    assert!(front.is_empty() && front.slices().is_empty());
    assert_eq!(back.len(), 3);
    let mut data = [0; 4];
    let short = BuffersTooShort {
        available: 3,
        needed: 4,
    };
    assert_eq!(back.read_exact(&mut data).unwrap_err(), short);
    assert_eq!(back.len(), 3, "a read that fails consumes nothing");
    back.read_exact(&mut data[..3]).unwrap();
    assert_eq!(&data[..3], b"hij");
}

// Time of check is time of use: the descriptors were read once.
#[test]
fn descriptors_that_change_after_the_check_change_nothing() {
    let (memory, mut driver, mut queue) = ring(false);
    driver.write(DATA, b"as it was");
    let head = driver.submit(&[Buffer::Readable(DATA, 9), Buffer::Writable(DATA + 0x100, 4)]);
    let memory = memory.memory();
    let mut chain = queue.pop(&memory).unwrap().unwrap();
    for index in 0..SIZE {
        driver.set_descriptor(
            index,
            descriptor(u64::MAX - 3, u32::MAX, u16::MAX, u16::MAX),
        );
    }
    driver.set_avail_index(0x7777);
    let mut data = [0; 9];
    chain.readable.read_exact(&mut data).unwrap();
    chain.writable.write_all(b"done").unwrap();
    queue.push_used(&memory, head, 4).unwrap();
    assert_eq!((&data, &driver.read(DATA + 0x100)), (b"as it was", b"done"));
    assert_eq!(driver.take_used().len(), 1);
}

#[test]
fn registers_that_break_a_rule_do_not_make_a_queue() {
    let memory = guest_memory();
    let good = RingDriver::new(&memory, RING, SIZE).registers();
    let memory = memory.memory();
    let in_hole = REGION_LEN.next_multiple_of(16);
    let bad = [
        QueueRegisters { size: 0, ..good },
        QueueRegisters { size: 3, ..good },
        QueueRegisters {
            size: u32::from(SIZE) * 2,
            ..good
        },
        QueueRegisters {
            size: u32::from(SIZE) + 0x1_0000,
            ..good
        },
        QueueRegisters {
            size: u32::MAX,
            ..good
        },
        QueueRegisters {
            descriptor_table: RING + 8,
            ..good
        },
        QueueRegisters {
            driver_area: good.driver_area + 1,
            ..good
        },
        QueueRegisters {
            device_area: good.device_area + 2,
            ..good
        },
        QueueRegisters {
            descriptor_table: 0,
            ..good
        },
        QueueRegisters {
            descriptor_table: in_hole,
            ..good
        },
        QueueRegisters {
            descriptor_table: in_hole - 16,
            ..good
        },
        QueueRegisters {
            driver_area: in_hole - 4,
            ..good
        },
        QueueRegisters {
            device_area: in_hole - 4,
            ..good
        },
        QueueRegisters {
            device_area: u64::MAX - 3,
            ..good
        },
        QueueRegisters {
            descriptor_table: u64::MAX - 15,
            ..good
        },
        QueueRegisters {
            driver_area: SECOND_REGION - 4,
            ..good
        },
    ];
    assert!(good.build(SIZE, true, &memory).is_ok());
    for registers in bad {
        assert!(
            registers.build(SIZE, true, &memory).is_err(),
            "{registers:x?}"
        );
    }
}

#[test]
fn memory_around_the_buffers_stays_as_it_was() {
    let (memory, mut driver, mut queue) = ring(false);
    driver.write(DATA, &[0xaa; 64]);
    driver.submit(&[
        Buffer::Writable(DATA + 8, 8),
        Buffer::Writable(DATA + 32, 8),
    ]);
    let memory = memory.memory();
    let mut chain = queue.pop(&memory).unwrap().unwrap();
    assert!(chain.writable.write_all(&[0; 17]).is_err());
    chain.writable.write_all(&[0; 16]).unwrap();
    let mut expected = [0xaa; 64];
    expected[8..16].fill(0);
    expected[32..40].fill(0);
    let mut found = [0; 64];
    memory.read_slice(&mut found, GuestAddress(DATA)).unwrap();
    assert_eq!(found, expected);
}

proptest::proptest! {
    #[test]
    fn any_driver_is_survived(script in proptest::collection::vec(proptest::num::u8::ANY, 0..2048)) {
        hostile::drive(&script);
    }
}
