//! What a sandbox uses, as it is seen from inside.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a sandbox uses. What its system does not tell is `None`, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Who has counted it.
    pub counted_by: CountedBy,
    /// CPU time so far.
    pub cpu: Option<Duration>,
    /// Memory in use, without what the system could take back at once.
    pub memory_bytes: Option<u64>,
    /// The most that it could be.
    pub memory_limit_bytes: Option<u64>,
    /// Read from disks so far.
    pub read_bytes: Option<u64>,
    /// Written to disks so far.
    pub written_bytes: Option<u64>,
    /// Processes, the agent's own among them; a kernel's threads are none.
    pub processes: u64,
}

/// Who counts what a sandbox uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CountedBy {
    /// A kernel of the sandbox's own.
    Kernel,
    /// Its cgroup.
    Cgroup,
    /// Nobody: it is the sum over its processes. Memory that several of them share is counted for
    /// each.
    Processes,
}
