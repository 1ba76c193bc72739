//! Virtual CPUs: one thread each, `vcpu-N`, which runs the guest until it is kicked out.
//!
//! ```text
//!                    resume                  end
//!   (start) ▶ Paused ──────▶ Running ──────────────▶ Stopped
//!               ▲              │                        ▲
//!               └──── pause ───┘        pause, end      │
//!               └───────────────────────────────────────┘
//! ```
//!
//! What all vCPUs are to do is one word behind the `Gate`. Changing it and then kicking every thread
//! moves them all; a thread that was on its way into the guest comes out at once (see
//! [`KickPage`]).

mod exits;
mod gate;
mod thread;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::bus::Buses;
use crate::kvm::{KickPage, KvmError};
use crate::stop::StopSignal;
use gate::{Gate, Wanted};

/// Touched by vCPU threads is what their exits need; the rest of a stack stays untouched.
const STACK_SIZE: usize = 256 * 1024;

/// How long vCPUs get to stand still. Each needs as long as one exit takes to handle.
const PAUSE_DEADLINE: Duration = Duration::from_secs(5);

/// vCPUs cannot be run or paused.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// The signal that kicks vCPUs could not be set up.
    #[error("setting up the signal that interrupts vCPUs")]
    Signal(#[source] errno::Error),
    /// A thread could not be made.
    #[error("starting the thread of vCPU {index}")]
    Thread {
        /// Which vCPU.
        index: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// KVM refused something.
    #[error("preparing vCPU {index}")]
    Kvm {
        /// Which vCPU.
        index: usize,
        /// Why.
        #[source]
        source: KvmError,
    },
    /// A vCPU did not stand still in time.
    #[error("vCPUs did not pause within {} s", PAUSE_DEADLINE.as_secs())]
    PauseTimeout,
}

/// All vCPUs of a machine. They stand still until [`Vcpus::resume`].
#[derive(Debug)]
pub struct Vcpus {
    gate: Arc<Gate>,
    threads: Vec<Thread>,
}

#[derive(Debug)]
struct Thread {
    /// Taken when it is joined.
    handle: Option<JoinHandle<()>>,
    kick: Arc<KickPage>,
}

impl Vcpus {
    /// Starts a paused thread for each vCPU. `prepare` runs first in each, to confine it.
    ///
    /// # Errors
    /// When the host refuses a thread or a mapping.
    pub fn spawn(
        vcpus: Vec<VcpuFd>,
        buses: &Arc<Buses>,
        stop: &StopSignal,
        prepare: &(impl Fn() + Clone + Send + 'static),
    ) -> Result<Self, VcpuError> {
        register_signal_handler(SIGRTMIN(), on_kick).map_err(VcpuError::Signal)?;
        let mut pool = Self {
            gate: Arc::new(Gate::default()),
            threads: Vec::new(),
        };
        for (index, fd) in vcpus.into_iter().enumerate() {
            let kick = KickPage::map(&fd).map_err(|source| VcpuError::Kvm { index, source })?;
            let kick = Arc::new(kick);
            let vcpu = thread::Vcpu {
                fd,
                kick: Arc::clone(&kick),
                gate: Arc::clone(&pool.gate),
                buses: Arc::clone(buses),
                stop: stop.clone(),
            };
            let prepare = prepare.clone();
            let handle = std::thread::Builder::new()
                .name(format!("vcpu-{index}"))
                .stack_size(STACK_SIZE)
                .spawn(move || {
                    prepare();
                    vcpu.main();
                })
                .map_err(|source| VcpuError::Thread { index, source })?;
            pool.threads.push(Thread {
                handle: Some(handle),
                kick,
            });
        }
        Ok(pool)
    }

    /// Lets the vCPUs run.
    pub fn resume(&self) {
        self.gate.set(Wanted::Running);
    }

    /// Returns when all vCPUs stand still.
    ///
    /// # Errors
    /// When one does not within its deadline.
    pub fn pause(&self) -> Result<(), VcpuError> {
        self.gate.set(Wanted::Paused);
        self.kick_all();
        if self.gate.wait_until_still(PAUSE_DEADLINE) {
            Ok(())
        } else {
            Err(VcpuError::PauseTimeout)
        }
    }

    fn kick_all(&self) {
        for thread in &self.threads {
            thread.kick.set();
            if let Some(handle) = &thread.handle {
                // Fails only for a thread that has ended.
                let _ = handle.kill(SIGRTMIN());
            }
        }
    }
}

impl Drop for Vcpus {
    /// Ends all vCPUs.
    fn drop(&mut self) {
        self.gate.set(Wanted::Stopped);
        self.kick_all();
        for handle in self
            .threads
            .iter_mut()
            .filter_map(|thread| thread.handle.take())
        {
            // A panic in the thread has been reported by then.
            let _ = handle.join();
        }
    }
}

/// The signal's whole purpose is to interrupt `KVM_RUN`.
extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
