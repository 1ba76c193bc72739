//! A run, as it is meant. Whatever can be seen to be wrong before anything starts is found here.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use agent_protocol::limits::Resource;
use agent_protocol::message::{ExecRequest, TerminalSize};
use sandbox_image::Overrides;
use serde_bytes::ByteBuf;

use super::{ALLOW_LOCAL, PlanError, consent, here};
use crate::cli::args::values::{TierWish, ValueError, parse_duration};
use crate::cli::args::{
    ChoiceArgs, CreateArgs, ExecArgs, GlobalArgs, LifeArgs, RunArgs, SandboxArgs,
};
use crate::cli::config_file::ConfigFile;
use crate::cli::environment::{self, EnvironmentError};
use crate::host::memory_mib;
use crate::policy::Policy;
use crate::registry::Name;
use crate::registry::record::Plan;
use crate::spec::{ImageChoice, SandboxSpec, SpecError, Unsupported};
use crate::tier::choose::{ChooseError, check_floor};

/// How much of each output `--json` collects, unless told otherwise.
const DEFAULT_COLLECTED: u64 = 1 << 20;

/// The variable that says how long a start may take.
const BOOT_TIMEOUT: &str = "SOVEREIGN_BOOT_TIMEOUT";

/// A run, as it is meant.
#[derive(Debug)]
pub(in crate::cli) struct RunPlan {
    /// Which sandbox may be taken.
    pub(in crate::cli) policy: Policy,
    /// What it is made of.
    pub(in crate::cli) spec: SandboxSpec,
    /// What it runs.
    pub(in crate::cli) request: ExecRequest,
    /// How the result is told.
    pub(in crate::cli) output: OutputPlan,
    /// Whether a timeline is told afterwards.
    pub(in crate::cli) trace: bool,
    /// How it lives, if it is to be in the registry.
    pub(in crate::cli) life: Option<Life>,
}

/// How a sandbox of the registry lives.
#[derive(Debug)]
pub(in crate::cli) struct Life {
    pub(in crate::cli) args: LifeArgs,
    /// Whether it outlives this program.
    pub(in crate::cli) detached: bool,
}

impl LifeArgs {
    /// Whether something is said that only a sandbox of the registry can have.
    fn is_said(&self) -> bool {
        self.name.is_some()
            || !self.labels.is_empty()
            || self.max_duration.is_some()
            || self.idle_timeout.is_some()
    }

    /// What is to be entered for a sandbox like this.
    pub(in crate::cli) fn plan(
        self,
        policy: Policy,
        spec: SandboxSpec,
        command: Option<ExecRequest>,
    ) -> (Option<Name>, Plan) {
        let plan = Plan {
            labels: self.labels.into_iter().collect(),
            policy,
            spec,
            command,
            max_duration: self.max_duration,
            idle_timeout: self.idle_timeout,
            remove: self.rm,
        };
        (self.name, plan)
    }
}

impl ExecArgs {
    /// A flag that was given, if any was.
    fn said(&self) -> Option<&'static str> {
        let Self {
            interactive,
            tty,
            env,
            env_file,
            workdir,
            user,
            timeout,
            // It takes a timeout.
            kill_after: _,
            limits,
            pid_limit,
            max_output,
        } = self;
        let flags = [
            (*interactive, "--interactive"),
            (*tty, "--tty"),
            (!env.is_empty(), "--env"),
            (!env_file.is_empty(), "--env-file"),
            (workdir.is_some(), "--workdir"),
            (user.is_some(), "--user"),
            (timeout.is_some(), "--timeout"),
            (!limits.is_empty(), "--rlimit"),
            (pid_limit.is_some(), "--pid-limit"),
            (max_output.is_some(), "--max-output"),
        ];
        flags.iter().find(|(said, _)| *said).map(|(_, flag)| *flag)
    }
}

/// The making of a sandbox, as it is meant.
#[derive(Debug)]
pub(in crate::cli) struct CreatePlan {
    /// What it is called.
    pub(in crate::cli) name: Option<Name>,
    /// What is entered.
    pub(in crate::cli) plan: Plan,
}

