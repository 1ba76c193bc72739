//! The user's terminal: its size, and raw mode that always undoes itself.
//!
//! In raw mode every key goes to the sandbox, Ctrl-C included. Whatever ends this program or stops
//! it puts the terminal back first: the end of [`RawMode`], a panic, and the signals that stop.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use agent_protocol::message::TerminalSize;
use rustix::process::{Signal, getpid, kill_process};
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The size that is told if there is no terminal to ask.
const DEFAULT_SIZE: TerminalSize = TerminalSize {
    rows: 24,
    columns: 80,
};

/// How the terminal was, and how it is in raw mode.
static MODES: OnceLock<Modes> = OnceLock::new();

/// Whether it is in raw mode.
static IS_RAW: AtomicBool = AtomicBool::new(false);

#[derive(Debug)]
struct Modes {
    cooked: Termios,
    raw: Termios,
}

/// The terminal's raw mode; it ends with this value.
#[derive(Debug)]
pub(super) struct RawMode(());

impl RawMode {
    /// Puts the terminal that is the standard input into raw mode; `None` if it is none.
    ///
    /// # Errors
    ///
    /// The system's, if the terminal does not take it.
    pub(super) fn enter() -> io::Result<Option<Self>> {
        if !stdin().is_terminal() {
            return Ok(None);
        }
        let cooked = tcgetattr(stdin())?;
        let mut raw = cooked.clone();
        raw.make_raw();
        MODES.get_or_init(|| Modes { cooked, raw });
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            report(panic);
        }));
        make_raw();
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// The size of the user's terminal.
pub(super) fn size() -> TerminalSize {
    let size = tcgetwinsize(stdin())
        .or_else(|_| tcgetwinsize(stdout()))
        .or_else(|_| tcgetwinsize(stderr()));
    match size {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => TerminalSize {
            rows: size.ws_row,
            columns: size.ws_col,
        },
        _ => DEFAULT_SIZE,
    }
}

/// Stops this program as the signal SIGTSTP does, with the terminal as it was; afterwards goes on
/// where it was. It makes system calls and nothing else, so a signal handler may call it.
pub(super) fn stop() {
    let was_raw = restore();
    // It is our own process, which takes the signal or is gone.
    let _ = kill_process(getpid(), Signal::STOP);
    if was_raw {
        make_raw();
    }
}

/// Dies of a signal whose handler is gone, with the terminal as it was. For signal handlers too.
pub(super) fn die_of(signal: i32) {
    restore();
    if let Some(signal) = Signal::from_named_raw(signal) {
        // It comes when the handler returns.
        let _ = kill_process(getpid(), signal);
    }
}

fn make_raw() {
    if let Some(modes) = MODES.get() {
        IS_RAW.store(true, Ordering::SeqCst);
        let _ = tcsetattr(stdin(), OptionalActions::Now, &modes.raw);
    }
}

/// Puts the terminal back, if it is in raw mode. Returns whether it was.
fn restore() -> bool {
    let was_raw = IS_RAW.swap(false, Ordering::SeqCst);
    if let Some(modes) = MODES.get().filter(|_| was_raw) {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &modes.cooked);
    }
    was_raw
}
