//! The thread of one disk.
//!
//! ```text
//!            start                taken by the thread
//!   Idle ────────────▶ Starting ─────────────────────▶ Serving ──┐
//!    ▲  ▲                 │ stop                         │      │ the driver broke the rules
//!    │  └─────────────────┘                              │ stop │
//!    └───────────────────────────────────────────────────┴──────┘
//! ```
//!
//! The thread outlives resets, so that it can be started and confined before the guest runs.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::EventFd;

use super::image::Image;
use super::request::{Disk, NoStatus};
use super::{ID_BLOCK, syscalls};
use crate::devices::virtio::queue::{QueueError, Served, VirtQueue};
use crate::devices::virtio::{Interrupt, report_failure};
use crate::memory::GuestRamHandle;

/// How long a reset waits for the host's disk.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// The deepest call is the report of a failure.
const STACK_SIZE: usize = 128 * 1024;

/// How many requests may wait for the interrupt that tells of the first of them.
const BATCH: u16 = 16;

/// All that the thread needs to serve a driver.
pub(super) struct Job {
    pub(super) queue: VirtQueue,
    pub(super) memory: GuestRamHandle,
    pub(super) interrupt: Interrupt,
    pub(super) disk: Disk<Image>,
}

enum Phase {
    Idle,
    Starting(Box<Job>),
    Serving,
    Ending,
}

struct Shared {
    phase: Mutex<Phase>,
    changed: Condvar,
    /// The thread is to let go of its job. It is signalled by the job's kick.
    stopping: AtomicBool,
}

/// The owner's side.
pub(super) struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    kick: Option<Arc<EventFd>>,
}

impl Worker {
    pub(super) fn spawn(index: usize, prepare: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            phase: Mutex::new(Phase::Idle),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name(format!("blk-{index}"))
            .stack_size(STACK_SIZE)
            .spawn(move || {
                prepare();
                theirs.run();
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
            kick: None,
        })
    }

    /// Gives the thread a job. Returns `false` when it is not done with the one before.
    pub(super) fn start(&mut self, job: Job) -> bool {
        let mut phase = self.shared.lock();
        if !matches!(*phase, Phase::Idle) {
            return false;
        }
        self.kick = Some(Arc::clone(job.queue.kick()));
        self.shared.stopping.store(false, Ordering::SeqCst);
        *phase = Phase::Starting(Box::new(job));
        self.shared.changed.notify_all();
        true
    }

    /// Takes the job away from the thread. When it returns `true`, the thread has no guest memory
    /// any more. `false` means that the host's disk has not answered for [`STOP_DEADLINE`]: the data
    /// of that one request can still arrive, nothing after it, and no job starts before.
    pub(super) fn stop(&mut self) -> bool {
        let Some(kick) = self.kick.take() else {
            return matches!(*self.shared.lock(), Phase::Idle);
        };
        self.shared.stopping.store(true, Ordering::SeqCst);
        // A full counter wakes it as well.
        let _ = kick.write(1);
        let mut phase = self.shared.lock();
        if matches!(*phase, Phase::Starting(_)) {
            *phase = Phase::Idle;
        }
        let (_phase, waited) = self
            .shared
            .changed
            .wait_timeout_while(phase, STOP_DEADLINE, |phase| {
                matches!(phase, Phase::Serving)
            })
            .unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let stopped = self.stop();
        *self.shared.lock() = Phase::Ending;
        self.shared.changed.notify_all();
        match self.thread.take() {
            // It can only fail if the thread panicked, which has been reported then.
            Some(thread) if stopped => drop(thread.join()),
            _ => {}
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread's side.
    fn run(&self) {
        while let Some(job) = self.next_job() {
            self.serve(*job);
            let mut phase = self.lock();
            if matches!(*phase, Phase::Serving) {
                *phase = Phase::Idle;
            }
            self.changed.notify_all();
        }
    }

    /// Waits for a job, or for the end.
    fn next_job(&self) -> Option<Box<Job>> {
        let mut phase = self.lock();
        loop {
            match std::mem::replace(&mut *phase, Phase::Idle) {
                Phase::Starting(job) => {
                    *phase = Phase::Serving;
                    return Some(job);
                }
                Phase::Ending => return None,
                Phase::Idle | Phase::Serving => {}
            }
            phase = self
                .changed
                .wait(phase)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Serves a driver until its device is reset or the driver breaks the rules. The job is dropped
    /// before this returns.
    fn serve(&self, mut job: Job) {
        let end = self.serve_queue(&mut job);
        if !matches!(end, ServeError::Stopped) {
            report_failure(ID_BLOCK, &end);
            job.interrupt.signal_needs_reset();
        }
    }

    /// Serves until it must not go on, and says why.
    fn serve_queue(&self, job: &mut Job) -> ServeError {
        let memory = job.memory.memory();
        let disk = &mut job.disk;
        let mut left = Served::All;
        loop {
            if left == Served::All
                && let Err(error) = syscalls::wait_for_kick(job.queue.kick())
            {
                return ServeError::Kick(error);
            }
            if let Err(stopped) = self.go_on() {
                return stopped;
            }
            let served = job.queue.serve(&memory, &job.interrupt, BATCH, |chain| {
                let written = disk.execute(chain)?;
                // What was asked before a reset must not be answered after it.
                self.go_on()?;
                Ok(written)
            });
            left = match served {
                Ok(left) => left,
                Err(error) => return error,
            };
        }
    }

    fn go_on(&self) -> Result<(), ServeError> {
        if self.stopping.load(Ordering::SeqCst) {
            Err(ServeError::Stopped)
        } else {
            Ok(())
        }
    }
}

/// Why a disk stopped serving.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("it was told to stop")]
    Stopped,
    #[error("the request queue is broken")]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Request(#[from] NoStatus),
    #[error("cannot wait for the driver")]
    Kick(#[source] io::Error),
}
