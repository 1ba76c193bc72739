//! How a microVM can fail its owner, in words that tell the user what to do.

use std::io;
use std::path::PathBuf;

use sandbox_image::OverrideError;
use vmm::control::StopReason;

use super::console::{last_lines, panic_message};
use super::control::ControlError;
use super::disk::DiskError;
use crate::error::{ErrorKind, elsewhere};
use crate::spec::SpecError;
use crate::tier::process::Ending;

/// Why there is no machine, or no longer one.
#[derive(Debug, thiserror::Error)]
pub enum MicrovmError {
    /// A file of the user's own cannot be booted from.
    #[error(transparent)]
    Override(#[from] OverrideError),
    /// No virtual machine can be like this.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// It cannot have the disk for what is written in it.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Something cannot be said on a kernel command line.
    #[error("guest's command line")]
    CommandLine(#[from] agent_protocol::boot::BootError),
    /// A pair of sockets or a pipe cannot be made.
    #[error("cannot make the sockets of a sandbox")]
    Sockets(#[source] io::Error),
    /// The VMM cannot be started.
    #[error("cannot start {}", program.display())]
    Spawn {
        /// The VMM.
        program: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The conversation with the VMM failed.
    #[error("cannot talk to the VMM")]
    Control(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The VMM told why it cannot go on.
    #[error("{message}")]
    VmmFailed {
        /// What the VMM said.
        message: String,
        /// What it thinks can be done.
        hint: Option<String>,
    },
    /// The VMM ended without a word of explanation.
    #[error("the VMM {ending}{}", after(words.as_deref()))]
    VmmDied {
        /// How it ended.
        ending: String,
        /// What it wrote to its standard error.
        words: Option<String>,
    },
    /// The VMM did not get as far as the guest's first instruction.
    #[error("the VMM did not start the guest in time")]
    VmmSilent,
    /// The guest's kernel gave up.
    #[error("the guest kernel panicked: {message}")]
    KernelPanic {
        /// The kernel's reason.
        message: String,
        /// The newest lines of its console.
        console: Vec<String>,
    },
    /// The guest ended in another way.
    #[error("the guest ended: {reason}")]
    GuestEnded {
        /// How.
        reason: String,
        /// The newest lines of its console.
        console: Vec<String>,
    },
    /// The guest runs, but its agent does not answer.
    #[error("the guest started, but its agent did not answer in time")]
    GuestSilent {
        /// The newest lines of its console.
        console: Vec<String>,
    },
    /// The request to the agent could not be made.
    #[error(transparent)]
    Request(#[from] agent_client::ClientError),
    /// The stream has ended, and nobody says why.
    #[error("the connection to the guest was lost")]
    Lost,
    /// The caller gave up.
    #[error("interrupted while the sandbox was starting")]
    Cancelled,
}

impl MicrovmError {
    pub(super) fn vmm_died(ending: Option<Ending>, words: Option<String>) -> Self {
        let ending = ending.map_or_else(|| "hung up".to_owned(), |ending| ending.to_string());
        Self::VmmDied { ending, words }
    }

    /// What kind of error it is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Override(_) => ErrorKind::BadFile,
            Self::Spec(_) => ErrorKind::Usage,
            Self::Disk(_) => ErrorKind::System,
            Self::CommandLine(_) => ErrorKind::CommandLine,
            Self::Sockets(_) => ErrorKind::Sockets,
            Self::Spawn { .. } => ErrorKind::VmmSpawn,
            Self::Control(_) => ErrorKind::VmmProtocol,
            Self::VmmFailed { .. } => ErrorKind::VmmFailed,
            Self::VmmDied { .. } => ErrorKind::VmmDied,
            Self::VmmSilent => ErrorKind::VmmTimeout,
            Self::KernelPanic { .. } => ErrorKind::GuestPanic,
            Self::GuestEnded { .. } => ErrorKind::GuestEnded,
            Self::GuestSilent { .. } => ErrorKind::GuestTimeout,
            Self::Request(_) => ErrorKind::Request,
            Self::Lost => ErrorKind::GuestLost,
            Self::Cancelled => ErrorKind::Interrupted,
        }
    }

    /// Whether another tier could do better: not if the caller gave up or asked for what is not
    /// there.
    #[must_use]
    pub const fn blames_the_tier(&self) -> bool {
        !matches!(
            self,
            Self::Cancelled
                | Self::Override(_)
                | Self::Spec(_)
                | Self::Disk(_)
                | Self::CommandLine(_)
                | Self::Request(_)
        )
    }

    /// What the user can do, if we know.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::VmmFailed { hint, .. } => return hint.clone(),
            Self::VmmDied { .. } => {
                "if nobody killed it: was the machine out of memory? (sudo dmesg | tail)"
            }
            Self::Disk(_) => return Some(elsewhere("SOVEREIGN_STATE_DIR")),
            Self::VmmSilent => "is the machine overloaded? --boot-timeout gives it longer",
            Self::KernelPanic { message, .. }
                if message.contains("System is deadlocked on memory") =>
            {
                "give the sandbox more memory: -m 256M"
            }
            Self::KernelPanic { .. } | Self::GuestEnded { .. } => {
                "check the image (sovereign image verify) and the memory (-m); with a kernel or \
                 root file system of your own, whether it suits (sovereign run --help)"
            }
            Self::GuestSilent { .. } => {
                "--boot-timeout gives it longer; with a kernel of your own, it may lack the vsock \
                 driver"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// The newest lines of the guest's console, where they may help.
    #[must_use]
    pub fn console(&self) -> &[String] {
        match self {
            Self::KernelPanic { console, .. }
            | Self::GuestEnded { console, .. }
            | Self::GuestSilent { console } => console,
            _ => &[],
        }
    }
}

impl From<ControlError> for MicrovmError {
    fn from(error: ControlError) -> Self {
        Self::Control(Box::new(error))
    }
}

/// What it means that the machine stopped by itself.
pub(super) fn why_it_stopped(reason: &StopReason, console: &str) -> MicrovmError {
    let lines = last_lines(console);
    if let Some(message) = panic_message(console) {
        let message = message.chars().filter(|c| !c.is_control()).collect();
        return MicrovmError::KernelPanic {
            message,
            console: lines,
        };
    }
    let reason = match reason {
        StopReason::PowerOff => "it switched itself off".to_owned(),
        StopReason::Reset => "it asked for a reset".to_owned(),
        StopReason::TripleFault => "a CPU made a triple fault".to_owned(),
        StopReason::Requested => "it was told to".to_owned(),
        StopReason::CpuFailed { detail } => format!("KVM cannot go on with a CPU: {detail}"),
    };
    MicrovmError::GuestEnded {
        reason,
        console: lines,
    }
}

fn after(words: Option<&str>) -> String {
    words.map_or_else(String::new, |words| format!(": {words}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_on_the_console_is_what_matters() {
        let console = "booting\nKernel panic - not syncing: Attempted to kill init!\n";
        let error = why_it_stopped(&StopReason::Reset, console);
        assert_eq!(
            error.to_string(),
            "the guest kernel panicked: Attempted to kill init!"
        );
        assert_eq!(error.kind(), ErrorKind::GuestPanic);
        assert_eq!(error.console().len(), 2);
    }

    #[test]
    fn without_a_panic_the_reason_is_told() {
        let detail = "internal error, suberror 1 at 0xffff".to_owned();
        let error = why_it_stopped(&StopReason::CpuFailed { detail }, "");
        assert!(error.to_string().contains("suberror 1"), "{error}");
    }

    #[test]
    fn a_killed_vmm_is_told_with_its_signal() {
        let error = MicrovmError::vmm_died(Some(Ending::Signaled(9)), None);
        assert_eq!(error.to_string(), "the VMM was killed by signal 9");
        let error = MicrovmError::vmm_died(Some(Ending::Signaled(6)), Some("panicked".to_owned()));
        assert_eq!(
            error.to_string(),
            "the VMM was killed by signal 6: panicked"
        );
    }
}
