//! The checks that are commands in a sandbox.
//!
//! Each says what it found. Where a tier runs this machine's own programs, they are this machine's
//! promise, and one that is missing is told, and no failure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_client::ClientError;
use agent_protocol::message::{AgentError, ExecRequest};
use sandbox_image::apts;
use sandbox_image::manifest::Userland;

use super::{Judgement, Report};
use crate::sandbox::{ExecError, Sandbox};
use crate::tier::{Isolation, Tier};

/// The oldest Python that an image may have, and the oldest that T-APTS runs on.
pub(super) const OLDEST_PYTHON: (u32, u32) = (3, 11);
const OLDEST_PYTHON_OF_HOST: (u32, u32) = (3, 10);

/// How long the command of a check may take.
const LIMIT: Duration = Duration::from_secs(60);
/// The most that is read of what it writes.
const MAX_OUTPUT: usize = 64 * 1024;
/// How far a sandbox's clock may be from this machine's.
const MAX_DRIFT_SECONDS: u64 = 3;

const IMPORT: &str = include_str!("t_apts.py");
const DRAW: &str = "import os; print(os.getrandom(16, os.GRND_NONBLOCK).hex())";
const WHO: &str = "id -u; id -un; echo \"$HOME\"; pwd";
const TOOLS: &str = "
for tool in sh python3 curl tar unzip ps; do
    command -v $tool > /dev/null || echo no $tool
done
ps --version | grep -q procps || echo ps is not that of procps";
const WRITABLE: &str = "
for folder in /tmp \"$HOME\" \"$PWD\"; do
    file=$folder/.sovereign-contract-$$
    (echo x > \"$file\") 2> /dev/null && rm \"$file\" || echo \"$folder\"
done";
const ROOT: &str = "
for folder in / /usr /usr/bin /usr/lib /etc; do
    (: > $folder/.sovereign-contract) 2> /dev/null && echo \"$folder can be written to\"
done
for file in /dev/null /dev/zero /dev/full /dev/urandom /dev/tty /dev/fd/0 /dev/shm /proc/self/status; do
    test -e $file || echo \"there is no $file\"
done";
const SYSTEM: &str = ". /etc/os-release; echo \"$PRETTY_NAME\"";

/// Where the checks are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) tier: Tier,
    pub(super) isolation: Isolation,
    /// What is in the image; nothing is promised of a root file system of one's own.
    pub(super) contents: Option<&'a Userland>,
}

impl Place<'_> {
    const fn is_host(&self) -> bool {
        matches!(self.tier, Tier::Local)
    }

    const fn is_unconfined(&self) -> bool {
        matches!(self.isolation, Isolation::None)
    }
}

/// Why a command of a check has no output.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Trouble {
    /// There is no such program.
    Missing(String),
    /// Anything else.
    Other(String),
}

/// Where commands run.
trait Commands {
    /// Runs a command that succeeds, and returns what it writes, without the last line's end.
    fn run(&mut self, argv: &[&str]) -> Result<String, Trouble>;

    fn shell(&mut self, script: &str) -> Result<String, Trouble> {
        self.run(&["sh", "-c", script])
    }

    fn python(&mut self, script: &str) -> Result<String, Trouble> {
        self.run(&["python3", "-c", script])
    }
}

