//! The two registers by which a guest ends its machine.
//!
//! Both work whatever way the machine is described to the guest: reset by the keyboard controller's
//! command port, which every PC kernel knows, and power-off by ACPI's sleep control register.

use crate::bus::PortDevice;
use crate::control::StopReason;
use crate::stop::StopSignal;

/// The keyboard controller's command to pulse the CPU's reset line.
pub const RESET_COMMAND: u8 = 0xfe;

/// The sleep type of the "off" state S5, as the DSDT names it.
pub const SLEEP_TYPE_OFF: u8 = 5;

/// Sleep control register (ACPI 6.5, section 4.8.3.7): enable bit, and where the sleep type is.
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 0x7;

/// The keyboard controller's command port, of which only the reset command is there.
#[derive(Debug)]
pub struct ResetPort {
    stop: StopSignal,
}

impl ResetPort {
    /// A port that raises `stop` on reset.
    #[must_use]
    pub fn new(stop: StopSignal) -> Self {
        Self { stop }
    }
}

impl PortDevice for ResetPort {
    /// Status: no data to fetch, and room for a command, so that kernels do not wait before they
    /// write one.
    fn read(&mut self, _offset: u16) -> u8 {
        0
    }

    fn write(&mut self, _offset: u16, value: u8) {
        if value == RESET_COMMAND {
            self.stop.raise(StopReason::Reset);
        }
    }
}

/// ACPI's sleep control (offset 0) and sleep status (offset 1) registers.
#[derive(Debug)]
pub struct SleepPorts {
    stop: StopSignal,
}

impl SleepPorts {
    /// Number of ports.
    pub const COUNT: u16 = 2;

    /// Registers that raise `stop` on power-off.
    #[must_use]
    pub fn new(stop: StopSignal) -> Self {
        Self { stop }
    }
}

impl PortDevice for SleepPorts {
    fn read(&mut self, _offset: u16) -> u8 {
        0
    }

    fn write(&mut self, offset: u16, value: u8) {
        let sleep_type = value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK;
        if offset == 0 && value & SLEEP_ENABLE != 0 && sleep_type == SLEEP_TYPE_OFF {
            self.stop.raise(StopReason::PowerOff);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reset_command_resets() {
        let stop = StopSignal::new().unwrap();
        let mut port = ResetPort::new(stop.clone());
        port.write(0, 0xd1);
        assert_eq!(stop.reason(), None);
        port.write(0, RESET_COMMAND);
        assert_eq!(stop.reason(), Some(&StopReason::Reset));
    }

    #[test]
    fn only_the_off_state_switches_off() {
        let stop = StopSignal::new().unwrap();
        let mut ports = SleepPorts::new(stop.clone());
        let off = SLEEP_TYPE_OFF << SLEEP_TYPE_SHIFT;
        for (offset, value) in [
            (0, off),
            (0, SLEEP_ENABLE | 3 << 2),
            (1, off | SLEEP_ENABLE),
        ] {
            ports.write(offset, value);
            assert_eq!(stop.reason(), None);
        }
        ports.write(0, off | SLEEP_ENABLE);
        assert_eq!(stop.reason(), Some(&StopReason::PowerOff));
    }
}
