//! New processes: a session by `fork`, a command by `clone`.
//!
//! A command's process begins in the agent's own memory (`CLONE_VM`), on a stack of its own, while
//! the session waits until it has executed its program or given up (`CLONE_VFORK`). Nothing is copied,
//! and what goes wrong is simply written down where the session reads it. Between the two the child
//! makes system calls and nothing else.

// UNSAFETY: fork, clone and what a child does before it executes its program have no safe binding.
#![expect(unsafe_code, reason = "the birth of processes")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use agent_protocol::limits::{Resource, ResourceLimit};
use rustix::process::{Pid, Resource as Known};

use crate::linux::limits::known;

/// The child's stack. It makes a few calls, each of a few hundred bytes.
const STACK_SIZE: usize = 32 * 1024;

/// Who one is after [`fork`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forked {
    /// The new process.
    Child,
    /// The old one, with the new one's number.
    Parent(Pid),
}

/// Makes a second process of this one.
pub(crate) fn fork() -> io::Result<Forked> {
    // SAFETY: the agent has one thread in all its processes that come here (`--join` has two, and forks
    // nothing), so no lock can be held by a thread that the child lacks, and the child may go on in any
    // code.
    let result = unsafe { libc::fork() };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Pid::from_raw(result).map_or(Forked::Child, Forked::Parent))
}

/// All that is needed to start a command.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    /// The files to try, in order.
    pub(crate) candidates: &'a [CString],
    pub(crate) argv: &'a [CString],
    pub(crate) env: &'a [CString],
    pub(crate) directory: &'a CStr,
    /// Where to go when `directory` cannot be entered.
    pub(crate) fallback_directory: Option<&'a CStr>,
    /// Who to become; `None` to stay who we are.
    pub(crate) identity: Option<Identity<'a>>,
    /// Standard input, output and error. Not one of the three themselves.
    pub(crate) stdio: [BorrowedFd<'a>; 3],
    /// Whether standard input becomes the controlling terminal.
    pub(crate) has_terminal: bool,
    /// The members of a cgroup that it is to be in.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// Limits of its own.
    pub(crate) limits: &'a [ResourceLimit],
}

/// Who a process is for the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity<'a> {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: &'a [u32],
}

/// What a child was doing when it gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Clone,
    Session,
    Terminal,
    Stdio,
    Cgroup,
    /// Setting the limit with this index.
    Limit(usize),
    Identity,
    Directory,
    /// Executing the candidate with this index.
    Execute(usize),
}

/// Why there is no command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SpawnError {
    pub(crate) step: Step,
    pub(crate) errno: i32,
}

/// Starts a command as the leader of a session of its own, with no signal blocked or ignored.
pub(crate) fn spawn(program: &Program<'_>) -> Result<Pid, SpawnError> {
    let candidates = pointers(program.candidates);
    let argv = pointers(program.argv);
    let env = pointers(program.env);
    let plan = Plan {
        candidates: &candidates,
        argv: &argv,
        env: &env,
        program,
        outcome: Outcome::default(),
    };
    let mut stack = vec![0_u128; STACK_SIZE / size_of::<u128>()];
    let top = stack.as_mut_ptr_range().end.cast::<c_void>();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let argument = ptr::from_ref(&plan).cast_mut().cast::<c_void>();
    // SAFETY: the stack is ours, aligned, and grows down from `top`; with CLONE_VFORK this process
    // goes on only when the child uses neither it nor `plan` any more; `child` never returns to Rust
    // code of the parent, and of what it shares it writes atomics alone, and errno, which this process
    // reads only after a call of its own.
    let result = unsafe { libc::clone(child, top, flags, argument) };
    let pid = match Pid::from_raw(result.max(0)) {
        Some(pid) => pid,
        None => {
            let errno = io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or_default();
            return Err(SpawnError {
                step: Step::Clone,
                errno,
            });
        }
    };
    match plan.outcome.failure() {
        None => Ok(pid),
        Some(failure) => {
            // It has exited; only its zombie is left.
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            Err(failure)
        }
    }
}

