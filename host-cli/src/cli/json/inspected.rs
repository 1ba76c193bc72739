//! All that is known of a sandbox.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agent_protocol::message::{ExecRequest, ExitReport};
use serde::Serialize;

use crate::error::Problem;
use crate::policy::Policy;
use crate::registry::record::{Ending, Plan, Record, Status, Timestamp};
use crate::registry::{Id, Name, State};
use crate::spec::{Network, SandboxSpec};
use crate::supervisor::{About, Command};
use crate::tier::place::PassedOver;
use crate::tier::{Isolation, Tier};

/// All that is known of a sandbox.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct Inspected {
    /// Its id.
    id: Id,
    /// Its name.
    name: Name,
    /// How it is with it.
    state: State,
    /// When it was made.
    created: Timestamp,
    /// When it was last started.
    started: Option<Timestamp>,
    /// When it ended, or its start failed.
    ended: Option<Timestamp>,
    /// Its supervisor's process, while it runs.
    supervisor: Option<u32>,
    /// The process that holds it, while it runs.
    process: Option<i32>,
    /// The exit code that stands for how it ended.
    exit_code: Option<u8>,
    /// How it ended.
    ending: Option<EndingTold>,
    /// What its user's programs find it by.
    labels: BTreeMap<String, String>,
    /// The tier that it had at its first start, which it keeps.
    tier: Option<Tier>,
    /// The isolation that it reached.
    isolation: Option<Isolation>,
    /// If that is less than the tier reaches elsewhere: why.
    shortfall: Option<String>,
    /// Why stronger tiers were passed over.
    passed_over: Vec<PassedOver>,
    /// Which tier it may be in.
    policy: Policy,
    /// What it is made of.
    spec: Made,
    /// What runs in it.
    command: Option<OwnCommand>,
    /// How long it may run at the most.
    max_duration_s: Option<f64>,
    /// How long it may run with nothing to do.
    idle_timeout_s: Option<f64>,
    /// Whether it is removed when it ends.
    remove: bool,
    /// Its own command, number 0, and those that were left running in it, with their results; those of an
    /// ended sandbox included.
    commands: Vec<Held>,
    /// Where all this is kept; what is no text is replaced.
    folder: String,
}

/// Why a sandbox ended.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct EndingTold {
    /// Why, in a word.
    reason: Reason,
    /// Why, for people.
    text: String,
    /// How its command ended, if that is why.
    result: Option<CommandResult>,
    /// What broke, if something did.
    error: Option<Problem>,
}

/// Why a sandbox ended, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
enum Reason {
    /// Its command ended.
    Command,
    /// It was stopped.
    Stopped,
    /// It was killed.
    Killed,
    /// Its longest duration was over.
    MaxDuration,
    /// It had nothing to do for too long.
    IdleTimeout,
    /// The program that had started it is gone.
    OwnerGone,
    /// It broke.
    Broken,
    /// It did not start.
    StartFailed,
}

/// How a command ended.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct CommandResult {
    /// Its exit code; 128+N if signal N ended it, 124 at the timeout.
    exit_code: u8,
    /// The signal that ended it.
    signal: Option<u8>,
    /// Whether its time was up.
    timed_out: bool,
    /// Whether output was dropped for `--max-output`.
    truncated: bool,
    /// How long it ran.
    duration_ms: f64,
}

/// What a sandbox is made of; `null` is what the tier takes without being asked.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Made {
    /// The image's name.
    image: String,
    /// A guest kernel in place of the image's.
    kernel: Option<PathBuf>,
    /// An initramfs in place of the image's.
    initramfs: Option<PathBuf>,
    /// A root file system in place of the image's.
    rootfs: Option<PathBuf>,
    /// Number of CPUs.
    cpus: Option<u8>,
    /// Memory in MiB.
    memory_mib: Option<u32>,
    /// How much may be written to its root file system, in MiB, where that lives in its memory.
    overlay_mib: Option<u32>,
    /// How much may be written to its root file system, in MiB, where that is kept until it is removed.
    disk_mib: Option<u32>,
    /// What it can reach of a network.
    network: Option<Network>,
    /// How many processes and threads it may have.
    processes: Option<u32>,
    /// The name that it has for itself.
    hostname: Option<String>,
    /// How long it may take until it can run a command.
    boot_timeout_s: f64,
}

/// A sandbox's own command; what is no text is replaced.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct OwnCommand {
    /// Program and arguments.
    argv: Vec<String>,
    /// Whether it has a terminal.
    tty: bool,
    /// Whether something can be typed.
    stdin: bool,
    /// Its variables, as `NAME=VALUE`.
    env: Vec<String>,
    /// The folder that it runs in.
    cwd: Option<String>,
    /// The user that it runs as.
    user: Option<String>,
    /// When it is ended.
    timeout_s: Option<f64>,
}

