//! What the agent asks of the kernel that no safe wrapper offers.

// UNSAFETY: signalfd, signal dispositions, signals by number, advice on memory and three ioctls have no
// safe binding.
#![expect(
    unsafe_code,
    reason = "thin doors to system calls, each behind a safe function"
)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::ioctl::{Opcode, opcode};
use rustix::process::Pid;

/// `RNDADDENTROPY` of linux/random.h: `_IOW('R', 0x03, int[2])`.
const RNDADDENTROPY: Opcode = opcode::write::<[libc::c_int; 2]>(b'R', 0x03);

/// Receives SIGCHLD, and the signals that tell the agent to end, as a descriptor. They stay blocked
/// in this process and in those that it forks, which can read their own from the same descriptor.
#[derive(Debug)]
pub(crate) struct SignalFd(OwnedFd);

/// Asks for huge pages where `memory` is, if there can be any.
pub(crate) fn prefer_huge_pages(memory: &mut [u8]) {
    // SAFETY: the memory is borrowed for us alone, and what is in it stays as it is. Where it does not
    // begin or end with a page, and where there are no huge pages, the kernel refuses, and nothing is
    // lost.
    let _ = unsafe {
        libc::madvise(
            memory.as_mut_ptr().cast(),
            memory.len(),
            libc::MADV_HUGEPAGE,
        )
    };
}

/// Signals that have come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Signals {
    /// SIGCHLD: there is something to reap.
    pub(crate) child: bool,
    /// SIGTERM, SIGINT or SIGHUP, and who sent the last of them.
    pub(crate) end: Option<Sender>,
}

/// Who sent a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    /// The kernel, or a process that is not in our process namespace.
    Outside,
    /// A process of our namespace.
    Process(Pid),
    /// A process that says itself who it is.
    Unknown,
}

impl SignalFd {
    pub(crate) fn new() -> io::Result<Self> {
        let set = set_of(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP]);
        // SAFETY: `set` is initialized, and a null old set is allowed.
        check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) })?;
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: `set` is initialized; -1 asks for a new descriptor.
        let fd = check(unsafe { libc::signalfd(-1, &raw const set, flags) })?;
        // SAFETY: signalfd returned it, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Takes all signals that wait.
    pub(crate) fn drain(&self) -> Signals {
        const RECORD: usize = size_of::<libc::signalfd_siginfo>();
        let mut signals = Signals::default();
        // Each of the four signals waits at most once, so one read takes them all.
        let mut records = [0; 4 * RECORD];
        let length = rustix::io::read(&self.0, &mut records).unwrap_or(0);
        for record in records
            .get(..length)
            .unwrap_or_default()
            .chunks_exact(RECORD)
        {
            // signalfd_siginfo: ssi_signo, ssi_errno, ssi_code, ssi_pid.
            let [number, _, code, sender] = [0, 4, 8, 12].map(|at| field(record, at));
            if number == libc::SIGCHLD {
                signals.child = true;
            } else {
                signals.end = Some(Sender::of(code, sender));
            }
        }
        signals
    }
}

impl Sender {
    /// sigaction(2): with SI_USER and above the kernel has filled the sender in; a process that calls
    /// rt_sigqueueinfo fills it in itself, and can only use codes below.
    fn of(code: i32, pid: i32) -> Self {
        match Pid::from_raw(pid.max(0)) {
            _ if code < libc::SI_USER => Self::Unknown,
            None => Self::Outside,
            Some(pid) => Self::Process(pid),
        }
    }
}

fn field(record: &[u8], at: usize) -> i32 {
    record
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |bytes| i32::from_ne_bytes(*bytes))
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whom a signal is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// One process.
    Process(Pid),
    /// A process group.
    Group(Pid),
    /// Every process of the system but this one and the first. Only for the first process and those
    /// who know that they are not on anybody's real system.
    All,
}

/// Sends a signal by its number, real-time signals included.
pub(crate) fn send_signal(target: Target, number: i32) -> io::Result<()> {
    let target = match target {
        Target::Process(pid) => pid.as_raw_nonzero().get(),
        Target::Group(pid) => -pid.as_raw_nonzero().get(),
        Target::All => -1,
    };
    // SAFETY: `kill` touches no memory of ours.
    check(unsafe { libc::kill(target, number) }).map(drop)
}

/// Gives every signal that the agent's parent has left ignored its default effect, as commands expect
/// it. SIGPIPE stays as Rust has set it; commands get theirs back in [`fork`](crate::linux::fork).
pub(crate) fn reset_ignored_signals() {
    /// `struct sigaction` of the kernel, on the architectures that have a restorer.
    #[repr(C)]
    #[derive(Default)]
    struct Action {
        handler: usize,
        flags: usize,
        restorer: usize,
        mask: u64,
    }
    // The system call, because the C library hides the signals that it uses itself.
    let exchange = |signal: libc::c_int, new: *const Action, old: *mut Action| {
        // SAFETY: both pointers are null or to an `Action`; SIG_DFL runs no code.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new, old, size_of::<u64>()) };
    };
    let default = Action::default();
    for signal in (1..=64).filter(|signal| *signal != libc::SIGPIPE) {
        let mut old = Action::default();
        exchange(signal, ptr::null(), &raw mut old);
        if old.handler == libc::SIG_IGN {
            exchange(signal, &raw const default, ptr::null_mut());
        }
    }
}

/// Mixes random bytes into the kernel's pool, counted as fully random.
pub(crate) fn add_entropy(random: BorrowedFd<'_>, bytes: &[u8; 32]) -> io::Result<()> {
    /// `struct rand_pool_info` of linux/random.h.
    #[repr(C)]
    struct PoolInfo {
        entropy_count: libc::c_int,
        buf_size: libc::c_int,
        buf: [u8; 32],
    }
    let info = PoolInfo {
        entropy_count: 256,
        buf_size: 32,
        buf: *bytes,
    };
    // SAFETY: RNDADDENTROPY reads a rand_pool_info with `buf_size` bytes behind it: `info`.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY as _, &raw const info) }).map(drop)
}

/// Brings the loopback interface up; Linux then gives it 127.0.0.1 and ::1 itself.
pub(crate) fn loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: all zeroes is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    for (place, byte) in request.ifr_name.iter_mut().zip(*b"lo") {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap_or_default();
    // SAFETY: SIOCSIFFLAGS reads an ifreq with a name and flags: `request`.
    check(unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    })
    .map(drop)
}

/// A descriptor that the agent was started with.
pub(crate) fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD touches no memory.
    check(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    // SAFETY: it is open, and the one who started the agent left it to us.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

fn set_of(signals: &[libc::c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: it writes the whole set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: sigemptyset has initialized it.
    let mut set = unsafe { set.assume_init() };
    for signal in signals {
        // SAFETY: `set` is initialized; a wrong number is an error that changes nothing.
        unsafe { libc::sigaddset(&raw mut set, *signal) };
    }
    set
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_that_name_themselves_are_not_believed() {
        let pid = Pid::from_raw(7).unwrap();
        assert_eq!(Sender::of(libc::SI_USER, 7), Sender::Process(pid));
        assert_eq!(Sender::of(libc::SI_USER, 0), Sender::Outside);
        assert_eq!(Sender::of(libc::SI_QUEUE, 7), Sender::Unknown);
        assert_eq!(Sender::of(libc::SI_TKILL, 0), Sender::Unknown);
    }
}
