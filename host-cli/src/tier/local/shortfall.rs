//! Why commands cannot be confined on this machine, and what can be done about it.

use agent_protocol::local::{ConfineStep, Shortfall};
use rustix::io::Errno;

use crate::error::ErrorKind;
use crate::tier::facts::Unavailable;

/// What keeps ordinary users from user namespaces on some distributions; "1" permits.
const PERMITTED: &str = "/proc/sys/kernel/unprivileged_userns_clone";
/// How many user namespaces there may be.
const MAXIMUM: &str = "/proc/sys/user/max_user_namespaces";
/// AppArmor's restriction of user namespaces to programs that it knows.
const APPARMOR: &str = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";

/// The cause and the remedy. `read` reads a setting of the kernel's.
pub(super) fn explain(shortfall: &Shortfall, read: impl Fn(&str) -> Option<String>) -> Unavailable {
    let is = |path, value| read(path).is_some_and(|text| text.trim() == value);
    let errno = Errno::from_raw_os_error(shortfall.errno);
    let denied = matches!(errno, Errno::PERM | Errno::ACCESS);
    let (code, cause, remedy) = match shortfall.step {
        ConfineStep::Namespaces if is(PERMITTED, "0") => (
            ErrorKind::UsernsOff,
            "user namespaces are switched off for ordinary users".to_owned(),
            Some("sudo sysctl -w kernel.unprivileged_userns_clone=1"),
        ),
        ConfineStep::Namespaces if is(MAXIMUM, "0") => (
            ErrorKind::UsernsOff,
            "user namespaces are switched off (user.max_user_namespaces is 0)".to_owned(),
            Some("sudo sysctl -w user.max_user_namespaces=16384"),
        ),
        ConfineStep::Namespaces if errno == Errno::NOSPC => (
            ErrorKind::UsernsFull,
            "there are as many user namespaces as there may be".to_owned(),
            Some("sudo sysctl -w user.max_user_namespaces=65536"),
        ),
        ConfineStep::Namespaces if denied => (
            ErrorKind::UsernsDenied,
            "this container or security policy does not permit new namespaces".to_owned(),
            Some(
                "in a container: docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined",
            ),
        ),
        ConfineStep::Namespaces if matches!(errno, Errno::NOSYS | Errno::INVAL) => (
            ErrorKind::UsernsMissing,
            "this kernel was built without the namespaces that are needed".to_owned(),
            None,
        ),
        ConfineStep::Users | ConfineStep::Files | ConfineStep::Proc | ConfineStep::Network
            if denied && is(APPARMOR, "1") =>
        {
            (
                ErrorKind::UsernsApparmor,
                "AppArmor gives user namespaces of programs that it does not know no rights"
                    .to_owned(),
                Some(
                    "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or give sovereign-agent an AppArmor profile with `userns,`",
                ),
            )
        }
        ConfineStep::Files if errno == Errno::NOSYS => (
            ErrorKind::KernelTooOld,
            "this kernel is older than Linux 5.12".to_owned(),
            None,
        ),
        ConfineStep::Proc if denied => (
            ErrorKind::ProcMasked,
            "parts of /proc are hidden here, as in containers, and so the kernel permits no other"
                .to_owned(),
            Some("docker run --security-opt systempaths=unconfined"),
        ),
        _ => (ErrorKind::NotConfined, in_general(shortfall), None),
    };
    Unavailable {
        code,
        cause,
        remedy: remedy.map(str::to_owned),
    }
}

fn in_general(shortfall: &Shortfall) -> String {
    let Shortfall { step, about, errno } = shortfall;
    let reason = std::io::Error::from_raw_os_error(*errno);
    if about.is_empty() {
        format!("{step}: {reason}")
    } else {
        format!("{step}: {about}: {reason}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(
        step: ConfineStep,
        errno: Errno,
        settings: &[(&str, &'static str)],
    ) -> Unavailable {
        let shortfall = Shortfall {
            step,
            about: "/proc".to_owned(),
            errno: errno.raw_os_error(),
        };
        explain(&shortfall, |path| {
            settings
                .iter()
                .find(|(name, _)| *name == path)
                .map(|(_, value)| format!("{value}\n"))
        })
    }

    #[test]
    fn what_is_switched_off_is_named_with_its_switch() {
        let cases: [(ConfineStep, Errno, &str, &'static str, &str); 4] = [
            (
                ConfineStep::Namespaces,
                Errno::PERM,
                PERMITTED,
                "0",
                "unprivileged_userns_clone=1",
            ),
            (
                ConfineStep::Namespaces,
                Errno::NOSPC,
                MAXIMUM,
                "0",
                "max_user_namespaces=",
            ),
            (
                ConfineStep::Files,
                Errno::ACCESS,
                APPARMOR,
                "1",
                "apparmor_restrict",
            ),
            (ConfineStep::Users, Errno::PERM, APPARMOR, "1", "`userns,`"),
        ];
        for (step, errno, path, value, expected) in cases {
            let found = explained(step, errno, &[(path, value)]);
            assert!(
                found.remedy.unwrap_or_default().contains(expected),
                "{step} {path}"
            );
        }
    }

    #[test]
    fn a_switch_that_is_on_is_not_blamed() {
        let on = [(PERMITTED, "1"), (MAXIMUM, "9"), (APPARMOR, "0")];
        assert_eq!(
            explained(ConfineStep::Namespaces, Errno::PERM, &on).code,
            ErrorKind::UsernsDenied
        );
        assert_eq!(
            explained(ConfineStep::Proc, Errno::PERM, &on).code,
            ErrorKind::ProcMasked
        );
        assert_eq!(
            explained(ConfineStep::Files, Errno::NOSYS, &on).code,
            ErrorKind::KernelTooOld
        );
        assert_eq!(
            explained(ConfineStep::Namespaces, Errno::NOSPC, &on).code,
            ErrorKind::UsernsFull
        );
    }

    #[test]
    fn anything_else_is_told_with_step_and_reason() {
        let found = explained(ConfineStep::Files, Errno::NOMEM, &[]);
        assert_eq!(found.code, ErrorKind::NotConfined);
        assert!(
            found.cause.contains("file system together: /proc: "),
            "{}",
            found.cause
        );
        assert!(found.cause.contains("os error 12"), "{}", found.cause);
    }
}