/// A command that a supervisor holds.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Held {
    /// Its number in its sandbox; 0 is the sandbox's own.
    command: u32,
    /// Program and arguments; what is longer than 2 KiB is cut and ends with `…`.
    argv: Vec<String>,
    /// Whether it has a terminal.
    tty: bool,
    /// Whether something can be typed.
    stdin: bool,
    /// Since when it is held.
    since: Timestamp,
    /// How it ended, if it has.
    result: Option<CommandResult>,
    /// Why nobody knows how it ended, if that is so.
    error: Option<Problem>,
}

impl Inspected {
    /// What this record says, with these commands held, of a sandbox in this state.
    pub(in crate::cli) fn of(
        record: Record,
        state: State,
        commands: Vec<Command>,
        folder: &Path,
    ) -> Self {
        let Plan {
            labels,
            policy,
            spec,
            command,
            max_duration,
            idle_timeout,
            remove,
        } = record.plan;
        let place = record.place;
        let mut told = Self {
            id: record.id,
            name: record.name,
            state,
            created: record.created,
            started: None,
            ended: None,
            supervisor: None,
            process: None,
            exit_code: None,
            ending: None,
            labels,
            tier: place.as_ref().map(|place| place.tier),
            isolation: place.as_ref().map(|place| place.isolation),
            shortfall: place.as_ref().and_then(|place| place.shortfall.clone()),
            passed_over: place.map(|place| place.passed_over).unwrap_or_default(),
            policy,
            spec: Made::of(spec),
            command: command.as_ref().map(OwnCommand::of),
            max_duration_s: max_duration.map(|duration| duration.as_secs_f64()),
            idle_timeout_s: idle_timeout.map(|duration| duration.as_secs_f64()),
            remove,
            commands: commands.into_iter().map(Held::of).collect(),
            folder: folder.to_string_lossy().into_owned(),
        };
        told.add(record.status);
        told
    }

    fn add(&mut self, status: Status) {
        match status {
            Status::Created => {}
            Status::Running {
                since,
                supervisor,
                process,
            } => {
                self.started = Some(since);
                self.supervisor = Some(supervisor);
                self.process = Some(process);
            }
            Status::Ended { began, at, ending } => {
                self.started = Some(began);
                self.ended = Some(at);
                self.exit_code = Some(ending.exit_code());
                self.ending = Some(EndingTold::of(ending));
            }
            Status::Failed { at, problem } => {
                self.ended = Some(at);
                self.exit_code = Some(problem.exit_code);
                self.ending = Some(EndingTold {
                    reason: Reason::StartFailed,
                    text: problem.message.clone(),
                    result: None,
                    error: Some(problem),
                });
            }
        }
    }
}

impl EndingTold {
    fn of(ending: Ending) -> Self {
        let text = ending.text();
        let (reason, result, error) = match ending {
            Ending::Command { report } => (Reason::Command, Some(CommandResult::of(&report)), None),
            Ending::Stopped => (Reason::Stopped, None, None),
            Ending::Killed => (Reason::Killed, None, None),
            Ending::MaxDuration => (Reason::MaxDuration, None, None),
            Ending::IdleTimeout => (Reason::IdleTimeout, None, None),
            Ending::OwnerGone => (Reason::OwnerGone, None, None),
            Ending::Broken { problem } => (Reason::Broken, None, Some(problem)),
        };
        Self {
            reason,
            text,
            result,
            error,
        }
    }
}

impl CommandResult {
    fn of(report: &ExitReport) -> Self {
        Self {
            exit_code: report.exit_code(),
            signal: report.signal,
            timed_out: report.timed_out,
            truncated: report.truncated,
            duration_ms: report.duration.as_secs_f64() * 1000.0,
        }
    }
}

impl Made {
    fn of(spec: SandboxSpec) -> Self {
        let overrides = spec.image.overrides;
        Self {
            image: spec.image.name,
            kernel: overrides.kernel,
            initramfs: overrides.initramfs,
            rootfs: overrides.rootfs,
            cpus: spec.cpus,
            memory_mib: spec.memory_mib,
            overlay_mib: spec.overlay_mib,
            disk_mib: spec.disk_mib,
            network: spec.network,
            processes: spec.processes,
            hostname: spec.hostname,
            boot_timeout_s: spec.boot_timeout.as_secs_f64(),
        }
    }
}

impl OwnCommand {
    fn of(request: &ExecRequest) -> Self {
        let text = |bytes: &serde_bytes::ByteBuf| String::from_utf8_lossy(bytes).into_owned();
        let pair = |(name, value): &(_, _)| format!("{}={}", text(name), text(value));
        let About { argv, tty, stdin } = About::whole(request);
        Self {
            argv,
            tty,
            stdin,
            env: request.env.iter().map(pair).collect(),
            cwd: request.cwd.as_ref().map(text),
            user: request.user.clone(),
            timeout_s: request.timeout.map(|timeout| timeout.as_secs_f64()),
        }
    }
}

impl Held {
    fn of(held: Command) -> Self {
        let About { argv, tty, stdin } = held.about;
        Self {
            command: held.command,
            argv,
            tty,
            stdin,
            since: held.since,
            result: held.report.as_ref().map(CommandResult::of),
            error: held.problem,
        }
    }
}
