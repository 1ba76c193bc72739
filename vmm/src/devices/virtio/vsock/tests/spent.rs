//! When packets come back to the guest that the device is done with.

use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::Duration;

use super::super::spec::{OP_CREDIT_REQUEST, OP_CREDIT_UPDATE, OP_REQUEST};
use super::guest::{Guest, Socket};
use crate::devices::virtio::VirtioDevice as _;

/// How long a packet may wait.
const PATIENCE: Duration = Duration::from_millis(10);

/// How often the guest was interrupted since the last call.
fn interrupts(guest: &Guest) -> u64 {
    guest.wire.pulses()
}

/// A guest with a connection that has every packet back, and wants an interrupt for the next one.
fn quiet() -> (Guest, Socket, UnixStream) {
    let mut guest = Guest::started();
    let (socket, theirs) = guest.connected(7, 1024);
    guest.given_back();
    guest.rx.listen();
    guest.tx.listen();
    interrupts(&guest);
    (guest, socket, theirs)
}

#[test]
fn packet_that_nobody_answers_comes_back_a_little_later() {
    let (mut guest, socket, _theirs) = quiet();
    guest.send(socket.header(OP_CREDIT_UPDATE, 0), &[]);
    assert_eq!((guest.tx.take_used().len(), interrupts(&guest)), (0, 0));
    guest.pass_time(PATIENCE / 2);
    assert_eq!((guest.tx.take_used().len(), interrupts(&guest)), (0, 0));
    guest.pass_time(PATIENCE);
    assert_eq!((guest.tx.take_used().len(), interrupts(&guest)), (1, 1));
}

#[test]
fn event_loop_is_woken_when_it_is_time() {
    let (mut guest, socket, _theirs) = quiet();
    guest.send(socket.header(OP_CREDIT_UPDATE, 0), &[]);
    assert!(!guest.device.take_events());
    sleep(2 * PATIENCE);
    assert!(guest.device.take_events());
    guest.device.handle_events();
    assert_eq!((guest.tx.take_used().len(), interrupts(&guest)), (1, 1));
    sleep(2 * PATIENCE);
    assert!(!guest.device.take_events());
}

#[test]
fn packet_that_is_answered_comes_back_with_the_answer_and_one_interrupt_tells_of_both() {
    let (mut guest, socket, _theirs) = quiet();
    guest.send(socket.header(OP_CREDIT_REQUEST, 0), &[]);
    assert_eq!((guest.tx.take_used().len(), interrupts(&guest)), (1, 1));
    assert_eq!(guest.receive_one().op, OP_CREDIT_UPDATE);
}

#[test]
fn driver_that_has_sent_many_does_not_wait() {
    let (mut guest, socket, _theirs) = quiet();
    for _ in 0..32 {
        guest.send(socket.header(OP_CREDIT_UPDATE, 0), &[]);
    }
    assert_eq!((guest.tx.take_used().len(), interrupts(&guest)), (0, 0));
    guest.send(socket.header(OP_CREDIT_UPDATE, 0), &[]);
    assert_eq!((guest.tx.take_used().len(), interrupts(&guest)), (33, 1));
}

#[test]
fn driver_that_was_reset_gets_nothing_back() {
    let (mut guest, socket, _theirs) = quiet();
    guest.send(socket.header(OP_CREDIT_UPDATE, 0), &[]);
    guest.device.reset();
    guest.start();
    guest.rx.listen();
    assert_eq!(guest.given_back(), 0);
    guest.send(Socket::new(8, 1).header(OP_REQUEST, 0), &[]);
    assert_eq!(guest.tx.take_used().len(), 1);
}