/// A [`Program`] as the child reads it.
struct Plan<'a> {
    /// These three end with a null pointer.
    candidates: &'a [*const c_char],
    argv: &'a [*const c_char],
    env: &'a [*const c_char],
    program: &'a Program<'a>,
    outcome: Outcome,
}

/// What became of the child: an errno of 0 while nothing has gone wrong.
#[derive(Default)]
struct Outcome {
    errno: AtomicI32,
    step: AtomicI32,
    index: AtomicUsize,
}

impl Outcome {
    fn fail(&self, failure: &SpawnError) {
        let (number, index) = match failure.step {
            Step::Clone => (0, 0),
            Step::Session => (1, 0),
            Step::Terminal => (2, 0),
            Step::Stdio => (3, 0),
            Step::Cgroup => (4, 0),
            Step::Limit(index) => (5, index),
            Step::Identity => (6, 0),
            Step::Directory => (7, 0),
            Step::Execute(index) => (8, index),
        };
        self.step.store(number, Ordering::Relaxed);
        self.index.store(index, Ordering::Relaxed);
        self.errno.store(failure.errno, Ordering::Release);
    }

    fn failure(&self) -> Option<SpawnError> {
        let errno = self.errno.load(Ordering::Acquire);
        let index = self.index.load(Ordering::Relaxed);
        let step = match self.step.load(Ordering::Relaxed) {
            0 => Step::Clone,
            1 => Step::Session,
            2 => Step::Terminal,
            3 => Step::Stdio,
            4 => Step::Cgroup,
            5 => Step::Limit(index),
            6 => Step::Identity,
            7 => Step::Directory,
            _ => Step::Execute(index),
        };
        (errno != 0).then_some(SpawnError { step, errno })
    }
}

/// The child's whole life, until its program runs.
extern "C" fn child(argument: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes a pointer to its `plan`, which lives while we share its memory.
    let plan = unsafe { &*argument.cast_const().cast::<Plan<'_>>() };
    plan.outcome.fail(&become_program(plan));
    // SAFETY: _exit runs no code of the parent's.
    unsafe { libc::_exit(127) }
}

/// Returns only if it fails.
fn become_program(plan: &Plan<'_>) -> SpawnError {
    match prepare(plan.program) {
        Ok(()) => execute(plan),
        Err(failure) => failure,
    }
}

fn prepare(program: &Program<'_>) -> Result<(), SpawnError> {
    // SAFETY: setsid touches no memory.
    step(Step::Session, unsafe { libc::setsid() })?;
    for (target, source) in (0..).zip(program.stdio) {
        // SAFETY: dup2 touches no memory; the descriptor table is the child's own copy.
        step(Step::Stdio, unsafe {
            libc::dup2(source.as_raw_fd(), target)
        })?;
    }
    if program.has_terminal {
        // SAFETY: TIOCSCTTY takes a number, no pointer.
        step(Step::Terminal, unsafe {
            libc::ioctl(0, libc::TIOCSCTTY as _, 0)
        })?;
    }
    if let Some(cgroup) = program.cgroup {
        let myself = b"0";
        // SAFETY: write reads as many bytes as it is told to.
        let written = unsafe { libc::write(cgroup.as_raw_fd(), myself.as_ptr().cast(), 1) };
        step(Step::Cgroup, if written == 1 { 0 } else { -1 })?;
    }
    // While we may still raise them, if we ever may.
    set_limits(program.limits)?;
    if let Some(identity) = program.identity {
        become_user(identity)?;
    }
    // After the change of user, which would clear it: a session that is killed takes its command
    // along. SAFETY: PR_SET_PDEATHSIG takes a number.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    enter_directory(program)?;
    restore_signals();
    // Whatever else the agent has inherited stays in the agent (Linux 5.11; ours are marked anyway).
    // SAFETY: close_range touches no memory of ours.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    Ok(())
}

fn set_limits(limits: &[ResourceLimit]) -> Result<(), SpawnError> {
    for (index, limit) in limits.iter().enumerate() {
        let new = libc::rlimit64 {
            rlim_cur: limit.soft.unwrap_or(libc::RLIM64_INFINITY),
            rlim_max: limit.hard.unwrap_or(libc::RLIM64_INFINITY),
        };
        let resource = known(limit.resource) as u32;
        let old = ptr::null_mut::<libc::rlimit64>();
        // SAFETY: prlimit64 reads one rlimit64, and writes none to a null.
        let result =
            unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const new, old) };
        step_long(Step::Limit(index), result)?;
        if limit.resource == Resource::Core {
            may_dump(new.rlim_max).map_err(|errno| SpawnError {
                step: Step::Limit(index),
                errno,
            })?;
        }
    }
    Ok(())
}

