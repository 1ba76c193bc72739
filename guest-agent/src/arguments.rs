//! What the agent is told to be.

use std::ffi::OsString;
use std::path::PathBuf;
#[cfg(not(target_os = "linux"))]
use std::process::ExitCode;

use agent_protocol::frame::PROTOCOL_VERSION;

/// What `--help` prints.
pub(crate) const USAGE: &str = "\
Runs commands for Sovereign inside a sandbox.

Usage:
  sovereign-agent --listen unix:PATH   serve every connection to a socket at PATH
  sovereign-agent --fd N               serve descriptor N: a connected stream socket (one session),
                                       or a listening socket
  sovereign-agent --local N            isolate itself as far as the kernel allows, and serve the
                                       streams that come by descriptor N, a control socket
  sovereign-agent --control unix:PATH  connect to the control socket of a host at PATH, and serve the
                                       streams that come by it, until the host closes it
  sovereign-agent --bridge             serve those who --join, until standard input ends
  sovereign-agent --join               pass standard input and output on to an agent with --bridge
  sovereign-agent --version            print the version

Started as /init by a Linux kernel, it sets the guest up (parameters: sovereign.* on the kernel
command line) and serves vsock port 1024.";

/// What the agent is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The guest's first process, started by the kernel.
    Init,
    /// A server on a Unix socket at this path.
    Listen(PathBuf),
    /// A server on a descriptor that it has been given.
    Descriptor(i32),
    /// A process of the host that isolates itself, with its control socket's descriptor.
    Local(i32),
    /// A server of the streams that come by a control socket that a host listens for at this path.
    Control(PathBuf),
    /// A server of those who join, until its standard input ends.
    Bridge,
    /// A way to such a server, from standard input and output.
    Join,
    /// `--version`.
    Version,
    /// `--help`.
    Help,
    /// None of these: what is wrong.
    Misused(String),
}

impl Role {
    /// The role for these arguments, program name included.
    pub(crate) fn from_args(args: impl IntoIterator<Item = OsString>) -> Self {
        let mut args = args.into_iter();
        // The kernel starts `/init`, with what it could not use of its command line as arguments.
        if args.next().is_some_and(|program| program == "/init") && std::process::id() == 1 {
            return Self::Init;
        }
        let Some(option) = args.next() else {
            return Self::Misused("nothing to serve was given".to_owned());
        };
        let value = args.next();
        if let Some(extra) = args.next() {
            return Self::Misused(format!("unexpected argument {}", extra.to_string_lossy()));
        }
        match (option.to_str(), value) {
            (Some(option @ ("--listen" | "--control")), Some(address)) => {
                Self::at(option, &address)
            }
            (Some(option @ ("--fd" | "--local")), Some(number)) => {
                match number.to_str().and_then(|n| n.parse().ok()) {
                    Some(number) if number > 2 && option == "--fd" => Self::Descriptor(number),
                    Some(number) if number > 2 => Self::Local(number),
                    _ => Self::Misused(format!("{option} cannot be {}", number.to_string_lossy())),
                }
            }
            (Some("--listen" | "--fd" | "--local" | "--control"), None) => {
                Self::Misused(format!("{} needs a value", option.to_string_lossy()))
            }
            (Some("--bridge"), None) => Self::Bridge,
            (Some("--join"), None) => Self::Join,
            (Some("--version" | "-V"), None) => Self::Version,
            (Some("--help" | "-h"), None) => Self::Help,
            _ => Self::Misused(format!("unexpected argument {}", option.to_string_lossy())),
        }
    }

    fn at(option: &str, address: &OsString) -> Self {
        match address
            .to_str()
            .and_then(|address| address.strip_prefix("unix:"))
        {
            Some(path) if !path.is_empty() && option == "--listen" => Self::Listen(path.into()),
            Some(path) if !path.is_empty() => Self::Control(path.into()),
            _ => Self::Misused(format!(
                "{option} needs unix:PATH, not {}",
                address.to_string_lossy()
            )),
        }
    }
}

/// What `--version` prints: the release, and the version of the protocol that it speaks.
pub(crate) fn version() -> String {
    let release = env!("CARGO_PKG_VERSION");
    format!("sovereign-agent {release} (protocol {PROTOCOL_VERSION})")
}

/// The answer on a system where the agent has no way to serve yet.
#[cfg(not(target_os = "linux"))]
pub(crate) fn run_elsewhere(role: Role) -> ExitCode {
    match role {
        Role::Version => println!("{}", version()),
        Role::Help => println!("{USAGE}"),
        Role::Init
        | Role::Listen(_)
        | Role::Descriptor(_)
        | Role::Local(_)
        | Role::Control(_)
        | Role::Bridge
        | Role::Join => {
            eprintln!("sovereign-agent: it serves on Linux only");
            return ExitCode::FAILURE;
        }
        Role::Misused(problem) => {
            eprintln!("sovereign-agent: {problem}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(args: &[&str]) -> Role {
        let program = OsString::from("sovereign-agent");
        Role::from_args(std::iter::once(program).chain(args.iter().map(OsString::from)))
    }

    #[test]
    fn roles_are_told_apart() {
        assert_eq!(
            role(&["--listen", "unix:/run/a"]),
            Role::Listen("/run/a".into())
        );
        assert_eq!(
            role(&["--control", "unix:/run/c"]),
            Role::Control("/run/c".into())
        );
        assert_eq!(role(&["--fd", "3"]), Role::Descriptor(3));
        assert_eq!(role(&["--local", "3"]), Role::Local(3));
        assert_eq!(role(&["--bridge"]), Role::Bridge);
        assert_eq!(role(&["--join"]), Role::Join);
        assert_eq!(role(&["--version"]), Role::Version);
    }

    #[test]
    fn version_tells_release_and_protocol() {
        let text = version();
        assert!(text.starts_with("sovereign-agent "), "{text}");
        assert!(
            text.ends_with(&format!("(protocol {PROTOCOL_VERSION})")),
            "{text}"
        );
    }

    #[test]
    fn misuse_is_named() {
        for args in [
            &[][..],
            &["--listen"],
            &["--listen", "/run/a"],
            &["--control"],
            &["--control", "unix:"],
            &["--fd", "1"],
            &["--fd", "x"],
            &["--fd", "3", "4"],
            &["--local"],
            &["--local", "0"],
            &["--join", "x"],
            &["serve"],
        ] {
            assert!(matches!(role(args), Role::Misused(_)), "{args:?}");
        }
    }
}
