//! The life of one vCPU's thread.

use std::sync::Arc;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;

use super::exits::{self, Outcome};
use super::gate::Gate;
use crate::bus::Buses;
use crate::control::StopReason;
use crate::kvm::{KickPage, internal_error};
use crate::stop::StopSignal;

/// A vCPU and all that its thread needs.
pub(super) struct Vcpu {
    pub(super) fd: VcpuFd,
    pub(super) kick: Arc<KickPage>,
    pub(super) gate: Arc<Gate>,
    pub(super) buses: Arc<Buses>,
    pub(super) stop: StopSignal,
}

impl Vcpu {
    /// Runs the guest whenever the gate lets it, until the machine ends.
    pub(super) fn main(mut self) {
        while self.stop.reason().is_none() && self.gate.enter() {
            self.run_until_kicked();
            self.gate.leave();
            // Tells a Linux guest that its clock jumped because the host stood still, not because the
            // CPU hung. A guest without kvm-clock cannot be told.
            let _ = self.fd.kvmclock_ctrl();
        }
    }

    /// Returns when the thread was kicked, or the machine ends.
    fn run_until_kicked(&mut self) {
        while self.stop.reason().is_none() {
            let outcome = match self.fd.run() {
                Ok(exit) => exits::handle(exit, &self.buses),
                Err(error) => match error.errno() {
                    libc::EINTR => {
                        // Before the gate is looked at: a kick that comes after this is a new one.
                        self.kick.clear();
                        return;
                    }
                    // The vCPU was woken without a reason to run, as by a reset of itself.
                    libc::EAGAIN => continue,
                    _ => Outcome::Refused(error),
                },
            };
            match outcome {
                Outcome::Handled => {}
                Outcome::Stop(reason) => self.stop.raise(reason),
                Outcome::Refused(error) => self.fail(&refusal(error)),
                Outcome::Failed(what) => self.fail(&what),
                Outcome::InternalError => {
                    let what = internal_error(self.fd.get_kvm_run());
                    self.fail(&what);
                }
            }
        }
    }

    fn fail(&self, what: &str) {
        let place = match self.fd.get_regs() {
            Ok(registers) => format!(" at {:#x}", registers.rip),
            Err(_) => String::new(),
        };
        self.stop.raise(StopReason::CpuFailed {
            detail: format!("{what}{place}"),
        });
    }
}

fn refusal(error: errno::Error) -> String {
    format!("KVM_RUN: {error}")
}
