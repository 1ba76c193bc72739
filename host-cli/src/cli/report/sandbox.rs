//! How it is told what became of a sandbox: the tier that was taken, and why there is none.

use super::Failure;
use crate::cli::plan::run::RunPlanError;
use crate::engine::StartError;
use crate::sandbox::ExecError;
use crate::tier::Isolation;
use crate::tier::choose::{Choice, PassedOver};
use crate::tier::facts::Unavailable;

impl From<RunPlanError> for Failure {
    fn from(error: RunPlanError) -> Self {
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
pub(in crate::cli) fn announcement(choice: &Choice) -> String {
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

#[cfg(test)]
mod tests {
    use agent_client::ClientError;
    use agent_protocol::message::AgentError;

    use super::*;
    use crate::tier::Tier;

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
}
