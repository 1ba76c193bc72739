//! How a failure is told: one message, what to do about it, and an exit code.

use std::io::Write;

use serde::Serialize;

use super::plan::PlanError;
use crate::engine::StartError;
use crate::error::chain;
use crate::sandbox::ExecError;
use crate::tier::choose::{Choice, PassedOver};
use crate::tier::facts::Unavailable;
use crate::tier::{Isolation, Tier};

/// The exit code for a failure of the engine, and for wrong use.
pub(super) const ENGINE_FAILURE: u8 = 125;

/// Something that the user must be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Failure {
    /// A word for programs.
    pub(super) code: &'static str,
    /// What happened, in one line.
    pub(super) message: String,
    /// What to do about it.
    pub(super) hint: Option<String>,
    /// The newest lines of the guest's console, where they may help.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) console: Vec<String>,
    /// What this program exits with.
    #[serde(skip)]
    pub(super) exit_code: u8,
    /// The tier in which it happened, or that was asked for.
    #[serde(skip)]
    pub(super) tier: Option<Tier>,
    /// The tiers that were passed over before it came to this.
    #[serde(skip)]
    pub(super) passed_over: Vec<PassedOver>,
}

impl Failure {
    /// A failure of the engine.
    pub(super) fn new(code: &'static str, message: String) -> Self {
        Self {
            code,
            message,
            hint: None,
            console: Vec::new(),
            exit_code: ENGINE_FAILURE,
            tier: None,
            passed_over: Vec::new(),
        }
    }

    /// An error with its causes.
    pub(super) fn of(code: &'static str, error: &dyn std::error::Error) -> Self {
        Self::new(code, chain(error))
    }

    /// Tells a person, on standard error.
    pub(super) fn print(&self) {
        let mut text = format!("sovereign: {}\n", self.message);
        for line in &self.console {
            text.push_str(&format!("  | {line}\n"));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("  hint: {hint}\n"));
        }
        say(&text);
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        Self::of("usage", &error)
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Spec(error) => Self::of("usage", &error),
            StartError::Choose(error) => Self {
                hint: error.hint(),
                passed_over: error.passed_over().to_vec(),
                ..Self::of(error.code(), &error)
            },
            StartError::Unsupported(ref refusal) => Self {
                hint: Some(format!(
                    "leave {} out, or take a tier that can honour it",
                    refusal.flag
                )),
                tier: Some(refusal.tier),
                ..Self::of("unsupported-flag", &error)
            },
            StartError::Tier {
                ref choice,
                ref source,
            } => Self {
                hint: source.hint(),
                console: source.console().to_vec(),
                tier: Some(choice.tier),
                passed_over: choice.passed_over.clone(),
                ..Self::of(source.code(), &error)
            },
        }
    }
}

impl From<ExecError> for Failure {
    fn from(error: ExecError) -> Self {
        match &error {
            ExecError::Client(client) => Self {
                exit_code: client.exit_code(),
                ..Self::of(client_code(client), &error)
            },
            ExecError::Ended { source } => Self {
                hint: source.hint(),
                console: source.console().to_vec(),
                // The error's own text has its cause already.
                ..Self::new(source.code(), error.to_string())
            },
        }
    }
}

/// A word for programs.
fn client_code(error: &agent_client::ClientError) -> &'static str {
    use agent_client::ClientError;
    use agent_protocol::message::AgentError;

    match error {
        ClientError::Refused(refused) => match refused {
            AgentError::NotFound(_) => "command-not-found",
            AgentError::NotExecutable { .. } => "command-not-executable",
            AgentError::BadDirectory { .. } => "bad-directory",
            AgentError::BadUser(_) => "bad-user",
            AgentError::TooLarge(_) => "request-too-large",
            AgentError::BadRequest(_) => "bad-request",
            AgentError::Protocol(_) => "protocol",
            AgentError::System { .. } => "guest-system",
        },
        ClientError::Silent { .. } => "agent-silent",
        ClientError::Disconnected(_) => "agent-lost",
        ClientError::Protocol(_) => "protocol",
        ClientError::RequestTooLarge { .. } => "request-too-large",
        ClientError::Interrupted(_) | ClientError::Cancelled => "interrupted",
        ClientError::Output { .. } => "output",
        ClientError::Input(_) => "input",
        ClientError::Io { .. } => "system",
    }
}

