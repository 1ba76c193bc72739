//! The words that programs know errors by: one closed list, and what each of them means.
//!
//! A word stays what it is from release to release, and so does its meaning. What this list does
//! not have, nothing says.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Defines the list: the variants with their words, and their documentation as text.
macro_rules! kinds {
    ($($(#[doc = $meaning:literal])+ $variant:ident => $word:literal,)+) => {
        /// What kind of error it is: the `code` of everything that tells errors in JSON.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "&'static str")]
        #[non_exhaustive]
        pub enum ErrorKind {
            $($(#[doc = $meaning])+ $variant,)+
        }

        impl ErrorKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word for it: kebab-case.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            /// What it means, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($meaning),+),)+
                }
            }
        }
    };
}

kinds! {
    /// The command line, the environment or the configuration file makes no sense.
    Usage => "usage",
    /// The operating system refused something that the engine needs.
    System => "system",
    /// The output could not be written.
    Output => "output",
    /// The input could not be read.
    Input => "input",
    /// The terminal could not be made that of the command.
    Terminal => "terminal",
    /// Somebody interrupted it: a signal, or the caller.
    Interrupted => "interrupted",
    /// It was not done in the time that it was given (exit code 124).
    OutOfTime => "out-of-time",
    /// Something that cannot be, or that this release has no word for.
    Internal => "internal",
    /// A program of this installation is missing.
    ProgramMissing => "program-missing",

    /// The tier that was named cannot be had on this machine.
    TierUnavailable => "tier-unavailable",
    /// The tier gives less isolation than is demanded.
    BelowMinIsolation => "below-min-isolation",
    /// No tier can be had on this machine.
    NoTier => "no-tier",
    /// Only the machine itself is left, and nobody has consented to that.
    ConsentNeeded => "consent-needed",
    /// The tier that was taken cannot honour a flag.
    UnsupportedFlag => "unsupported-flag",

    /// The tier belongs to another operating system.
    OtherSystem => "other-system",
    /// This release does not contain the tier.
    NotBuilt => "not-built",
    /// The tier was not looked for.
    NotProbed => "not-probed",
    /// The tier was not found ready.
    NotReady => "not-ready",
    /// The tier's probe passed, and yet no sandbox came up.
    StartFailed => "start-failed",

    /// There is no `/dev/kvm`.
    KvmMissing => "kvm-missing",
    /// `/dev/kvm` is not this user's to open.
    KvmPermission => "kvm-permission",
    /// `/dev/kvm` cannot be opened.
    KvmUnusable => "kvm-unusable",
    /// `/dev/kvm` speaks another version of its interface.
    KvmVersion => "kvm-version",
    /// The kernel's KVM lacks something that the monitor needs.
    KvmTooOld => "kvm-too-old",
    /// KVM makes no virtual machine.
    KvmCreateFailed => "kvm-create-failed",
    /// The CPU exposes no virtualization to this machine.
    NoHardwareVirtualization => "no-hardware-virtualization",

    /// A file of one's own cannot be booted from.
    BadFile => "bad-file",
    /// The guest's command line cannot be said.
    CommandLine => "command-line",
    /// Sockets or pipes cannot be made.
    Sockets => "sockets",
    /// The monitor of the virtual machine cannot be started.
    VmmSpawn => "vmm-spawn",
    /// The monitor of the virtual machine cannot be talked to.
    VmmProtocol => "vmm-protocol",
    /// The monitor of the virtual machine told why it cannot go on.
    VmmFailed => "vmm-failed",
    /// The monitor of the virtual machine ended without a word.
    VmmDied => "vmm-died",
    /// The monitor did not start the guest in time.
    VmmTimeout => "vmm-timeout",
    /// The guest's kernel gave up.
    GuestPanic => "guest-panic",
    /// The guest ended by itself.
    GuestEnded => "guest-ended",
    /// The guest runs, but its agent did not answer in time.
    GuestTimeout => "guest-timeout",
    /// The connection to the guest was lost, and nobody says why.
    GuestLost => "guest-lost",

    /// There is no socket of a container engine's daemon.
    NoDaemon => "no-daemon",
    /// The daemon does not run.
    DaemonStopped => "daemon-stopped",
    /// The daemon's socket is not this user's to open.
    DaemonPermission => "daemon-permission",
    /// The daemon cannot be connected to.
    DaemonUnreachable => "daemon-unreachable",
    /// The daemon does not answer.
    DaemonSilent => "daemon-silent",
    /// The daemon did not answer in time, though it took the connection.
    DaemonSlow => "daemon-slow",
    /// The daemon is of a release that is too old.
    DaemonTooOld => "daemon-too-old",
    /// The daemon gave no usable answer.
    DaemonBroken => "daemon-broken",
    /// The daemon failed at something that was asked of it.
    Daemon => "daemon",
    /// The daemon's address makes no sense.
    DaemonAddress => "daemon-address",
    /// The daemon wants TLS, which this engine does not speak.
    DaemonTls => "daemon-tls",
    /// The daemon is elsewhere, and its socket has to be forwarded.
    RemoteDaemon => "remote-daemon",
    /// The daemon runs containers of another system.
    NotLinux => "not-linux",
    /// The daemon cannot bound what a container takes.
    LimitsUnavailable => "limits-unavailable",
    /// The image is the daemon's own, which this tier does not run.
    ImageOfDaemon => "image-of-daemon",
    /// The image cannot be used in a container.
    ImageUnusable => "image-unusable",
    /// The image has no archive that a daemon could import.
    NoArchive => "no-archive",
    /// The daemon could not import the image.
    ImageImport => "image-import",
    /// The place where agent and engine meet cannot be made.
    Meeting => "meeting",
    /// The container ended.
    ContainerEnded => "container-ended",

    /// User namespaces are switched off.
    UsernsOff => "userns-off",
    /// AppArmor gives user namespaces of unknown programs no rights.
    UsernsApparmor => "userns-apparmor",
    /// There are as many user namespaces as there may be.
    UsernsFull => "userns-full",
    /// A container or a security policy permits no new namespaces.
    UsernsDenied => "userns-denied",
    /// The kernel was built without the namespaces that are needed.
    UsernsMissing => "userns-missing",
    /// Parts of `/proc` are hidden, as in containers.
    ProcMasked => "proc-masked",
    /// The kernel is too old to confine a process.
    KernelTooOld => "kernel-too-old",
    /// The kernel does not let a process be confined.
    NotConfined => "not-confined",
    /// The agent cannot be started.
    AgentSpawn => "agent-spawn",
    /// The agent ended without a word.
    AgentDied => "agent-died",
    /// The agent did not answer in time.
    AgentSilent => "agent-silent",
    /// The agent is of another release, or broken.
    AgentProtocol => "agent-protocol",
    /// The conversation with the agent broke off.
    AgentLost => "agent-lost",
    /// Something in the sandbox killed the agent's session.
    SessionKilled => "session-killed",

    /// The command was not found (exit code 127).
    CommandNotFound => "command-not-found",
    /// The command cannot be executed (exit code 126).
    CommandNotExecutable => "command-not-executable",
    /// The folder that the command was to run in is none.
    BadDirectory => "bad-directory",
    /// There is no such user or group in the sandbox.
    BadUser => "bad-user",
    /// A limit of the command cannot be had in the sandbox.
    BadLimit => "bad-limit",
    /// Arguments and environment are larger than a sandbox takes.
    RequestTooLarge => "request-too-large",
    /// The request to the agent could not be made.
    Request => "request",
    /// The request makes no sense to the one that it was made to.
    BadRequest => "bad-request",
    /// What came is not what the protocol says.
    Protocol => "protocol",
    /// The operating system in the sandbox refused something.
    GuestSystem => "guest-system",

    /// There is no folder to keep what is known of sandboxes in.
    NoStateFolder => "no-state-folder",
    /// There is no such sandbox.
    NoSuchSandbox => "no-such-sandbox",
    /// Several sandboxes have ids that begin so.
    AmbiguousSandbox => "ambiguous-sandbox",
    /// Another sandbox has the name.
    NameTaken => "name-taken",
    /// The sandbox is just being started or removed.
    SandboxBusy => "sandbox-busy",
    /// The record of the sandbox cannot be read.
    RecordDamaged => "record-damaged",
    /// The sandbox does not run.
    NotRunning => "not-running",
    /// The sandbox runs, and should not.
    Running => "running",
    /// The sandbox ended.
    SandboxEnded => "sandbox-ended",
    /// The sandbox did not end in time.
    DidNotEnd => "did-not-end",
    /// The supervisor of the sandbox did not start, or went away.
    SupervisorFailed => "supervisor-failed",
    /// The supervisor of the sandbox was killed.
    SupervisorKilled => "supervisor-killed",
    /// The supervisor of the sandbox is of another release.
    OtherRelease => "other-release",
    /// The supervisor of the sandbox cannot be spoken to.
    SupervisorLost => "supervisor-lost",
    /// The sandbox has no such command.
    NoSuchCommand => "no-such-command",
    /// The command has ended.
    CommandEnded => "command-ended",
    /// The command takes no input.
    NoInput => "no-input",
    /// Nothing is kept of what the command wrote.
    NoOutput => "no-output",

    /// There is no such file.
    NoSuchFile => "no-such-file",
    /// There is such a file already.
    FileExists => "file-exists",
    /// The user may not do this to the file.
    PermissionDenied => "permission-denied",
    /// It is no folder.
    NotADirectory => "not-a-directory",
    /// It is a folder.
    IsADirectory => "is-a-directory",
    /// The folder is not empty.
    NotEmpty => "not-empty",
    /// There is no room left.
    NoSpace => "no-space",
    /// The file system is read-only.
    ReadOnly => "read-only",
    /// The archive cannot be read.
    Archive => "archive",
    /// An entry of the archive would have left its folder.
    ArchiveRefused => "archive-refused",
    /// What arrived is not what was sent.
    Corrupt => "corrupt",
    /// The path or the pattern makes no sense.
    Invalid => "invalid",
    /// The file system refused something.
    FileSystem => "file-system",

    /// There is no such image.
    NoImage => "no-image",
    /// The image store cannot be used.
    Image => "image",
    /// A file of the image is not what was stored.
    ImageDamaged => "image-damaged",
    /// The image breaks its contract, and was not published.
    ImageBroken => "image-broken",
    /// The image could not be built.
    ImageBuild => "image-build",
    /// The cache of builds cannot be used.
    Cache => "cache",
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<ErrorKind> for &'static str {
    fn from(kind: ErrorKind) -> Self {
        kind.as_str()
    }
}

impl From<String> for ErrorKind {
    /// A word of another release may be unknown here.
    fn from(word: String) -> Self {
        let known = Self::ALL.iter().find(|kind| kind.as_str() == word);
        known.copied().unwrap_or(Self::Internal)
    }
}

#[cfg(test)]
impl schemars::JsonSchema for ErrorKind {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ErrorKind".into()
    }

    fn json_schema(_generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let words: Vec<_> = Self::ALL.iter().map(|kind| kind.as_str()).collect();
        schemars::json_schema!({
            "description": "What kind of error it is. README.md says what each word means.",
            "type": "string",
            "enum": words,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_has_a_word_of_its_own_that_reads_back() {
        let words: BTreeSet<_> = ErrorKind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(words.len(), ErrorKind::ALL.len());
        for kind in ErrorKind::ALL {
            let text = serde_json::to_string(kind).unwrap();
            assert_eq!(text, format!("\"{kind}\""));
            assert_eq!(serde_json::from_str::<ErrorKind>(&text).unwrap(), *kind);
            let letter = |c: char| c.is_ascii_lowercase() || c == '-';
            assert!(kind.as_str().chars().all(letter), "{kind}");
        }
    }

    #[test]
    fn a_word_of_another_release_is_no_failure() {
        let kind: ErrorKind = serde_json::from_str("\"from-the-future\"").unwrap();
        assert_eq!(kind, ErrorKind::Internal);
    }
}
