//! What a vCPU does when it leaves the guest: one match, and no arm for "all others".

use kvm_bindings::{KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::VcpuExit;
use vmm_sys_util::errno;

use crate::bus::Buses;
use crate::control::StopReason;

/// How it goes on after an exit.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// Back into the guest.
    Handled,
    /// The machine ends as the guest wants it.
    Stop(StopReason),
    /// KVM cannot go on, and says why in the vCPU's shared state.
    InternalError,
    /// KVM cannot go on.
    Failed(String),
    /// `KVM_RUN` itself failed.
    Refused(errno::Error),
}

/// Does what the guest waits for.
pub(super) fn handle(exit: VcpuExit<'_>, buses: &Buses) -> Outcome {
    match exit {
        VcpuExit::IoIn(port, data) => buses.ports.read(port, data),
        VcpuExit::IoOut(port, data) => buses.ports.write(port, data),
        VcpuExit::MmioRead(address, data) => buses.mmio.read(address, data),
        VcpuExit::MmioWrite(address, data) => buses.mmio.write(address, data),
        VcpuExit::Intr => {}
        VcpuExit::Shutdown => return Outcome::Stop(StopReason::TripleFault),
        VcpuExit::SystemEvent(kind, _) => return system_event(kind),
        VcpuExit::InternalError => return Outcome::InternalError,
        VcpuExit::FailEntry(reason, cpu) => {
            return Outcome::Failed(format!(
                "the host's CPU {cpu} refused to enter the guest, reason {reason:#x}"
            ));
        }
        VcpuExit::MemoryFault { flags, gpa, size } => {
            return Outcome::Failed(format!(
                "the host has no memory for {size} bytes at guest address {gpa:#x}, flags {flags:#x}"
            ));
        }
        VcpuExit::Unsupported(reason) => {
            return Outcome::Failed(format!("unknown KVM exit {reason}"));
        }
        // None of these was asked for: there is an in-kernel interrupt controller, no debugger, no
        // MSR filter, and this is not that kind of processor.
        VcpuExit::Unknown
        | VcpuExit::Exception
        | VcpuExit::Hypercall(_)
        | VcpuExit::Debug(_)
        | VcpuExit::Hlt
        | VcpuExit::IrqWindowOpen
        | VcpuExit::SetTpr
        | VcpuExit::TprAccess
        | VcpuExit::S390Sieic
        | VcpuExit::S390Reset
        | VcpuExit::Dcr
        | VcpuExit::Nmi
        | VcpuExit::Osi
        | VcpuExit::PaprHcall
        | VcpuExit::S390Ucontrol
        | VcpuExit::Watchdog
        | VcpuExit::S390Tsch
        | VcpuExit::Epr
        | VcpuExit::S390Stsi
        | VcpuExit::IoapicEoi(_)
        | VcpuExit::Hyperv
        | VcpuExit::X86Rdmsr(_)
        | VcpuExit::X86Wrmsr(_) => return Outcome::Failed(format!("unexpected KVM exit {exit:?}")),
    }
    Outcome::Handled
}

fn system_event(kind: u32) -> Outcome {
    match kind {
        KVM_SYSTEM_EVENT_SHUTDOWN => Outcome::Stop(StopReason::PowerOff),
        KVM_SYSTEM_EVENT_RESET => Outcome::Stop(StopReason::Reset),
        other => Outcome::Failed(format!("the guest made KVM system event {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::power::ResetPort;
    use crate::stop::StopSignal;

    #[test]
    fn port_write_reaches_its_device() {
        let stop = StopSignal::new().unwrap();
        let mut buses = Buses::default();
        buses
            .ports
            .add(0x64, 1, ResetPort::new(stop.clone()))
            .unwrap();
        assert_eq!(
            handle(VcpuExit::IoOut(0x64, &[0xfe]), &buses),
            Outcome::Handled
        );
        assert_eq!(stop.reason(), Some(&StopReason::Reset));
    }

    #[test]
    fn nobody_at_an_address_reads_as_ones() {
        let buses = Buses::default();
        let (mut port, mut mmio) = ([0; 2], [0; 8]);
        assert_eq!(
            handle(VcpuExit::IoIn(0x70, &mut port), &buses),
            Outcome::Handled
        );
        assert_eq!(
            handle(VcpuExit::MmioRead(0xd000_0000, &mut mmio), &buses),
            Outcome::Handled
        );
        assert_eq!((port, mmio), ([0xff; 2], [0xff; 8]));
    }

    #[test]
    fn shutdown_is_a_triple_fault() {
        let outcome = handle(VcpuExit::Shutdown, &Buses::default());
        assert_eq!(outcome, Outcome::Stop(StopReason::TripleFault));
    }

    #[test]
    fn what_was_not_asked_for_fails_with_its_name() {
        let Outcome::Failed(what) = handle(VcpuExit::Hlt, &Buses::default()) else {
            panic!("handled");
        };
        assert!(what.contains("Hlt"), "{what}");
    }
}
