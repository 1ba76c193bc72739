//! How it is told what became of a sandbox: the tier that was taken, and why there is none.

use agent_protocol::message::ExecRequest;
use rustix::fs::FileType;
use rustix::stdio::stdin;

use super::say;
use crate::cli::args::GlobalArgs;
use crate::cli::plan::run::RunPlanError;
use crate::detached::{Detached, DetachedError};
use crate::engine::StartError;
use crate::error::{ErrorKind, Problem};
use crate::registry::{Registry, RegistryError};
use crate::sandbox::ExecError;
use crate::tier::facts::Unavailable;
use crate::tier::place::{PassedOver, Place};
use crate::tier::{Isolation, Tier};

impl From<RunPlanError> for Problem {
    fn from(error: RunPlanError) -> Self {
        let error = match error {
            RunPlanError::Choose(error) => return StartError::from(*error).into(),
            RunPlanError::Unsupported(refusal) => return StartError::from(refusal).into(),
            error => error,
        };
        Self::of(ErrorKind::Usage, &error)
    }
}

impl From<StartError> for Problem {
    fn from(error: StartError) -> Self {
        Self::from(&error)
    }
}

impl From<ExecError> for Problem {
    fn from(error: ExecError) -> Self {
        Self::from(&error)
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        error.problem()
    }
}

impl From<DetachedError> for Problem {
    fn from(error: DetachedError) -> Self {
        error.problem()
    }
}

/// Says where the input of a command comes from that was left at once, if here is some that it does not
/// get.
pub(in crate::cli) fn tell_of_input(request: &ExecRequest, attach: &str, global: GlobalArgs) {
    if request.stdin && has_input() && !global.quiet {
        say(&format!(
            "sovereign: with -d nothing is passed on from here; `sovereign attach {attach}` passes input on\n"
        ));
    }
}

/// Whether standard input is a pipe or a file, from which something may come.
fn has_input() -> bool {
    let kind = rustix::fs::fstat(stdin()).map(|stat| FileType::from_raw_mode(stat.st_mode));
    matches!(
        kind,
        Ok(FileType::Fifo | FileType::Socket | FileType::RegularFile)
    )
}

/// A problem of a sandbox of the registry, with its tier, and what can be done about silence.
pub(in crate::cli) fn of_sandbox(problem: Problem, sandbox: &Detached) -> Problem {
    let Ok(record) = sandbox.entry().read() else {
        return problem;
    };
    let tier = record.place.map(|place| place.tier);
    let mut problem = problem.in_tier(tier);
    if problem.code == ErrorKind::AgentSilent && problem.hint.is_none() {
        problem.hint = Some(about_silence(tier, record.name.as_str()));
    }
    problem
}

/// What can be done about a sandbox whose agent says nothing: somebody has frozen it, or it has no time.
fn about_silence(tier: Option<Tier>, name: &str) -> String {
    let frozen = match tier {
        Some(tier @ (Tier::Docker | Tier::Podman)) => {
            format!("if its container was paused, `{tier} unpause` lets it go on")
        }
        _ => "if its processes were stopped, `kill -CONT` lets them go on".to_owned(),
    };
    format!("{frozen}; `sovereign kill {name}` ends it")
}

/// The same of a sandbox that is named, if there is one.
pub(in crate::cli) fn of_named(problem: Problem, sandbox: &str) -> Problem {
    let registry = Registry::open_default().map_err(DetachedError::from);
    match registry.and_then(|registry| Detached::find(&registry, sandbox)) {
        Ok(sandbox) => of_sandbox(problem, &sandbox),
        Err(_) => problem,
    }
}

/// The line that names the tier, and why each stronger one was passed over.
pub(in crate::cli) fn announcement(place: &Place) -> String {
    let Place {
        tier, isolation, ..
    } = place;
    let mut line = format!("sovereign: tier {tier}, isolation {isolation}");
    line.push_str(match isolation {
        Isolation::None => ": the command can do what you can",
        Isolation::Process => " (shares this machine's kernel)",
        Isolation::Container | Isolation::Vm => "",
    });
    if let Some(cause) = &place.shortfall {
        line.push_str(&format!(" ({cause})"));
    }
    let relevant = place
        .passed_over
        .iter()
        .filter(|over| over.code != Unavailable::OTHER_SYSTEM);
    for (index, PassedOver { tier, cause, .. }) in relevant.enumerate() {
        line.push_str(if index == 0 { "; passed over " } else { ", " });
        line.push_str(&format!("{tier} ({cause})"));
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

    fn over(tier: Tier, code: ErrorKind, cause: &str) -> PassedOver {
        PassedOver {
            tier,
            code,
            cause: cause.to_owned(),
            remedy: None,
        }
    }

    #[test]
    fn the_tier_is_announced_with_what_was_passed_over() {
        assert_eq!(
            announcement(&choice(Tier::Microvm, Isolation::Vm)),
            "sovereign: tier microvm, isolation vm\n"
        );
        let passed_over = vec![
            over(Tier::Microvm, ErrorKind::KvmMissing, "there is no /dev/kvm"),
            over(
                Tier::Docker,
                ErrorKind::DaemonStopped,
                "the daemon is not running",
            ),
            over(
                Tier::AppContainer,
                Unavailable::OTHER_SYSTEM,
                "needs Windows",
            ),
        ];
        let choice = Place {
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
        let choice = Place {
            shortfall: Some("user namespaces are off".to_owned()),
            ..choice(Tier::Local, Isolation::None)
        };
        assert_eq!(
            announcement(&choice),
            "sovereign: tier local, isolation none: the command can do what you can (user \
             namespaces are off)\n"
        );
    }

    fn choice(tier: Tier, isolation: Isolation) -> Place {
        Place {
            tier,
            isolation,
            shortfall: None,
            passed_over: Vec::new(),
        }
    }

    #[test]
    fn silence_has_a_remedy() {
        let hint = about_silence(Some(Tier::Podman), "web");
        assert!(hint.contains("podman unpause"), "{hint}");
        let hint = about_silence(Some(Tier::Microvm), "web");
        assert!(
            hint.contains("kill -CONT") && hint.contains("sovereign kill web"),
            "{hint}"
        );
    }

    #[test]
    fn exit_codes_follow_the_contract() {
        let code = |error: ClientError| Problem::from(ExecError::from(error)).exit_code;
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
        assert_eq!(
            Problem::new(ErrorKind::System, String::new()).exit_code,
            125
        );
    }
}
