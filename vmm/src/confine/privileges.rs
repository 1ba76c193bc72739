//! Capabilities, resource limits, and the ways to gain or leak anything.

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

/// A machine with the most devices and vCPUs holds 200 descriptors, and each stream of its socket
/// device one more.
const MAX_DESCRIPTORS: u64 = 2048;

/// The host did not take back a privilege.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct PrivilegeError {
    step: &'static str,
    source: Errno,
}

/// Gives up what the process may do beyond any other of its user.
pub(super) fn give_up() -> Result<(), PrivilegeError> {
    let failed = |step| move |source| PrivilegeError { step, source };
    set_no_new_privs(true).map_err(failed("forbidding new privileges"))?;
    limit(Resource::Core, 0).map_err(failed("forbidding core dumps"))?;
    limit(Resource::Nofile, MAX_DESCRIPTORS).map_err(failed("limiting descriptors"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(failed("closing the process to debuggers"))?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    set_capabilities(None, sets).map_err(failed("dropping capabilities"))
}

/// Lowers a limit for good; one that is lower already stays.
fn limit(resource: Resource, value: u64) -> Result<(), Errno> {
    let now = rustix::process::getrlimit(resource);
    let value = now.maximum.map_or(value, |maximum| maximum.min(value));
    setrlimit(
        resource,
        Rlimit {
            current: Some(value),
            maximum: Some(value),
        },
    )
}
