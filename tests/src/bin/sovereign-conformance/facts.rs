//! What a tier does not have, by its nature and not by a fault: the reasons of all skips.

use sovereign::{Isolation, Tier};

/// What a case needs that not every tier has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Something between the command and the host.
    Walls,
    /// An account of the sandbox's own for commands.
    OwnAccount,
    /// Commands as other users than the default one.
    OtherUsers,
    /// Files that root can give to other users.
    GivenFiles,
    /// A host name of the sandbox's own.
    HostName,
    /// A bound for what is written to files.
    BoundedFiles,
    /// A bound for the number of files.
    BoundedFileCount,
    /// One bound for all that is written to files.
    SharedBound,
    /// A bound for memory, of all commands together.
    BoundedMemory,
    /// A bound for CPU time a second.
    BoundedCpus,
    /// A bound for the number of processes.
    BoundedProcesses,
    /// A number of processes that can be chosen.
    ProcessLimit,
    /// Something of the above that it does not have.
    Unbounded,
    /// The host's kernel, so that there is something to refuse.
    HostKernel,
    /// Python in the sandbox.
    Python,
    /// The package `terminai_apts` in the sandbox.
    Apts,
}

/// A tier, on this machine and for this user.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) tier: Tier,
    /// What it reaches here.
    pub(crate) isolation: Isolation,
    /// Whether root runs the suite.
    pub(crate) as_root: bool,
}

/// Why a tier does not have this, if it does not.
pub(crate) const fn lack(facts: Facts, need: Need) -> Option<&'static str> {
    use Need::{
        BoundedCpus, BoundedFileCount, BoundedFiles, BoundedMemory, BoundedProcesses, GivenFiles,
        HostKernel, HostName, OtherUsers, OwnAccount, ProcessLimit, SharedBound, Unbounded, Walls,
    };
    match (facts.tier, facts.isolation, need) {
        (_, Isolation::None, Walls) => {
            Some("level `none` promises nothing: the command can do what its caller can")
        }
        (_, Isolation::None, OwnAccount | OtherUsers | GivenFiles) => {
            Some("at level `none` commands run as the user who asks for them")
        }
        (
            _,
            Isolation::None,
            HostName | BoundedFiles | BoundedFileCount | SharedBound | ProcessLimit,
        ) => Some("at level `none` the flag is refused: commands run on this machine as it is"),
        (_, Isolation::None, BoundedProcesses) => {
            Some("at level `none` processes are bounded as the caller's are")
        }
        (_, Isolation::None, HostKernel) => {
            Some("at level `none` the kernel refuses what it refuses the caller")
        }
        (Tier::Local, _, BoundedMemory) => Some("the local tier refuses --memory by name"),
        (Tier::Local, _, BoundedCpus) => Some("the local tier refuses --cpus by name"),
        (Tier::Podman, _, BoundedFileCount) => {
            Some("Podman takes no bound for the number of files: memory is the bound")
        }
        (Tier::Docker | Tier::Podman, _, SharedBound) => {
            Some("each place of a container that can be written to has the bound for itself")
        }
        (Tier::Docker | Tier::Podman, _, OtherUsers | GivenFiles) => {
            Some("all processes of a container are of user 1000, without any privilege")
        }
        (Tier::Local, _, GivenFiles) => {
            Some("nobody has a capability in the local tier: root's files cannot be given away")
        }
        (Tier::Local, _, OtherUsers) if !facts.as_root => {
            Some("an ordinary user can map no user but one into a namespace")
        }
        (Tier::Microvm, _, HostKernel) => {
            Some("a virtual machine has a kernel of its own, which is its own to use")
        }
        (Tier::Microvm, _, ProcessLimit) => {
            Some("the microVM tier refuses --pids-limit by name: its memory bounds its processes")
        }
        (Tier::Docker | Tier::Podman, _, Unbounded) => {
            Some("the tier bounds all that can be bounded")
        }
        _ => None,
    }
}
