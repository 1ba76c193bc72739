//! Which system calls each kind of thread makes once the guest runs.
//!
//! Everything else kills the process. What takes numbers that matter is restricted to those numbers:
//! KVM's control calls, memory that would become executable, signals to others.

use libc::{
    F_GET_SEALS, F_GETFD, F_GETFL, F_SETFL, MADV_DONTNEED, MADV_FREE, PROT_EXEC, SIGABRT, c_int,
    c_long,
};

use super::filters::PathSockets;
use crate::machine::ThreadRole;

/// A system call that is allowed if all of its conditions hold.
#[derive(Debug)]
pub(super) struct Allowed {
    pub(super) call: c_long,
    pub(super) arguments: &'static [Argument],
}

/// A condition on the low 32 bits of an argument.
#[derive(Debug, Clone, Copy)]
pub(super) enum Argument {
    /// The argument with this index has this value.
    Is(u8, u64),
    /// The argument with this index has none of these bits.
    Lacks(u8, u64),
}

/// All that a thread may do.
pub(super) fn rules(
    role: ThreadRole,
    sockets: PathSockets,
) -> impl Iterator<Item = &'static Allowed> {
    let own = match role {
        ThreadRole::Vcpu => VCPU,
        ThreadRole::Io => IO,
        ThreadRole::Disk => DISK,
    };
    let paths = match (role, sockets) {
        (ThreadRole::Io, PathSockets::Yes) => PATH_SOCKETS,
        _ => &[],
    };
    EVERY.iter().chain(own).chain(paths)
}

const fn any(call: c_long) -> Allowed {
    Allowed {
        call,
        arguments: &[],
    }
}

const fn when(call: c_long, arguments: &'static [Argument]) -> Allowed {
    Allowed { call, arguments }
}

/// The low 32 bits of a constant of the C library, of whatever type and sign it is there.
const fn low(value: c_int) -> u64 {
    u32::from_ne_bytes(value.to_ne_bytes()) as u64
}

/// Interrupts, locks, memory, and the end of a thread or process.
const EVERY: &[Allowed] = &[
    when(libc::SYS_ioctl, &[Argument::Is(1, KVM_IRQ_LINE)]),
    any(libc::SYS_futex),
    any(libc::SYS_brk),
    when(libc::SYS_mmap, &[Argument::Lacks(2, low(PROT_EXEC))]),
    when(libc::SYS_mprotect, &[Argument::Lacks(2, low(PROT_EXEC))]),
    any(libc::SYS_mremap),
    any(libc::SYS_munmap),
    when(libc::SYS_madvise, &[Argument::Is(2, low(MADV_DONTNEED))]),
    when(libc::SYS_madvise, &[Argument::Is(2, low(MADV_FREE))]),
    any(libc::SYS_clock_gettime),
    any(libc::SYS_sched_yield),
    any(libc::SYS_write),
    any(libc::SYS_close),
    // With debug assertions the standard library looks at each descriptor that it closes.
    when(libc::SYS_fcntl, &[Argument::Is(1, low(F_GETFD))]),
    any(libc::SYS_rt_sigreturn),
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_sigaltstack),
    any(libc::SYS_exit),
    any(libc::SYS_exit_group),
    // A panic ends in abort(), which signals the thread itself.
    any(libc::SYS_gettid),
    any(libc::SYS_getpid),
    when(libc::SYS_tkill, &[Argument::Is(1, low(SIGABRT))]),
    when(libc::SYS_tgkill, &[Argument::Is(2, low(SIGABRT))]),
];

/// Runs the guest; rings devices' event descriptors (`write`) and, for a failure report, reads
/// registers.
const VCPU: &[Allowed] = &[
    when(libc::SYS_ioctl, &[Argument::Is(1, KVM_RUN)]),
    when(libc::SYS_ioctl, &[Argument::Is(1, KVM_GET_REGS)]),
    when(libc::SYS_ioctl, &[Argument::Is(1, KVM_KVMCLOCK_CTRL)]),
    any(libc::SYS_epoll_ctl),
    any(libc::SYS_read),
];

/// Serves sockets, lanes and event descriptors, and kicks vCPUs.
const IO: &[Allowed] = &[
    any(libc::SYS_epoll_wait),
    any(libc::SYS_epoll_pwait),
    any(libc::SYS_epoll_ctl),
    any(libc::SYS_read),
    any(libc::SYS_readv),
    any(libc::SYS_writev),
    any(libc::SYS_fstat),
    any(libc::SYS_statx),
    any(libc::SYS_lseek),
    any(libc::SYS_recvfrom),
    any(libc::SYS_recvmsg),
    any(libc::SYS_sendto),
    any(libc::SYS_sendmsg),
    any(libc::SYS_shutdown),
    any(libc::SYS_getrandom),
    any(libc::SYS_timerfd_settime),
    when(libc::SYS_ioctl, &[Argument::Is(1, FIONBIO)]),
    when(libc::SYS_fcntl, &[Argument::Is(1, low(F_GETFL))]),
    when(libc::SYS_fcntl, &[Argument::Is(1, low(F_SETFL))]),
    when(libc::SYS_fcntl, &[Argument::Is(1, low(F_GET_SEALS))]),
    when(libc::SYS_tkill, &[Argument::Is(1, KICK_SIGNAL)]),
    when(libc::SYS_tgkill, &[Argument::Is(2, KICK_SIGNAL)]),
];

/// Serves a disk.
const DISK: &[Allowed] = &[
    any(libc::SYS_poll),
    any(libc::SYS_ppoll),
    any(libc::SYS_read),
    any(libc::SYS_preadv),
    any(libc::SYS_pwritev),
    any(libc::SYS_fdatasync),
    any(libc::SYS_fallocate),
];

/// Accepts and makes connections by path, and removes the path in the end.
const PATH_SOCKETS: &[Allowed] = &[
    any(libc::SYS_accept4),
    when(libc::SYS_socket, &[Argument::Is(0, low(libc::AF_UNIX))]),
    any(libc::SYS_connect),
    any(libc::SYS_unlink),
    any(libc::SYS_unlinkat),
];

/// Sets a descriptor non-blocking (Linux, include/uapi/asm-generic/ioctls.h).
const FIONBIO: u64 = 0x5421;

/// `_IOW(KVMIO, 0x61, struct kvm_irq_level)`, `_IO(KVMIO, 0x80)`, `_IOR(KVMIO, 0x81, struct kvm_regs)` and
/// `_IO(KVMIO, 0xad)` (Linux,
/// include/uapi/linux/kvm.h).
const KVM_IRQ_LINE: u64 = 0x4008_ae61;
const KVM_RUN: u64 = 0xae80;
const KVM_GET_REGS: u64 = 0x8090_ae81;
const KVM_KVMCLOCK_CTRL: u64 = 0xaead;

/// `SIGRTMIN` as the C library has it, which takes the first real-time signals for itself.
const KICK_SIGNAL: u64 = if cfg!(target_env = "musl") { 35 } else { 34 };
