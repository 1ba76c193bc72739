//! Privileges that are given up, and limits.

use agent_protocol::local::{ConfineStep, Shortfall};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, getrlimit, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use super::shortfall;
use super::users::Inner;

/// Soft and hard limit of open files, as on common distributions.
const OPEN_FILES: (u64, u64) = (1024, 1024 * 1024);
/// One byte is too small for a dump in a file, and to the kernel the sign not to give one to a
/// program of the host either (`do_coredump`); zero would not keep it from the latter.
const NO_CORE_DUMP: u64 = 1;

/// What root of the namespace needs to start commands as other users, and to end them. Commands get
/// none of it.
const AGENT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID);

/// Has this process killed when the one that started it ends.
pub(super) fn end_with_parent() {
    // The control socket's end would tell it too, only later.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
}

/// Sets limits, and gives up every privilege that is not needed from here on.
pub(super) fn limit(inner: Inner, processes: u32) -> Result<(), Shortfall> {
    let failed = |about| move |errno: Errno| shortfall(ConfineStep::Privileges, about, errno);
    // Nobody inside can make a user namespace, in which it would have all capabilities again.
    std::fs::write("/proc/sys/user/max_user_namespaces", "0")
        .map_err(|error| failed("max_user_namespaces")(super::errno_of(&error)))?;
    // When the machine runs out of memory, this is what it can do without.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    forbid_core_dumps()?;
    // They are counted by user and user namespace, so every sandbox has its own count (Linux 5.14).
    let processes = processes.into();
    lower(Resource::Nproc, processes, processes).map_err(failed("nproc"))?;
    lower(Resource::Nofile, OPEN_FILES.0, OPEN_FILES.1).map_err(failed("nofile"))?;
    never_gain().map_err(failed("no_new_privs"))?;
    clear_ambient_capability_set().map_err(failed("ambient"))?;
    for bit in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            // The first number that this kernel has no capability for.
            Err(Errno::INVAL) => break,
            result => result.map_err(failed("bounding"))?,
        }
    }
    let kept = match inner {
        Inner::Root => AGENT,
        Inner::Sandbox => CapabilitySet::empty(),
    };
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(failed("capabilities"))
}

/// No crash of this process, or of one that it starts, leaves a dump: what a dump would be given to is a
/// program of the host. [`filter`](super::filter) keeps it so. A hard limit of zero, which nobody here may
/// raise, stays zero.
pub(crate) fn forbid_core_dumps() -> Result<(), Shortfall> {
    let failed = |errno| shortfall(ConfineStep::Privileges, "core", errno);
    lower(Resource::Core, NO_CORE_DUMP, NO_CORE_DUMP).map_err(failed)
}

/// No program can give this process, or one that it starts, more than it has.
pub(super) fn never_gain() -> rustix::io::Result<()> {
    set_no_new_privs(true)
}

/// Hides this process's memory and descriptors from commands of the same user. Programs that it
/// executes are not hidden.
pub(super) fn hide() {
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    // A change of user or capabilities has cleared it.
    end_with_parent();
}

fn lower(resource: Resource, soft: u64, hard: u64) -> rustix::io::Result<()> {
    let least =
        |wanted: u64, given: Option<u64>| Some(given.map_or(wanted, |given| given.min(wanted)));
    let now = getrlimit(resource);
    let maximum = least(hard, now.maximum);
    let limit = Rlimit {
        current: maximum.map(|maximum| maximum.min(soft)),
        maximum,
    };
    setrlimit(resource, limit)
}
