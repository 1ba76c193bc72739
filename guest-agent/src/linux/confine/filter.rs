//! The system call filter of everything inside: no list of what programs need, which nobody has, but
//! of what none of them may have, because it is not kept apart by namespaces or is where kernels break.
//!
//! What is denied fails with an error, as in a kernel that lacks it or refuses it; only calls by the
//! interface of another architecture kill, and a new limit of core dumps is passed over in silence.

use std::collections::BTreeMap;

use agent_protocol::local::{ConfineStep, Shortfall};
use rustix::io::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use super::shortfall;

/// Not permitted: what no capability will ever be there for, what is not kept apart by namespaces
/// (keys, the kernel's log, modules), and what has been the way into kernels.
const NOT_PERMITTED: [libc::c_long; 51] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_migrate_pages,
    libc::SYS_modify_ldt,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_name_to_handle_at,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// clone(2): new namespaces.
const NEW_NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

/// ioctl(2): typing into a terminal as if one were its user (TIOCSTI, TIOCLINUX).
const TYPING: [u64; 2] = [0x5412, 0x541c];

/// socket(2): the kinds that a network namespace keeps apart. Virtual sockets to this machine's own
/// hypervisor, for one, are not.
const SOCKETS: [libc::c_int; 4] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];

/// x86: system calls of the x32 interface have this bit in their numbers, and would pass every list.
#[cfg(target_arch = "x86_64")]
const X32_BIT: u32 = 0x4000_0000;

/// Applies the filter to this process, and to all that it starts.
pub(crate) fn apply() -> Result<(), Shortfall> {
    try_apply().map_err(|error| shortfall(ConfineStep::Filter, &error, Errno::IO))
}

fn try_apply() -> Result<(), String> {
    for program in programs()? {
        seccompiler::apply_filter(&program).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn programs() -> Result<Vec<BpfProgram>, String> {
    let error = |errno: libc::c_int| SeccompAction::Errno(errno.unsigned_abs());
    let mut not_permitted: Rules = NOT_PERMITTED.map(|call| (call, Vec::new())).into();
    not_permitted.insert(libc::SYS_clone, new_namespaces()?);
    not_permitted.insert(libc::SYS_ioctl, typing()?);
    // Where its flags are cannot be seen by a filter; without it, C libraries use clone.
    let lacking = Rules::from([(libc::SYS_clone3, Vec::new())]);
    let sockets = other_sockets()?;
    let foreign = Rules::from([
        (libc::SYS_socket, sockets.clone()),
        (libc::SYS_socketpair, sockets),
    ]);
    // Zero bytes, for which programs with secrets ask, would let the kernel give a dump to a program of the
    // host (`do_coredump`). There is none in any case, so they are told that all is well, unless they want to
    // be told the limit before, too.
    let silent = Rules::from([
        (libc::SYS_setrlimit, core_limit(0, &[])?),
        (
            libc::SYS_prlimit64,
            core_limit(1, &[(2, SeccompCmpOp::Ne), (3, SeccompCmpOp::Eq)])?,
        ),
    ]);
    let both = [(2, SeccompCmpOp::Ne), (3, SeccompCmpOp::Ne)];
    not_permitted.insert(libc::SYS_prlimit64, core_limit(1, &both)?);
    Ok(vec![
        compile(not_permitted, error(libc::EPERM))?,
        compile(silent, error(0))?,
        compile(lacking, error(libc::ENOSYS))?,
        compile(foreign, error(libc::EAFNOSUPPORT))?,
        #[cfg(target_arch = "x86_64")]
        no_x32(),
    ])
}

type Rules = BTreeMap<libc::c_long, Vec<SeccompRule>>;

fn compile(rules: Rules, denial: SeccompAction) -> Result<BpfProgram, String> {
    let target = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    SeccompFilter::new(rules, SeccompAction::Allow, denial, target)
        .and_then(BpfProgram::try_from)
        .map_err(|error| error.to_string())
}

fn new_namespaces() -> Result<Vec<SeccompRule>, String> {
    // s390 has the flags second; this project has x86_64 and aarch64.
    let rules = NEW_NAMESPACES.map(|flag| {
        let flag = u64::from(flag.unsigned_abs());
        rule([condition(
            0,
            SeccompCmpArgLen::Qword,
            SeccompCmpOp::MaskedEq(flag),
            flag,
        )?])
    });
    rules.into_iter().collect()
}

fn typing() -> Result<Vec<SeccompRule>, String> {
    // The kernel looks at the lower half of the number only.
    let rules = TYPING.map(|number| {
        rule([condition(
            1,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Eq,
            number,
        )?])
    });
    rules.into_iter().collect()
}

/// Calls for the limit of core dumps: by the number of the argument that is the resource, and with pointers
/// that are null, or not.
fn core_limit(resource: u8, pointers: &[(u8, SeccompCmpOp)]) -> Result<Vec<SeccompRule>, String> {
    let core = u64::from(rustix::process::Resource::Core as u32);
    let mut conditions = vec![condition(
        resource,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        core,
    )?];
    for (argument, operator) in pointers {
        let null = condition(*argument, SeccompCmpArgLen::Qword, operator.clone(), 0)?;
        conditions.push(null);
    }
    Ok(vec![rule(conditions)?])
}

fn other_sockets() -> Result<Vec<SeccompRule>, String> {
    let conditions = SOCKETS.map(|family| {
        let family = u64::from(family.unsigned_abs());
        condition(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family)
    });
    let conditions: Vec<_> = conditions.into_iter().collect::<Result<_, _>>()?;
    Ok(vec![rule(conditions)?])
}

fn rule(conditions: impl Into<Vec<SeccompCondition>>) -> Result<SeccompRule, String> {
    SeccompRule::new(conditions.into()).map_err(|error| error.to_string())
}

fn condition(
    argument: u8,
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, String> {
    SeccompCondition::new(argument, length, operator, value).map_err(|error| error.to_string())
}

/// A kernel without the x32 interface is what every such call finds.
#[cfg(target_arch = "x86_64")]
fn no_x32() -> BpfProgram {
    const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const NUMBER: u32 = 0; // offsetof(struct seccomp_data, nr)
    let instruction = |code, jt, k| sock_filter { code, jt, jf: 0, k };
    let lacking = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    vec![
        instruction(LOAD_WORD, 0, NUMBER),
        instruction(JUMP_IF_GREATER_OR_EQUAL, 1, X32_BIT),
        instruction(RETURN, 0, libc::SECCOMP_RET_ALLOW),
        instruction(RETURN, 0, lacking),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_compiles() {
        let programs = programs().unwrap();
        assert!(programs.iter().all(|program| program.len() >= 4));
    }
}