impl CreatePlan {
    /// Finds out what is meant.
    ///
    /// # Errors
    ///
    /// If something is wrong with it.
    pub(in crate::cli) fn new(
        args: CreateArgs,
        terminal: TerminalSize,
    ) -> Result<Self, RunPlanError> {
        let CreateArgs {
            choice,
            sandbox,
            life,
            exec,
            command,
        } = args;
        let (policy, spec) = sandbox_plan(choice, sandbox)?;
        let command = match (command.is_empty(), exec.said()) {
            (true, Some(flag)) => return Err(RunPlanError::NoCommand { flag }),
            (true, None) => None,
            (false, _) => Some(request(exec, command, terminal)?),
        };
        let (name, plan) = life.plan(policy, spec, command);
        check_named_tier(&plan)?;
        Ok(Self { name, plan })
    }
}

/// Checks that the tier that is named, if one is, can be like this on some machine. What it can be on
/// this one, its start finds out.
fn check_named_tier(plan: &Plan) -> Result<(), RunPlanError> {
    let Some(tier) = plan.policy.tier else {
        return Ok(());
    };
    check_floor(tier, plan.policy.min_isolation).map_err(Box::new)?;
    let refusal = tier
        .refusal(&plan.spec, tier.strongest_isolation())
        .or_else(|| tier.refuses(plan.command.as_ref()?));
    refusal.map_or(Ok(()), |refusal| Err(refusal.into()))
}

/// A command for a running sandbox, as it is meant.
#[derive(Debug)]
pub(in crate::cli) struct ExecPlan {
    /// What it runs.
    pub(in crate::cli) request: ExecRequest,
    /// How the result is told.
    pub(in crate::cli) output: OutputPlan,
}

impl ExecPlan {
    /// Finds out what is meant.
    ///
    /// # Errors
    ///
    /// If something is wrong with it.
    pub(in crate::cli) fn new(
        exec: ExecArgs,
        command: Vec<OsString>,
        global: GlobalArgs,
        terminal: TerminalSize,
    ) -> Result<Self, RunPlanError> {
        let output = if global.json {
            let limit = exec.max_output.unwrap_or(DEFAULT_COLLECTED);
            OutputPlan::Json {
                limit: usize::try_from(limit).unwrap_or(usize::MAX),
            }
        } else {
            OutputPlan::Live
        };
        let mut request = request(exec, command, terminal)?;
        if global.json && request.max_output.is_none() {
            request.max_output = Some(DEFAULT_COLLECTED);
        }
        Ok(Self { request, output })
    }
}

/// How the result is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum OutputPlan {
    /// The command's output is passed on, live.
    Live,
    /// The command's output is collected, at most so many bytes of each stream, and told in JSON.
    Json {
        /// The most bytes of each stream.
        limit: usize,
    },
}

/// What cannot be meant.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum RunPlanError {
    /// What is said of all sandboxes makes no sense.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The environment cannot be made.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// No sandbox can be like this.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The tier that is named does not reach what is demanded.
    #[error(transparent)]
    Choose(#[from] Box<ChooseError>),
    /// The tier that is named cannot honour a flag.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// A disk for a sandbox of which nothing is kept.
    #[error(
        "--disk: nothing of a sandbox is kept that ends with its command; give it a name, or -d"
    )]
    DiskOfNobody,
    /// How a command runs, of a sandbox without one.
    #[error(
        "{flag}: it is about a command, and there is none; name one, or give the flag to \
         `sovereign exec`"
    )]
    NoCommand {
        /// What was said.
        flag: &'static str,
    },
    /// A variable that is no duration.
    #[error("{BOOT_TIMEOUT}={set:?}")]
    BootTimeout {
        /// What it is.
        set: OsString,
        /// What would be one.
        source: ValueError,
    },
    /// Two limits of one resource.
    #[error("--rlimit {0}: it is limited twice; say it once, as SOFT:HARD")]
    LimitedTwice(Resource),
    /// A folder that cannot be one.
    #[error("-w {0:?}: the folder must be an absolute path in the sandbox")]
    RelativeFolder(OsString),
}

