//! Limits of one command's resources (getrlimit(2)).

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a process can be limited in, by the kernel's names without `RLIMIT_`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    /// Bytes of address space.
    As,
    /// Bytes of a core dump.
    Core,
    /// Seconds of CPU time.
    Cpu,
    /// Bytes of data segments.
    Data,
    /// Bytes of a file that it writes.
    Fsize,
    /// Locks and leases (no effect since Linux 2.4.24).
    Locks,
    /// Bytes of locked memory.
    Memlock,
    /// Bytes of POSIX message queues of its user.
    Msgqueue,
    /// The ceiling of its nice value, as 20 less that value.
    Nice,
    /// One more than the highest descriptor.
    Nofile,
    /// Processes and threads of its user, in this command or not.
    Nproc,
    /// Bytes of resident memory (no effect since Linux 2.4.30).
    Rss,
    /// The ceiling of its real-time priority.
    Rtprio,
    /// Microseconds of CPU time without a blocking call, under real-time scheduling.
    Rttime,
    /// Signals that wait for its user.
    Sigpending,
    /// Bytes of the first thread's stack.
    Stack,
}

impl Resource {
    /// Every one, by name.
    pub const ALL: [Self; 16] = [
        Self::As,
        Self::Core,
        Self::Cpu,
        Self::Data,
        Self::Fsize,
        Self::Locks,
        Self::Memlock,
        Self::Msgqueue,
        Self::Nice,
        Self::Nofile,
        Self::Nproc,
        Self::Rss,
        Self::Rtprio,
        Self::Rttime,
        Self::Sigpending,
        Self::Stack,
    ];

    /// The name that a user types.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::As => "as",
            Self::Core => "core",
            Self::Cpu => "cpu",
            Self::Data => "data",
            Self::Fsize => "fsize",
            Self::Locks => "locks",
            Self::Memlock => "memlock",
            Self::Msgqueue => "msgqueue",
            Self::Nice => "nice",
            Self::Nofile => "nofile",
            Self::Nproc => "nproc",
            Self::Rss => "rss",
            Self::Rtprio => "rtprio",
            Self::Rttime => "rttime",
            Self::Sigpending => "sigpending",
            Self::Stack => "stack",
        }
    }

    /// Whether it counts bytes.
    #[must_use]
    pub const fn is_in_bytes(self) -> bool {
        matches!(
            self,
            Self::As
                | Self::Core
                | Self::Data
                | Self::Fsize
                | Self::Memlock
                | Self::Msgqueue
                | Self::Rss
                | Self::Stack
        )
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A limit: `None` is no limit at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimit {
    /// Of what.
    pub resource: Resource,
    /// What the kernel holds the command to.
    pub soft: Option<u64>,
    /// How far the command itself may raise that.
    pub hard: Option<u64>,
}

impl fmt::Display for ResourceLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.resource, Amount(self.soft))?;
        if self.hard == self.soft {
            return Ok(());
        }
        write!(f, ":{}", Amount(self.hard))
    }
}

/// What a limit allows, as a user types it.
#[derive(Debug, Clone, Copy)]
pub struct Amount(pub Option<u64>);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => write!(f, "{number}"),
            None => f.write_str("unlimited"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_sorted_by_name_and_written_by_it() {
        assert!(Resource::ALL.is_sorted_by_key(|resource| resource.name()));
        for resource in Resource::ALL {
            let bytes = postcard::to_allocvec(&resource).unwrap();
            assert_eq!(postcard::from_bytes::<Resource>(&bytes), Ok(resource));
        }
    }

    #[test]
    fn a_limit_is_shown_as_it_is_typed() {
        let limit = |soft, hard| {
            let resource = Resource::Nofile;
            let limit = ResourceLimit {
                resource,
                soft,
                hard,
            };
            limit.to_string()
        };
        assert_eq!(limit(Some(7), Some(7)), "nofile=7");
        assert_eq!(limit(Some(7), None), "nofile=7:unlimited");
        assert_eq!(limit(None, None), "nofile=unlimited");
    }
}
