//! Limits of resources, as this system knows them.

use agent_protocol::limits::Resource;
use rustix::process::Resource as Known;

/// The system's own name of a resource; its value is the kernel's number.
pub(crate) const fn known(resource: Resource) -> Known {
    match resource {
        Resource::As => Known::As,
        Resource::Core => Known::Core,
        Resource::Cpu => Known::Cpu,
        Resource::Data => Known::Data,
        Resource::Fsize => Known::Fsize,
        Resource::Locks => Known::Locks,
        Resource::Memlock => Known::Memlock,
        Resource::Msgqueue => Known::Msgqueue,
        Resource::Nice => Known::Nice,
        Resource::Nofile => Known::Nofile,
        Resource::Nproc => Known::Nproc,
        Resource::Rss => Known::Rss,
        Resource::Rtprio => Known::Rtprio,
        Resource::Rttime => Known::Rttime,
        Resource::Sigpending => Known::Sigpending,
        Resource::Stack => Known::Stack,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        assert_eq!(
            i64::from(known(Resource::Nofile) as u32),
            i64::from(libc::RLIMIT_NOFILE)
        );
        assert_eq!(
            i64::from(known(Resource::Rttime) as u32),
            i64::from(libc::RLIMIT_RTTIME)
        );
        assert_eq!(
            i64::from(known(Resource::As) as u32),
            i64::from(libc::RLIMIT_AS)
        );
    }
}
