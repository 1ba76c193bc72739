//! The device status and the order in which a driver may set its bits (virtio 1.2, sections 2.1 and
//! 3.1.1).

use crate::devices::virtio::STATUS_DEVICE_NEEDS_RESET;

/// The driver has seen the device.
pub(super) const ACKNOWLEDGE: u32 = 1;
/// The driver knows how to drive the device.
pub(super) const DRIVER: u32 = 2;
/// The driver is set up; the device runs.
pub(super) const DRIVER_OK: u32 = 4;
/// Driver and device agree on the features.
pub(super) const FEATURES_OK: u32 = 8;
/// The driver has given up.
pub(super) const FAILED: u32 = 128;

const SET_BY_DRIVER: u32 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;

/// What a write to the `Status` register does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transition {
    /// The device forgets everything.
    Reset,
    /// These bits are set, perhaps none.
    Add(u32),
}

/// Whether only a reset can help: the device or the driver has given up.
pub(super) fn is_broken(status: u32) -> bool {
    status & (FAILED | STATUS_DEVICE_NEEDS_RESET) != 0
}

/// VIRTIO 1.2 §3.1.1, step 4: between `DRIVER` and `FEATURES_OK`.
pub(super) fn features_are_writable(status: u32) -> bool {
    status & DRIVER != 0 && status & FEATURES_OK == 0 && !is_broken(status)
}

/// VIRTIO 1.2 §3.1.1, step 7: between `FEATURES_OK` and `DRIVER_OK`.
pub(super) fn queues_are_writable(status: u32) -> bool {
    status & FEATURES_OK != 0 && status & DRIVER_OK == 0 && !is_broken(status)
}

/// What happens when the driver writes `value` while the status is `status`.
pub(super) fn transition(status: u32, value: u32, features_are_acceptable: bool) -> Transition {
    if value == 0 {
        return Transition::Reset;
    }
    // VIRTIO 1.2 §2.1.1: the driver must not clear a bit, and must reset a device that needs it.
    let clears = status & SET_BY_DRIVER & !value != 0;
    if clears || is_broken(status) {
        return Transition::Add(0);
    }
    let mut reached = status;
    let mut add = |bit: u32, allowed: bool| {
        if value & bit != 0 && allowed {
            reached |= bit;
        }
        reached
    };
    let with_acknowledge = add(ACKNOWLEDGE, true);
    let with_driver = add(DRIVER, with_acknowledge & ACKNOWLEDGE != 0);
    add(
        FEATURES_OK,
        with_driver & DRIVER != 0 && features_are_acceptable,
    );
    // Against the status before this write: queues are set up in between.
    add(DRIVER_OK, status & FEATURES_OK != 0);
    add(FAILED, true);
    Transition::Add(reached & !status)
}