impl RunPlan {
    /// Finds out what is meant.
    ///
    /// # Errors
    ///
    /// If something is wrong with it.
    pub(in crate::cli) fn new(
        args: RunArgs,
        global: GlobalArgs,
        terminal: TerminalSize,
    ) -> Result<Self, RunPlanError> {
        let RunArgs {
            choice,
            sandbox,
            life,
            exec,
            detach,
            trace_boot,
            command,
        } = args;
        let (policy, spec) = sandbox_plan(choice, sandbox)?;
        let ExecPlan { request, output } = ExecPlan::new(exec, command, global, terminal)?;
        let life = (detach || life.is_said()).then_some(Life {
            args: life,
            detached: detach,
        });
        if life.is_none() && spec.disk_mib.is_some() {
            return Err(RunPlanError::DiskOfNobody);
        }
        Ok(Self {
            policy,
            spec,
            request,
            output,
            trace: trace_boot,
            life,
        })
    }
}

fn sandbox_plan(
    choice: ChoiceArgs,
    sandbox: SandboxArgs,
) -> Result<(Policy, SandboxSpec), RunPlanError> {
    let config = ConfigFile::load().map_err(PlanError::from)?;
    let policy = Policy {
        tier: choice.tier.or(config.tier).and_then(TierWish::named),
        min_isolation: choice
            .min_isolation
            .max(config.min_isolation)
            .unwrap_or_default(),
        allow_local: consent(here(OsStr::new(ALLOW_LOCAL)))? || config.allow_local,
    };
    let boot_timeout = match sandbox.boot_timeout {
        Some(typed) => typed,
        None => boot_timeout(here(OsStr::new(BOOT_TIMEOUT)))?,
    };
    let spec = spec(choice, config.image, sandbox, boot_timeout);
    spec.check(memory_mib())?;
    Ok((policy, spec))
}

/// How long a start may take, by the environment. An empty variable says nothing.
fn boot_timeout(set: Option<OsString>) -> Result<Duration, RunPlanError> {
    let Some(set) = set.filter(|set| !set.is_empty()) else {
        return Ok(SandboxSpec::default().boot_timeout);
    };
    let parsed = parse_duration(&set.to_string_lossy());
    parsed.map_err(|source| RunPlanError::BootTimeout { set, source })
}

fn spec(
    choice: ChoiceArgs,
    default_image: Option<String>,
    sandbox: SandboxArgs,
    boot_timeout: Duration,
) -> SandboxSpec {
    let image = ImageChoice::default();
    SandboxSpec {
        image: ImageChoice {
            is_named: choice.image.is_some(),
            name: choice.image.or(default_image).unwrap_or(image.name),
            overrides: Overrides {
                kernel: choice.kernel,
                initramfs: choice.initramfs,
                rootfs: choice.rootfs,
            },
        },
        cpus: sandbox.cpus,
        memory_mib: sandbox.memory,
        hostname: sandbox.hostname,
        overlay_mib: sandbox.overlay_size,
        disk_mib: sandbox.disk,
        network: sandbox.network,
        processes: sandbox.pids_limit,
        boot_timeout,
    }
}

fn request(
    exec: ExecArgs,
    command: Vec<OsString>,
    terminal: TerminalSize,
) -> Result<ExecRequest, RunPlanError> {
    let mut env = environment::collect(&exec.env_file, &exec.env, here)?;
    if exec.tty
        && !env.iter().any(|(name, _)| name.as_ref() == b"TERM")
        && let Some(term) = here(OsStr::new("TERM"))
    {
        env.push((ByteBuf::from("TERM"), bytes(term)));
    }
    if let Some(folder) = exec
        .workdir
        .as_ref()
        .filter(|dir| !dir.as_bytes().starts_with(b"/"))
    {
        return Err(RunPlanError::RelativeFolder(folder.clone()));
    }
    let mut limited = BTreeSet::new();
    if let Some(twice) = exec
        .limits
        .iter()
        .find(|limit| !limited.insert(limit.resource.name()))
    {
        return Err(RunPlanError::LimitedTwice(twice.resource));
    }
    Ok(ExecRequest {
        argv: command.into_iter().map(bytes).collect(),
        env,
        cwd: exec.workdir.map(bytes),
        user: exec.user,
        stdin: exec.interactive,
        tty: exec.tty.then_some(terminal),
        timeout: exec.timeout,
        kill_after: exec.kill_after,
        max_output: exec.max_output,
        limits: exec.limits,
        processes: exec.pid_limit,
    })
}