/// The line that names the tier, and why each stronger one was passed over.
pub(super) fn announcement(choice: &Choice) -> String {
    let Choice {
        tier, isolation, ..
    } = choice;
    let mut line = format!("sovereign: tier {tier}, isolation {isolation}");
    line.push_str(match isolation {
        Isolation::None => ": the command can do what you can",
        Isolation::Process => " (shares this machine's kernel)",
        Isolation::Container | Isolation::Vm => "",
    });
    if let Some(shortfall) = &choice.shortfall {
        line.push_str(&format!(" ({})", shortfall.cause));
    }
    let relevant = choice
        .passed_over
        .iter()
        .filter(|over| over.reason.code != Unavailable::OTHER_SYSTEM);
    for (index, PassedOver { tier, reason }) in relevant.enumerate() {
        line.push_str(if index == 0 { "; passed over " } else { ", " });
        line.push_str(&format!("{tier} ({})", reason.cause));
    }
    line.push('\n');
    line
}

/// Writes to standard error; if nobody reads it, nobody is to be told.
pub(super) fn say(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Writes to standard output. A reader that has left is no failure.
///
/// # Errors
///
/// If it cannot be written for another reason.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new("output", format!("standard output: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes an object to standard output, as JSON.
///
/// # Errors
///
/// As [`print`].
pub(super) fn print_json(object: &impl Serialize) -> Result<(), Failure> {
    let text =
        serde_json::to_string_pretty(object).map_err(|error| Failure::of("output", &error))?;
    print(&format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use agent_client::ClientError;
    use agent_protocol::message::AgentError;

    use super::*;

    fn over(tier: Tier, code: &'static str, cause: &str) -> PassedOver {
        let reason = Unavailable {
            code,
            cause: cause.to_owned(),
            remedy: None,
        };
        PassedOver { tier, reason }
    }

    #[test]
    fn the_tier_is_announced_with_what_was_passed_over() {
        assert_eq!(
            announcement(&choice(Tier::Microvm, Isolation::Vm)),
            "sovereign: tier microvm, isolation vm\n"
        );
        let passed_over = vec![
            over(Tier::Microvm, "kvm-missing", "there is no /dev/kvm"),
            over(Tier::Docker, "not-running", "the daemon is not running"),
            over(
                Tier::AppContainer,
                Unavailable::OTHER_SYSTEM,
                "needs Windows",
            ),
        ];
        let choice = Choice {
            passed_over,
            ..choice(Tier::Local, Isolation::Process)
        };
        assert_eq!(
            announcement(&choice),
            "sovereign: tier local, isolation process (shares this machine's kernel); passed over \
             microvm (there is no /dev/kvm), docker (the daemon is not running)\n"
        );
    }

    #[test]
    fn what_is_not_isolated_is_told_in_plain_words() {
        let choice = Choice {
            shortfall: Some(over(Tier::Local, "userns-off", "user namespaces are off").reason),
            ..choice(Tier::Local, Isolation::None)
        };
        assert_eq!(
            announcement(&choice),
            "sovereign: tier local, isolation none: the command can do what you can (user \
             namespaces are off)\n"
        );
    }

    fn choice(tier: Tier, isolation: Isolation) -> Choice {
        Choice {
            tier,
            isolation,
            shortfall: None,
            passed_over: Vec::new(),
        }
    }

    #[test]
    fn exit_codes_follow_the_contract() {
        let code = |error: ClientError| Failure::from(ExecError::from(error)).exit_code;
        assert_eq!(
            code(ClientError::Refused(AgentError::NotFound("x".to_owned()))),
            127
        );
        let reason = "is a directory".to_owned();
        let program = "/tmp".to_owned();
        assert_eq!(
            code(ClientError::Refused(AgentError::NotExecutable {
                program,
                reason
            })),
            126
        );
        assert_eq!(
            code(ClientError::Refused(AgentError::BadUser("x".to_owned()))),
            125
        );
        assert_eq!(code(ClientError::Interrupted(2)), 130);
        assert_eq!(Failure::new("x", String::new()).exit_code, 125);
    }

    #[test]
    fn a_failure_in_json_has_code_message_and_hint() {
        let failure = Failure {
            hint: Some("do".to_owned()),
            ..Failure::new("c", "m".to_owned())
        };
        assert_eq!(
            serde_json::to_value(failure).unwrap(),
            serde_json::json!({ "code": "c", "message": "m", "hint": "do" })
        );
    }
}
