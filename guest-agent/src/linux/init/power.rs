//! The end of the machine.

use std::process::ExitCode;

use rustix::fs::Access;
use rustix::system::{RebootCommand, reboot};

/// Switches the guest off.
///
/// A kernel that has no way to do that would only halt, and its machine run on for ever, so there it
/// is a reset, which our VMM takes as an end too. ACPI is the way to switch a virtual machine off.
pub(super) fn off() -> ExitCode {
    rustix::fs::sync();
    if rustix::fs::access("/sys/firmware/acpi", Access::EXISTS).is_ok() {
        let _ = reboot(RebootCommand::PowerOff);
    }
    reset()
}

/// Resets the guest, the way to end it when something went wrong. If even that fails, the end of the
/// first process makes the kernel panic.
pub(super) fn reset() -> ExitCode {
    let _ = reboot(RebootCommand::Restart);
    ExitCode::FAILURE
}