/// Whether the limit of core dumps is as high as it was to be. A tier whose dumps would go to the host
/// keeps it as it is and says that all is well (`confine::filter`).
fn may_dump(most: libc::rlim64_t) -> Result<(), c_int> {
    let mut now = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let resource = Known::Core as u32;
    let new = ptr::null::<libc::rlimit64>();
    // SAFETY: prlimit64 reads no limit from a null, and writes one rlimit64, which is ours.
    let result = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, new, &raw mut now) };
    match result {
        0 if now.rlim_max < most => Err(libc::EPERM),
        _ => Ok(()),
    }
}

/// System calls, not the C library's functions: those would tell its other threads, by state that
/// belongs to the parent.
fn become_user(identity: Identity<'_>) -> Result<(), SpawnError> {
    let Identity { uid, gid, groups } = identity;
    // SAFETY: setgroups reads as many numbers as it is told to; they live in the plan.
    step_long(Step::Identity, unsafe {
        libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr())
    })?;
    // SAFETY: setresgid touches no memory.
    step_long(Step::Identity, unsafe {
        libc::syscall(libc::SYS_setresgid, gid, gid, gid)
    })?;
    // SAFETY: setresuid touches no memory.
    step_long(Step::Identity, unsafe {
        libc::syscall(libc::SYS_setresuid, uid, uid, uid)
    })
}

fn enter_directory(program: &Program<'_>) -> Result<(), SpawnError> {
    // SAFETY: the path ends with NUL and lives in the plan.
    let entered = step(Step::Directory, unsafe {
        libc::chdir(program.directory.as_ptr())
    });
    match (entered, program.fallback_directory) {
        (Err(_), Some(fallback)) => {
            // SAFETY: as above.
            step(Step::Directory, unsafe { libc::chdir(fallback.as_ptr()) })
        }
        (result, _) => result,
    }
}

/// The agent blocks the signals that it reads from a descriptor, and Rust ignores SIGPIPE. The
/// dispositions are the child's own copy (no CLONE_SIGHAND).
fn restore_signals() {
    // SAFETY: SIG_DFL runs no code.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let none: u64 = 0;
    // SAFETY: rt_sigprocmask reads 8 bytes, as many as it is told, and writes none to a null.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    };
}

/// Tries the candidates as `execvp` does, but gives no script without `#!` to a shell.
fn execute(plan: &Plan<'_>) -> SpawnError {
    let mut failure = SpawnError {
        step: Step::Execute(0),
        errno: libc::ENOENT,
    };
    for (index, path) in plan.candidates.iter().enumerate() {
        if path.is_null() {
            break;
        }
        // SAFETY: the path ends with NUL; both lists end with a null pointer, and all live in the
        // plan.
        unsafe { libc::execve(*path, plan.argv.as_ptr(), plan.env.as_ptr()) };
        match errno() {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => {
                failure = SpawnError {
                    step: Step::Execute(index),
                    errno: libc::EACCES,
                }
            }
            errno => {
                return SpawnError {
                    step: Step::Execute(index),
                    errno,
                };
            }
        }
    }
    failure
}

fn step(step: Step, result: c_int) -> Result<(), SpawnError> {
    if result < 0 {
        Err(SpawnError {
            step,
            errno: errno(),
        })
    } else {
        Ok(())
    }
}

fn step_long(step: Step, result: libc::c_long) -> Result<(), SpawnError> {
    if result < 0 {
        Err(SpawnError {
            step,
            errno: errno(),
        })
    } else {
        Ok(())
    }
}

fn errno() -> c_int {
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or_default()
}

/// Pointers to the strings, and a null pointer at the end.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([ptr::null()])
        .collect()
}