/// A check, and its name.
type Check = fn(&mut dyn Commands, &Place<'_>) -> Result<Judgement, Trouble>;

const CHECKS: [(&str, Check); 9] = [
    ("user", user),
    ("root", root),
    ("writable", writable),
    ("tools", tools),
    ("system", system),
    ("python", python),
    ("t-apts", t_apts),
    ("t-apts-calls", t_apts_calls),
    ("clock", clock),
];

/// Makes all checks in a sandbox, and those that need another one too.
pub(super) fn check(
    first: &mut Sandbox,
    second: &mut Sandbox,
    place: &Place<'_>,
    report: &mut Report,
) {
    let tier = Some(place.tier);
    if !place.is_host() && place.contents.is_none() {
        let reason = "a root file system of one's own promises nothing";
        return report.add("inside", tier, Judgement::skipped(reason));
    }
    for (name, check) in CHECKS {
        report.add(name, tier, settled(check(first, place), place));
    }
    report.add("entropy", tier, settled(entropy(first, second), place));
}

/// What trouble means where it happened.
fn settled(result: Result<Judgement, Trouble>, place: &Place<'_>) -> Judgement {
    match result {
        Ok(judgement) => judgement,
        Err(Trouble::Missing(program)) if place.is_host() => {
            Judgement::skipped(format!("this machine has no {program}"))
        }
        Err(Trouble::Missing(program)) => Judgement::failed(format!("there is no {program}")),
        Err(Trouble::Other(problem)) => Judgement::failed(problem),
    }
}

fn user(commands: &mut dyn Commands, place: &Place<'_>) -> Result<Judgement, Trouble> {
    if place.is_unconfined() {
        return Ok(Judgement::skipped("commands are whoever runs this"));
    }
    let found = commands.shell(WHO)?;
    let lines: Vec<_> = found.lines().collect();
    Ok(match lines.as_slice() {
        ["1000", "sandbox", "/home/sandbox", "/home/sandbox"] => {
            Judgement::passed("1000 sandbox, at home in /home/sandbox")
        }
        other => Judgement::failed(format!(
            "commands are {}; expected: 1000, sandbox, at home in /home/sandbox",
            other.join(", ")
        )),
    })
}

fn root(commands: &mut dyn Commands, place: &Place<'_>) -> Result<Judgement, Trouble> {
    if place.is_unconfined() {
        return Ok(Judgement::skipped("commands see this machine as it is"));
    }
    let found = commands.shell(ROOT)?;
    Ok(nothing_of(
        &found,
        "programs and settings cannot be changed",
    ))
}

fn writable(commands: &mut dyn Commands, _: &Place<'_>) -> Result<Judgement, Trouble> {
    let found = commands.shell(WRITABLE)?;
    if found.is_empty() {
        return Ok(Judgement::passed(
            "/tmp, the home and the working directory",
        ));
    }
    let folders = joined(&found);
    Ok(Judgement::failed(format!("cannot write to {folders}")))
}

fn tools(commands: &mut dyn Commands, place: &Place<'_>) -> Result<Judgement, Trouble> {
    let found = commands.shell(TOOLS)?;
    Ok(if place.is_host() && !found.is_empty() {
        Judgement::skipped(format!("of this machine's own: {}", joined(&found)))
    } else {
        nothing_of(&found, "sh, python3, curl, tar, unzip, ps")
    })
}

fn system(commands: &mut dyn Commands, place: &Place<'_>) -> Result<Judgement, Trouble> {
    let found = commands.shell(SYSTEM)?;
    Ok(match place.contents {
        Some(contents) if !place.is_host() && contents.system != found => {
            Judgement::failed(format!("{found}; expected: {}", contents.system))
        }
        _ => Judgement::passed(found),
    })
}

fn python(commands: &mut dyn Commands, place: &Place<'_>) -> Result<Judgement, Trouble> {
    let found = commands.python("import platform; print(platform.python_version())")?;
    let oldest = if place.is_host() {
        OLDEST_PYTHON_OF_HOST
    } else {
        OLDEST_PYTHON
    };
    let expected = place.contents.filter(|_| !place.is_host());
    Ok(if !is_at_least(&found, oldest) {
        let (major, minor) = oldest;
        Judgement::failed(format!("{found} is older than {major}.{minor}"))
    } else if let Some(contents) = expected.filter(|contents| contents.python != found) {
        Judgement::failed(format!("{found}; expected: {}", contents.python))
    } else {
        Judgement::passed(found)
    })
}

fn t_apts(commands: &mut dyn Commands, _: &Place<'_>) -> Result<Judgement, Trouble> {
    let found = commands.python(IMPORT)?;
    Ok(if found == apts::VERSION {
        Judgement::passed(found)
    } else {
        Judgement::failed(format!("{found}; expected: {}", apts::VERSION))
    })
}

fn t_apts_calls(commands: &mut dyn Commands, _: &Place<'_>) -> Result<Judgement, Trouble> {
    let found = commands.run(&["python3", "-m", "terminai_apts", "version"])?;
    let answer: Option<serde_json::Value> = serde_json::from_str(&found).ok();
    let version = answer.filter(|answer| answer["ok"] == true);
    Ok(match version {
        Some(answer) if answer["result"]["terminai_apts"] == apts::VERSION => {
            Judgement::passed("python3 -m terminai_apts answers")
        }
        _ => Judgement::failed(format!("python3 -m terminai_apts answers {found:?}")),
    })
}

fn clock(commands: &mut dyn Commands, _: &Place<'_>) -> Result<Judgement, Trouble> {
    let before = seconds_now();
    let found = commands.run(&["date", "+%s"])?;
    let after = seconds_now();
    let Ok(there) = found.parse::<u64>() else {
        return Ok(Judgement::failed(format!("date says {found:?}")));
    };
    let drift = before
        .saturating_sub(there)
        .max(there.saturating_sub(after));
    Ok(if drift <= MAX_DRIFT_SECONDS {
        Judgement::passed(format!("{drift} s from this machine's"))
    } else {
        Judgement::failed(format!("it is {drift} s from this machine's"))
    })
}

/// Random numbers are there at once, and are others each time and in each sandbox.
fn entropy(first: &mut dyn Commands, second: &mut dyn Commands) -> Result<Judgement, Trouble> {
    let mut draws = [
        first.python(DRAW)?,
        first.python(DRAW)?,
        second.python(DRAW)?,
    ];
    draws.sort_unstable();
    let differ = draws.windows(2).all(|pair| match pair {
        [one, other] => one != other && one.len() == 32,
        _ => false,
    });
    Ok(if differ {
        Judgement::passed("getrandom does not block, and two sandboxes draw different numbers")
    } else {
        Judgement::failed(format!("getrandom gives {}", draws.join(", ")))
    })
}

/// Passed, if nothing was found to be wrong.
fn nothing_of(found: &str, good: &str) -> Judgement {
    if found.is_empty() {
        Judgement::passed(good)
    } else {
        Judgement::failed(joined(found))
    }
}

fn joined(lines: &str) -> String {
    lines.lines().collect::<Vec<_>>().join(", ")
}

/// Whether a version is this or a later one.
pub(super) fn is_at_least(version: &str, oldest: (u32, u32)) -> bool {
    let mut parts = version.split('.').map(str::parse);
    matches!(
        (parts.next(), parts.next()),
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= oldest
    )
}

fn seconds_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

impl Commands for Sandbox {
    fn run(&mut self, argv: &[&str]) -> Result<String, Trouble> {
        let request = ExecRequest {
            timeout: Some(LIMIT),
            ..ExecRequest::new(argv.iter().copied())
        };
        let output = match self.output(request, b"", MAX_OUTPUT) {
            Ok(output) => output,
            Err(ExecError::Client(ClientError::Refused(AgentError::NotFound(program)))) => {
                return Err(Trouble::Missing(program));
            }
            Err(error) => return Err(Trouble::Other(error.text())),
        };
        if output.report.exit_code() == 0 {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        let words = String::from_utf8_lossy(&output.stderr);
        let last = words.lines().last().unwrap_or_default();
        let program = argv.first().copied().unwrap_or_default();
        let code = output.report.exit_code();
        Err(Trouble::Other(format!(
            "{program} exits with {code}: {last}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Verdict;

    /// A sandbox in which every command writes the next of these.
    struct Script(Vec<Result<String, Trouble>>);

    impl Script {
        fn new(answers: &[&str]) -> Self {
            Self(
                answers
                    .iter()
                    .rev()
                    .map(|text| Ok((*text).to_owned()))
                    .collect(),
            )
        }
    }

    impl Commands for Script {
        fn run(&mut self, _: &[&str]) -> Result<String, Trouble> {
            self.0.pop().unwrap()
        }
    }

    const VM: Place<'_> = Place {
        tier: Tier::Microvm,
        isolation: Isolation::Vm,
        contents: None,
    };
    const CONFINED: Place<'_> = Place {
        tier: Tier::Local,
        isolation: Isolation::Process,
        contents: None,
    };
    const PLAIN: Place<'_> = Place {
        isolation: Isolation::None,
        ..CONFINED
    };

    fn result(check: Check, answers: &[&str], place: &Place<'_>) -> Verdict {
        settled(check(&mut Script::new(answers), place), place).result
    }

    #[test]
    fn the_user_is_the_promised_one_except_where_nobody_promises() {
        let good = ["1000\nsandbox\n/home/sandbox\n/home/sandbox"];
        assert_eq!(result(user, &good, &VM), Verdict::Passed);
        assert_eq!(result(user, &["0\nroot\n/root\n/"], &VM), Verdict::Failed);
        assert_eq!(result(user, &[], &PLAIN), Verdict::Skipped);
    }

    #[test]
    fn what_is_wrong_with_the_root_or_missing_in_it_is_told() {
        assert_eq!(result(root, &[""], &CONFINED), Verdict::Passed);
        let judged = root(
            &mut Script::new(&["/etc can be written to\nno /dev/null"]),
            &VM,
        )
        .unwrap();
        assert_eq!(
            judged,
            Judgement::failed("/etc can be written to, no /dev/null")
        );
        assert_eq!(result(writable, &["/tmp"], &VM), Verdict::Failed);
    }

    #[test]
    fn a_missing_tool_is_a_failure_of_an_image_and_not_of_a_machine() {
        assert_eq!(result(tools, &["no curl"], &VM), Verdict::Failed);
        assert_eq!(result(tools, &["no curl"], &CONFINED), Verdict::Skipped);
        let missing = || Err(Trouble::Missing("python3".to_owned()));
        assert_eq!(settled(missing(), &VM).result, Verdict::Failed);
        assert_eq!(settled(missing(), &CONFINED).result, Verdict::Skipped);
    }

    #[test]
    fn python_is_new_enough_for_where_it_is() {
        assert_eq!(result(python, &["3.11.2"], &VM), Verdict::Passed);
        assert_eq!(result(python, &["3.10.0"], &VM), Verdict::Failed);
        assert_eq!(result(python, &["3.10.0"], &CONFINED), Verdict::Passed);
        assert_eq!(result(python, &["3.9.18"], &CONFINED), Verdict::Failed);
        for (version, expected) in [("3.11", true), ("4.0", true), ("3.9", false), ("x", false)] {
            assert_eq!(is_at_least(version, OLDEST_PYTHON), expected, "{version}");
        }
    }

    #[test]
    fn t_apts_of_another_version_fails() {
        assert_eq!(result(t_apts, &[apts::VERSION], &VM), Verdict::Passed);
        assert_eq!(result(t_apts, &["0.0.0"], &VM), Verdict::Failed);
        let answer = format!(
            r#"{{"ok": true, "result": {{"terminai_apts": "{}"}}}}"#,
            apts::VERSION
        );
        assert_eq!(result(t_apts_calls, &[&answer], &VM), Verdict::Passed);
        assert_eq!(result(t_apts_calls, &["{}"], &VM), Verdict::Failed);
        assert_eq!(result(t_apts_calls, &["no"], &VM), Verdict::Failed);
    }

    #[test]
    fn a_clock_of_another_year_fails() {
        let now = seconds_now().to_string();
        assert_eq!(result(clock, &[&now], &VM), Verdict::Passed);
        assert_eq!(result(clock, &["0"], &VM), Verdict::Failed);
        assert_eq!(result(clock, &["9999999999"], &VM), Verdict::Failed);
    }

    #[test]
    fn the_same_number_twice_is_no_entropy() {
        let draw = |digit: &str| digit.repeat(32);
        let judged = |one: &[&str], other: &str| {
            entropy(&mut Script::new(one), &mut Script::new(&[other]))
                .unwrap()
                .result
        };
        let (a, b, c) = (draw("a"), draw("b"), draw("c"));
        assert_eq!(judged(&[&a, &b], &c), Verdict::Passed);
        assert_eq!(judged(&[&a, &b], &a), Verdict::Failed);
        assert_eq!(judged(&[&a, &a], &b), Verdict::Failed);
        assert_eq!(judged(&["", "1"], "2"), Verdict::Failed);
    }
}
