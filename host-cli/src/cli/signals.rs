// UNSAFETY: installing a signal handler is unsafe, since what a handler may do is restricted.
#![expect(unsafe_code, reason = "sigaction is unsafe: handlers are restricted")]

//! Signals of this program, passed on to the command in the sandbox.
//!
//! SIGINT, SIGTERM, SIGHUP and SIGQUIT become orders for the pump. The same one twice within a
//! second means that the user has lost patience: then the sandbox is ended at once. SIGUSR1 and
//! SIGUSR2 are the command's too, and mean nothing to us. SIGWINCH becomes a new size of the command's
//! terminal. SIGTSTP stops this program with the terminal as it was, and so does what ends it without
//! asking, SIGKILL excepted.
//!
//! A command of ours that only shows something, or waits, has no handlers: it dies of the signal.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use agent_client::{Control, ControlReceiver, ControlSender, control_channel};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::terminal;
use crate::timeline::monotonic_ns;

/// Two of the same signal within this time end the sandbox at once.
const IMPATIENCE_NS: u64 = 1_000_000_000;

/// What ends this program where it stands: by a timer, by itself, by a fault.
const DEATHS: [Signal; 7] = [
    Signal::SIGALRM,
    Signal::SIGABRT,
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGILL,
    Signal::SIGFPE,
    Signal::SIGSYS,
];

/// Where orders go.
static ORDERS: OnceLock<ControlSender> = OnceLock::new();

/// The last signal that asked for an end, 0 before the first.
static LAST: AtomicI32 = AtomicI32::new(0);

/// When that was (`CLOCK_MONOTONIC`, nanoseconds).
static LAST_AT: AtomicU64 = AtomicU64::new(0);

/// Whether there is a command whose terminal can have a new size.
static RESIZES: AtomicBool = AtomicBool::new(false);

/// The signals of this program, as orders.
#[derive(Debug)]
pub(super) struct Signals {
    receiver: ControlReceiver,
}

impl Signals {
    /// Installs the handlers. Once a process.
    ///
    /// # Errors
    ///
    /// The system's, or that it was done before.
    pub(super) fn install() -> io::Result<Self> {
        let (sender, receiver) = control_channel()?;
        ORDERS
            .set(sender)
            .map_err(|_| io::Error::other("signals are already handled"))?;
        for signal in [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
        ] {
            let before = set(signal, SigHandler::Handler(on_end))?;
            // A parent that has it ignored (nohup, a shell's background job) means it.
            if matches!(before.handler(), SigHandler::SigIgn) && signal != Signal::SIGTERM {
                set(signal, SigHandler::SigIgn)?;
            }
        }
        for signal in [Signal::SIGUSR1, Signal::SIGUSR2] {
            set(signal, SigHandler::Handler(on_word))?;
        }
        Ok(Self { receiver })
    }

    /// From now on the command has a terminal that follows the user's.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(super) fn follow_terminal(&self) -> io::Result<()> {
        RESIZES.store(true, Ordering::SeqCst);
        set(Signal::SIGWINCH, SigHandler::Handler(on_resize))?;
        set(Signal::SIGTSTP, SigHandler::Handler(on_stop))?;
        for signal in DEATHS {
            set_once(signal, SigHandler::Handler(on_death))?;
        }
        // Putting the terminal back must work from the background too.
        set(Signal::SIGTTOU, SigHandler::SigIgn)?;
        // It may have changed while the sandbox was starting.
        on_resize(0);
        Ok(())
    }

    /// The orders, for the pump.
    pub(super) const fn orders(&self) -> &ControlReceiver {
        &self.receiver
    }

    /// The last signal that asked for an end.
    pub(super) fn last() -> Option<u8> {
        u8::try_from(LAST.load(Ordering::SeqCst))
            .ok()
            .filter(|signal| *signal != 0)
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

/// Ends this program as a signal does that nobody handles, with the terminal as it was.
pub(super) fn die_of(signal: Signal) -> ! {
    // If it cannot be, the exit code tells of it, as a shell does.
    let _ = set(signal, SigHandler::SigDfl);
    terminal::die_of(signal as c_int);
    std::process::exit(128 + signal as c_int)
}

fn set(signal: Signal, handler: SigHandler) -> io::Result<SigAction> {
    handle(signal, handler, SaFlags::SA_RESTART)
}

/// As [`set`], for the first time that the signal comes. The stack may be what is at fault.
fn set_once(signal: Signal, handler: SigHandler) -> io::Result<SigAction> {
    handle(signal, handler, SaFlags::SA_RESETHAND | SaFlags::SA_ONSTACK)
}

fn handle(signal: Signal, handler: SigHandler, flags: SaFlags) -> io::Result<SigAction> {
    let action = SigAction::new(handler, flags, SigSet::empty());
    // SAFETY: the handlers below only read and write atomics, read a cell that was set before they
    // were installed, and make system calls without libc (so errno stays as it is); all of that is
    // allowed at any moment.
    Ok(unsafe { sigaction(signal, &action) }?)
}

extern "C" fn on_end(signal: c_int) {
    let now = monotonic_ns();
    let same = LAST.swap(signal, Ordering::SeqCst) == signal;
    let before = LAST_AT.swap(now, Ordering::SeqCst);
    let impatient = same && now.saturating_sub(before) < IMPATIENCE_NS;
    order(match u8::try_from(signal) {
        Ok(number) if !impatient => Control::Signal(number),
        _ => Control::Cancel,
    });
}

extern "C" fn on_word(signal: c_int) {
    if let Ok(number) = u8::try_from(signal) {
        order(Control::Signal(number));
    }
}

extern "C" fn on_death(signal: c_int) {
    terminal::die_of(signal);
}

extern "C" fn on_resize(_: c_int) {
    if RESIZES.load(Ordering::SeqCst) {
        order(Control::Resize(terminal::size()));
    }
}

extern "C" fn on_stop(_: c_int) {
    terminal::stop();
    on_resize(0);
}

fn order(control: Control) {
    if let Some(orders) = ORDERS.get() {
        // If hundreds of orders wait, one more would not be heard either.
        let _ = orders.send(control);
    }
}
