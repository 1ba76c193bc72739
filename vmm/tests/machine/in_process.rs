//! Machines in this process, with guests of a few instructions.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use vmm::control::StopReason;
use vmm::machine::{Machine, MachineError, MachineHandle, Trace};

use crate::guest::{
    FLOOD, Guest, HALT, NEXT_BYTE, OUT_AL, POWER_OFF, REAL_MODE_RESTART, RESET, SPIN, TO_CONSOLE,
    TRIPLE_FAULT, kvm_is_here, load, print, read_port,
};

/// No guest here takes longer, also where ring 0 is interpreted on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// Runs the guest in a thread of its own, so that a machine that does not end fails the test.
fn start(guest: &Guest) -> (MachineHandle, mpsc::Receiver<StopReason>) {
    let config = guest.config.clone();
    let (send_handle, handle) = mpsc::channel();
    let (send_reason, reason) = mpsc::channel();
    thread::spawn(move || {
        let machine = Machine::build(&config, &mut Trace::default()).unwrap();
        let mut running = machine.start(|_role| ()).unwrap();
        send_handle.send(running.handle()).unwrap();
        let reason = running.wait().unwrap();
        drop(running);
        send_reason.send(reason).unwrap();
    });
    (handle.recv_timeout(DEADLINE).unwrap(), reason)
}

fn run(guest: &Guest) -> (StopReason, String) {
    let (handle, reason) = start(guest);
    let reason = reason.recv_timeout(DEADLINE).unwrap();
    (
        reason,
        String::from_utf8_lossy(&handle.console_tail(usize::MAX)).into_owned(),
    )
}

#[test]
fn console_output_is_kept_and_reset_ends_the_machine() {
    if !kvm_is_here() {
        return;
    }
    let guest = Guest::new(&[TO_CONSOLE, &print(b'h'), &print(b'i'), RESET, SPIN]);
    assert_eq!(run(&guest), (StopReason::Reset, "hi".into()));
}

#[test]
fn sleep_control_register_switches_off() {
    if !kvm_is_here() {
        return;
    }
    assert_eq!(run(&Guest::new(&[POWER_OFF, SPIN])).0, StopReason::PowerOff);
}

#[test]
fn triple_fault_ends_the_machine() {
    if !kvm_is_here() {
        return;
    }
    assert_eq!(run(&Guest::new(&[TRIPLE_FAULT])).0, StopReason::TripleFault);
}

#[test]
fn jump_to_the_firmware_is_a_reset() {
    if !kvm_is_here() {
        return;
    }
    assert_eq!(run(&Guest::new(&[REAL_MODE_RESTART])).0, StopReason::Reset);
}

#[test]
fn spinning_and_halted_guests_can_be_stopped() {
    if !kvm_is_here() {
        return;
    }
    for code in [SPIN, HALT] {
        let (handle, reason) = start(&Guest::new(&[code]));
        thread::sleep(Duration::from_millis(50));
        handle.stop();
        assert_eq!(
            reason.recv_timeout(DEADLINE).unwrap(),
            StopReason::Requested
        );
    }
}

#[test]
fn paused_guest_stands_still_until_resumed() {
    if !kvm_is_here() {
        return;
    }
    let mut guest = Guest::new(&[TO_CONSOLE, FLOOD]);
    guest.config.console_bytes = 64 << 20;
    let (handle, reason) = start(&guest);
    let written = || handle.console_tail(usize::MAX).len();
    wait_for(|| written() > 0);

    handle.pause().unwrap();
    let at_pause = written();
    thread::sleep(Duration::from_millis(50));
    assert_eq!(written(), at_pause);

    handle.resume();
    wait_for(|| written() > at_pause);
    handle.stop();
    assert_eq!(
        reason.recv_timeout(DEADLINE).unwrap(),
        StopReason::Requested
    );
}

#[test]
fn guest_that_floods_its_console_keeps_the_newest_bytes_only() {
    if !kvm_is_here() {
        return;
    }
    let guest = Guest::new(&[TO_CONSOLE, FLOOD]);
    let (handle, reason) = start(&guest);
    let limit = guest.config.console_bytes as usize;
    wait_for(|| handle.console_tail(usize::MAX).len() == limit);
    thread::sleep(Duration::from_millis(20));
    assert_eq!(handle.console_tail(usize::MAX).len(), limit);
    handle.stop();
    reason.recv_timeout(DEADLINE).unwrap();
}

#[test]
fn virtio_window_shows_its_magic_value() {
    if !kvm_is_here() {
        return;
    }
    let mut guest = Guest::new(&[
        &load(0xd000_0000),
        TO_CONSOLE,
        &[OUT_AL, NEXT_BYTE].concat().repeat(4),
        RESET,
        SPIN,
    ]);
    guest.config.entropy = true;
    assert_eq!(run(&guest), (StopReason::Reset, "virt".into()));
}

#[test]
fn nobody_at_a_port_or_address_reads_as_ones() {
    if !kvm_is_here() {
        return;
    }
    let guest = Guest::new(&[
        TO_CONSOLE,
        &read_port(0x70),
        OUT_AL,
        &load(0xd800_0000),
        OUT_AL,
        RESET,
        SPIN,
    ]);
    assert_eq!(run(&guest), (StopReason::Reset, "\u{fffd}\u{fffd}".into()));
}

#[test]
fn machine_of_many_vcpus_starts_and_ends() {
    if !kvm_is_here() {
        return;
    }
    let mut guest = Guest::new(&[RESET, SPIN]);
    guest.config.vcpus = 32;
    assert_eq!(run(&guest).0, StopReason::Reset);
}

#[test]
fn memory_beyond_the_device_gap_is_there() {
    if !kvm_is_here() {
        return;
    }
    let mut guest = Guest::new(&[RESET, SPIN]);
    guest.config.memory_mib = 8192;
    assert_eq!(run(&guest).0, StopReason::Reset);
}

#[test]
fn impossible_machines_are_refused_with_a_hint() {
    let refuse = |change: fn(&mut Guest)| {
        let mut guest = Guest::new(&[SPIN]);
        change(&mut guest);
        let Err(error) = Machine::build(&guest.config, &mut Trace::default()) else {
            panic!("the machine was built");
        };
        assert!(error.hint().is_some(), "{error}");
        error
    };
    let vcpus = refuse(|guest| guest.config.vcpus = 33);
    assert!(matches!(vcpus, MachineError::Vcpus { asked: 33 }));
    assert!(matches!(
        refuse(|guest| guest.config.vcpus = 0),
        MachineError::Vcpus { asked: 0 }
    ));
    let memory = refuse(|guest| guest.config.memory_mib = 16);
    assert!(matches!(memory, MachineError::Memory { asked_mib: 16 }));
    if kvm_is_here() {
        let missing = refuse(|guest| guest.config.kernel = "/nonexistent".into());
        assert!(matches!(
            missing,
            MachineError::OpenFile { role: "kernel", .. }
        ));
        let garbage = refuse(|guest| std::fs::write(&guest.config.kernel, [7; 9999]).unwrap());
        assert!(matches!(garbage, MachineError::Load { .. }));
    }
}

fn wait_for(condition: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "waited for too long");
        thread::sleep(Duration::from_millis(1));
    }
}
