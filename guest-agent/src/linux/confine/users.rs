//! Users and groups of the new user namespace.
//!
//! ```text
//!                    inside                     outside
//!  started by root:  root, sandbox, nobody      numbers that nobody else has, others in each sandbox
//!  by anybody else:  sandbox                    who started it
//! ```
//!
//! The host's root is never mapped: even without a capability it could write to `/proc/sys`.

use std::fmt::Write;

use agent_protocol::local::{ConfineStep, Shortfall};
use rustix::io::Errno;
use rustix::process::{Gid, Pid, Uid, getegid, geteuid};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::kept::Kept;
use super::{errno_of, shortfall};

/// The user that commands run as, and its group.
pub(super) const SANDBOX: u32 = 1000;
/// The group of terminals.
pub(super) const TTY: u32 = 5;
const NOBODY: u32 = 65_534;

/// The first number outside that a sandbox of root's takes. It lies in the range that systemd has set
/// aside for containers (524288 to 1879048191), and a process number is below 2^22.
const FIRST: u32 = 1_500_000_000;

/// How many sandboxes have numbers of their own, and the first number of those that keep what they
/// write and so keep their numbers.
const RANGES: u32 = 1 << 22;
const FIRST_KEPT: u32 = FIRST + 4 * RANGES;

/// Who the agent is inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inner {
    /// Root of the namespace: it can start commands as other users.
    Root,
    /// The user that commands run as.
    Sandbox,
}

impl Inner {
    /// A byte for it.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Root => b'r',
            Self::Sandbox => b's',
        }
    }

    pub(super) const fn from_code([code]: [u8; 1]) -> Option<Self> {
        match code {
            b'r' => Some(Self::Root),
            b's' => Some(Self::Sandbox),
            _ => None,
        }
    }
}

/// Maps the users of the namespace that this process is first in.
pub(super) fn map(inside: Pid, kept: Option<&Kept>) -> Result<Inner, Shortfall> {
    let uid = geteuid();
    if !uid.is_root() {
        return map_self(inside).map(|()| Inner::Sandbox);
    }
    match map_range(inside, kept) {
        // Root of a container that has few numbers itself, or may not map any.
        Err(_) if !is_root_of_the_host() => map_self(inside).map(|()| Inner::Sandbox),
        result => result.map(|()| Inner::Root),
    }
}

fn map_range(inside: Pid, kept: Option<&Kept>) -> Result<(), Shortfall> {
    let first = match kept {
        Some(kept) => first_of(kept)?,
        None => {
            let number = inside.as_raw_nonzero().get().unsigned_abs();
            FIRST + 4 * (number % RANGES)
        }
    };
    let mut uids = String::new();
    for (inner, outer) in [0, SANDBOX, NOBODY].into_iter().zip(first..) {
        // Writing to a string cannot fail.
        let _ = writeln!(uids, "{inner} {outer} 1");
    }
    let mut gids = String::new();
    for (inner, outer) in [0, TTY, SANDBOX, NOBODY].into_iter().zip(first..) {
        let _ = writeln!(gids, "{inner} {outer} 1");
    }
    write(inside, "gid_map", &gids)?;
    write(inside, "uid_map", &uids)
}

/// The first number of a sandbox that keeps what it writes: the one of its last life, or else one that
/// is drawn, and that it gets its folder for.
fn first_of(kept: &Kept) -> Result<u32, Shortfall> {
    let failed = |error: std::io::Error| shortfall(ConfineStep::Users, "", errno_of(&error));
    let owner = kept.owner().map_err(failed)?;
    if let Some(first) = first_by_owner(owner) {
        return Ok(first);
    }
    let mut drawn = [0; 4];
    getrandom(&mut drawn[..], GetRandomFlags::empty()).map_err(|errno| failed(errno.into()))?;
    let first = FIRST_KEPT + 4 * (u32::from_ne_bytes(drawn) % RANGES);
    // The places of both in the maps.
    kept.give_to(first + 1, first + 2).map_err(failed)?;
    Ok(first)
}

/// From the number outside of a sandbox's user to its first one, if it has such numbers.
const fn first_by_owner(owner: u32) -> Option<u32> {
    match owner.checked_sub(FIRST_KEPT + 1) {
        Some(offset) if offset % 4 == 0 && offset / 4 < RANGES => Some(owner - 1),
        _ => None,
    }
}

fn map_self(inside: Pid) -> Result<(), Shortfall> {
    // Who may not change groups outside must not be able to drop one inside, since a group can also
    // take rights away (user_namespaces(7)).
    write(inside, "setgroups", "deny")?;
    write(
        inside,
        "gid_map",
        &format!("{SANDBOX} {} 1", getegid().as_raw()),
    )?;
    write(
        inside,
        "uid_map",
        &format!("{SANDBOX} {} 1", geteuid().as_raw()),
    )
}

fn write(inside: Pid, file: &str, text: &str) -> Result<(), Shortfall> {
    let path = format!("/proc/{}/{file}", inside.as_raw_nonzero());
    std::fs::write(&path, text)
        .map_err(|error| shortfall(ConfineStep::Users, file, errno_of(&error)))
}

/// Whether this process's root is that of the host, as far as can be told: if not sure, it is.
fn is_root_of_the_host() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").map_or(true, |map| maps_root_to_root(&map))
}

/// user_namespaces(7): first number inside, first number outside, how many.
fn maps_root_to_root(map: &str) -> bool {
    map.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace();
        fields.next() == Some("0") && fields.next() == Some("0")
    })
}

/// Becomes who the agent is inside.
pub(super) fn become_inner(inner: Inner) -> Result<(), Shortfall> {
    let failed = |errno: Errno| shortfall(ConfineStep::Users, "", errno);
    let number = match inner {
        Inner::Root => 0,
        Inner::Sandbox => SANDBOX,
    };
    if inner == Inner::Root {
        set_thread_groups(&[]).map_err(failed)?;
    }
    let (uid, gid) = (Uid::from_raw(number), Gid::from_raw(number));
    set_thread_res_gid(gid, gid, gid).map_err(failed)?;
    set_thread_res_uid(uid, uid, uid).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_read_back() {
        for inner in [Inner::Root, Inner::Sandbox] {
            assert_eq!(Inner::from_code([inner.code()]), Some(inner));
        }
        assert_eq!(Inner::from_code([0]), None);
    }

    #[test]
    fn root_of_a_container_with_users_of_its_own_is_not_the_hosts() {
        assert!(maps_root_to_root("         0          0 4294967295\n"));
        assert!(!maps_root_to_root("0 1000 1\n1 100000 65536\n"));
        assert!(!maps_root_to_root("1000 1000 1\n"));
    }

    #[test]
    fn sandbox_finds_its_numbers_again() {
        for first in [FIRST_KEPT, FIRST_KEPT + 4 * (RANGES - 1)] {
            assert_eq!(first_by_owner(first + 1), Some(first));
        }
        for owner in [
            0,
            1000,
            FIRST + 1,
            FIRST_KEPT,
            FIRST_KEPT + 2,
            FIRST_KEPT + 4 * RANGES + 1,
        ] {
            assert_eq!(first_by_owner(owner), None, "{owner}");
        }
    }

    #[test]
    fn every_sandbox_has_numbers_of_its_own_below_the_end_of_their_range() {
        let last = FIRST_KEPT + 4 * (RANGES - 1) + 3;
        assert!(last <= 1_879_048_191);
    }
}