fn bytes(text: OsString) -> ByteBuf {
    ByteBuf::from(text.into_vec())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command};
    use crate::error::{ErrorKind, Problem};
    use crate::spec::Network;
    use crate::tier::{Isolation, Tier};

    const SIZE: TerminalSize = TerminalSize {
        rows: 24,
        columns: 80,
    };

    fn plan(words: &[&str]) -> Result<RunPlan, RunPlanError> {
        let cli = Cli::parse_from(["sovereign", "run"].iter().chain(words));
        let Command::Run(run) = cli.command else {
            panic!("not run")
        };
        RunPlan::new(*run, cli.global, SIZE)
    }

    #[test]
    fn the_defaults_are_modest() {
        let plan = plan(&["--", "true"]).unwrap();
        assert_eq!((plan.spec.cpus, plan.spec.memory_mib), (None, None));
        assert_eq!((plan.spec.cpus(), plan.spec.memory_mib()), (1, 512));
        assert_eq!(plan.policy.min_isolation, Isolation::None);
        assert_eq!(plan.output, OutputPlan::Live);
        assert_eq!(plan.request, ExecRequest::new(["true"]));
    }

    #[test]
    fn flags_reach_what_they_are_about() {
        let plan = plan(&[
            "--tier=microvm",
            "--min-isolation=vm",
            "--cpus=2",
            "-m=256M",
            "--overlay-size=64M",
            "--network=bridge",
            "--pids-limit=99",
            "-i",
            "-t",
            "-e=A=1",
            "-w=/tmp",
            "-u=root",
            "--timeout=3s",
            "--kill-after=1s",
            "--",
            "sh",
            "-c",
            "x",
        ])
        .unwrap();
        assert_eq!(plan.policy.tier, Some(Tier::Microvm));
        assert_eq!(plan.policy.min_isolation, Isolation::Vm);
        assert_eq!((plan.spec.cpus(), plan.spec.memory_mib()), (2, 256));
        assert_eq!(plan.spec.overlay_mib, Some(64));
        assert_eq!(plan.spec.network, Some(Network::Bridge));
        assert_eq!(plan.spec.processes, Some(99));
        assert!(plan.request.stdin);
        assert_eq!(plan.request.tty, Some(SIZE));
        assert!(
            plan.request
                .env
                .contains(&(ByteBuf::from("A"), ByteBuf::from("1")))
        );
        assert_eq!(plan.request.cwd, Some(ByteBuf::from("/tmp")));
        assert_eq!(plan.request.user.as_deref(), Some("root"));
        assert_eq!(plan.request.timeout.map(|t| t.as_secs()), Some(3));
        assert_eq!(plan.request.argv.len(), 3);
    }

    #[test]
    fn json_collects_a_bounded_amount() {
        let plan_of = |words: &[&str]| {
            let plan = plan(words).unwrap();
            (plan.output, plan.request.max_output)
        };
        let default = OutputPlan::Json { limit: 1 << 20 };
        assert_eq!(plan_of(&["--json", "--", "true"]), (default, Some(1 << 20)));
        let small = OutputPlan::Json { limit: 1024 };
        assert_eq!(
            plan_of(&["--json", "--max-output=1K", "--", "true"]),
            (small, Some(1024))
        );
        assert_eq!(plan_of(&["--", "true"]), (OutputPlan::Live, None));
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_starts() {
        assert!(matches!(
            plan(&["-w", "tmp", "--", "true"]),
            Err(RunPlanError::RelativeFolder(_))
        ));
        assert!(matches!(
            plan(&["--hostname=a b", "--", "true"]),
            Err(RunPlanError::Spec(_))
        ));
        assert!(matches!(
            plan(&["--disk=64M", "--", "true"]),
            Err(RunPlanError::DiskOfNobody)
        ));
        let kept = plan(&["--disk=64M", "--name=a", "--", "true"]).unwrap();
        assert_eq!(kept.spec.disk_mib, Some(64));
        assert!(matches!(
            plan(&["-m=900000G", "--", "true"]),
            Err(RunPlanError::Spec(_))
        ));
    }

    #[test]
    fn what_is_made_for_a_named_tier_is_what_that_can_be() {
        let create = |words: &[&str]| {
            let cli = Cli::parse_from(["sovereign", "create"].iter().chain(words));
            let Command::Create(args) = cli.command else {
                panic!("not create")
            };
            let told = |error| Problem::from(error);
            CreatePlan::new(*args, SIZE).map(|_| ()).map_err(told)
        };
        for words in [
            ["--tier=local", "-m=512M"],
            ["--tier=local", "--cpus=1"],
            ["--tier=local", "--image=foo"],
            ["--tier=docker", "--disk=1G"],
            ["--tier=docker", "--kernel=x"],
            ["--tier=docker", "-u=root"],
            ["--tier=local", "--pid-limit=9"],
        ] {
            let words = [words.as_slice(), &["--", "true"]].concat();
            let problem = create(&words).unwrap_err();
            assert_eq!(problem.code, ErrorKind::UnsupportedFlag, "{words:?}");
            assert!(
                problem.hint.is_some() && problem.tier.is_some(),
                "{words:?}"
            );
        }
        let below = create(&["--tier=docker", "--min-isolation=vm"]).unwrap_err();
        assert_eq!(below.code, ErrorKind::BelowMinIsolation);
        for words in [["--tier=microvm", "-m=512M"], ["--cpus=1", "--disk=1G"]] {
            create(&words).unwrap();
        }
    }

    #[test]
    fn how_a_command_runs_is_said_of_one() {
        let flags: [&[&str]; 10] = [
            &["-i"],
            &["-t"],
            &["-e=A=B"],
            &["--env-file=x"],
            &["-w=/tmp"],
            &["-u=1000"],
            &["--timeout=1s", "--kill-after=1s"],
            &["--rlimit=nofile=9"],
            &["--pid-limit=9"],
            &["--max-output=1K"],
        ];
        let create = |words: &[&str]| {
            let cli = Cli::parse_from(["sovereign", "create"].iter().chain(words));
            let Command::Create(args) = cli.command else {
                panic!("not create")
            };
            CreatePlan::new(*args, SIZE)
        };
        create(&[]).unwrap();
        for words in flags {
            let error = create(words).unwrap_err();
            assert!(matches!(error, RunPlanError::NoCommand { .. }), "{error}");
            assert!(error.to_string().contains("sovereign exec"), "{error}");
        }
        create(&["-t", "-e=A=B", "--", "true"]).unwrap();
    }

    #[test]
    fn a_limit_is_set_once() {
        let twice = ["--rlimit=nofile=1", "--rlimit=nofile=2", "--", "true"];
        let error = plan(&twice).unwrap_err().to_string();
        assert!(
            error.contains("nofile") && error.contains("twice"),
            "{error}"
        );
        plan(&["--rlimit=nofile=1", "--rlimit=cpu=2", "--", "true"]).unwrap();
    }

    #[test]
    fn an_empty_variable_says_nothing_of_the_start() {
        let set = |value: &str| boot_timeout(Some(OsString::from(value)));
        assert_eq!(boot_timeout(None).unwrap().as_secs(), 30);
        assert_eq!(set("").unwrap().as_secs(), 30);
        assert_eq!(set("2m").unwrap().as_secs(), 120);
        let error = set("soon").unwrap_err().to_string();
        assert_eq!(error, "SOVEREIGN_BOOT_TIMEOUT=\"soon\"");
    }
}
