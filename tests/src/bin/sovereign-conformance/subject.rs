//! The tier under test, and sandboxes of it.

use std::cell::{OnceCell, RefCell};
use std::fs;
use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use sovereign::error::Problem;
use sovereign::{
    AgentError, Child, ClientError, Engine, Exec, ExecError, ExecRequest, Launch, Policy, Sandbox,
    SandboxSpec, StartError, Tier, Timeline,
};

use crate::desk::Desk;
use crate::ended::Ended;
use crate::facts::{Facts, Need, lack};

/// How long a command may take, unless it says otherwise.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a sandbox may take to start where many share a slow machine.
const BOOT_PATIENCE: Duration = Duration::from_secs(120);
/// The most output that is kept.
const LIMIT: usize = 8 << 20;

/// A tier of this machine.
pub(crate) struct Subject {
    pub(crate) facts: Facts,
    /// The sandbox that cases share; made anew when one has lost it.
    shared: RefCell<Option<Sandbox>>,
    desk: OnceCell<Desk>,
    python: OnceCell<bool>,
    apts: OnceCell<bool>,
}

impl Subject {
    /// Starts the first sandbox.
    ///
    /// # Errors
    ///
    /// If the tier cannot be had here.
    pub(crate) fn new(tier: Tier) -> Result<Self> {
        let sandbox = start(tier, &default_spec())?;
        Ok(Self {
            facts: Facts {
                tier,
                isolation: sandbox.choice().isolation,
                as_root: rustix::process::geteuid().is_root(),
            },
            shared: RefCell::new(Some(sandbox)),
            desk: OnceCell::new(),
            python: OnceCell::new(),
            apts: OnceCell::new(),
        })
    }

    /// Why a case with this need is not for this tier, if it is not.
    pub(crate) fn lacks(&self, need: Need) -> Option<String> {
        let can = |cell: &OnceCell<bool>, argv: [&str; 3]| {
            *cell.get_or_init(|| self.run(argv).is_ok_and(|ended| ended.code() == 0))
        };
        match need {
            Need::Python if !can(&self.python, ["python3", "-c", "import ctypes, socket"]) => {
                Some("there is no python3 in its sandboxes".to_owned())
            }
            Need::Apts if !can(&self.apts, ["python3", "-c", "import terminai_apts"]) => {
                Some("the package terminai_apts is not in its sandboxes".to_owned())
            }
            need => lack(self.facts, need).map(str::to_owned),
        }
    }

    /// Its detached sandboxes.
    pub(crate) fn desk(&self) -> Result<&Desk> {
        if self.desk.get().is_none() {
            let made = Desk::new(self.facts.tier)?;
            return Ok(self.desk.get_or_init(|| made));
        }
        self.desk.get().context("no registry")
    }

    /// What became of the sandboxes that cases share, if one has ended under a case that failed.
    pub(crate) fn last_words(&self) -> Option<String> {
        let mut words = self.desk.get().and_then(Desk::last_words);
        let mut shared = self.shared.borrow_mut();
        if let Some(Err(error @ ExecError::Ended { .. })) = shared
            .as_mut()
            .map(|sandbox| sandbox.exec(request(["true"])))
        {
            let problem = Problem::from(&error);
            words = Some(format!(
                "{}\n{}",
                problem.message,
                problem.console.join("\n")
            ));
            *shared = None;
        }
        words
    }

    /// The name that a user types.
    pub(crate) const fn tier_name(&self) -> &'static str {
        self.facts.tier.name()
    }

    /// A sandbox of its own.
    pub(crate) fn start(&self, change: impl FnOnce(&mut SandboxSpec)) -> Result<Own> {
        let mut spec = default_spec();
        change(&mut spec);
        let sandbox = RefCell::new(start(self.facts.tier, &spec)?);
        Ok(Own { sandbox })
    }

    /// How a start ends that this tier must refuse.
    pub(crate) fn refuses(&self, change: impl FnOnce(&mut SandboxSpec)) -> Result<StartError> {
        let mut spec = default_spec();
        change(&mut spec);
        let started = Engine::new().start(
            &policy(self.facts.tier),
            Launch::new(&spec),
            &mut Timeline::default(),
        );
        match started {
            Ok(_) => bail!("a sandbox was started as if it could be like {spec:?}"),
            Err(error) => Ok(error),
        }
    }
}

/// A sandbox that runs commands.
pub(crate) trait Runs {
    /// Asks for a command.
    fn exec(&self, request: ExecRequest) -> Result<Exec, ExecError>;

    /// Runs a command to its end.
    fn output(&self, request: ExecRequest, input: &[u8]) -> Result<Ended> {
        let began = Instant::now();
        let output = self
            .exec(request)?
            .output(input, LIMIT)
            .context("a command without a result")?;
        Ok(Ended::new(output, began.elapsed()))
    }

    /// Runs a program with arguments to its end.
    fn run<I>(&self, argv: I) -> Result<Ended>
    where
        I: IntoIterator,
        I::Item: Into<Vec<u8>>,
    {
        self.output(request(argv), b"")
    }

    /// Runs a shell script to its end.
    fn sh(&self, script: &str) -> Result<Ended> {
        self.run(["sh", "-c", script])
    }

    /// Runs a Python program to its end.
    fn python(&self, program: &str) -> Result<Ended> {
        self.run(["python3", "-c", program])
    }

    /// Starts a shell script with input and output at hand.
    fn spawn(&self, script: &str) -> Result<Child> {
        let request = ExecRequest {
            stdin: true,
            ..sh(script)
        };
        Ok(self.exec(request)?.spawn()?)
    }

    /// What the agent says of a request that it must refuse.
    fn refusal(&self, request: ExecRequest) -> Result<AgentError> {
        let shown = format!("{request:?}");
        let shown = shown.get(..1000).unwrap_or(&shown);
        match self.exec(request)?.output(b"", LIMIT) {
            Err(ClientError::Refused(refusal)) => Ok(refusal),
            Err(error) => Err(anyhow!(error)).context("no refusal"),
            Ok(output) => bail!("not refused: {shown}: {:?}", output.report),
        }
    }
}

impl Runs for Subject {
    fn exec(&self, request: ExecRequest) -> Result<Exec, ExecError> {
        let mut shared = self.shared.borrow_mut();
        if let Some(sandbox) = shared.as_mut() {
            let exec = sandbox.exec(request);
            if matches!(exec, Err(ExecError::Ended { .. })) {
                *shared = None;
            }
            return exec;
        }
        let fresh = start(self.facts.tier, &default_spec()).map_err(|error| {
            let source = std::io::Error::other(format!("{error:#}"));
            let doing = "starting a sandbox in the place of one that is gone";
            ExecError::Client(ClientError::Io { doing, source })
        })?;
        shared.insert(fresh).exec(request)
    }
}

/// A sandbox of one case.
pub(crate) struct Own {
    sandbox: RefCell<Sandbox>,
}

impl Runs for Own {
    fn exec(&self, request: ExecRequest) -> Result<Exec, ExecError> {
        self.sandbox.borrow_mut().exec(request)
    }
}

pub(crate) fn policy(tier: Tier) -> Policy {
    Policy {
        tier: Some(tier),
        ..Policy::default()
    }
}

pub(crate) fn default_spec() -> SandboxSpec {
    SandboxSpec {
        boot_timeout: BOOT_PATIENCE,
        ..SandboxSpec::default()
    }
}

fn start(tier: Tier, spec: &SandboxSpec) -> Result<Sandbox> {
    let timeline = &mut Timeline::default();
    let (sandbox, _) = Engine::new().start(&policy(tier), Launch::new(spec), timeline)?;
    Ok(sandbox)
}

/// A request to run this, with a time limit.
pub(crate) fn request<I>(argv: I) -> ExecRequest
where
    I: IntoIterator,
    I::Item: Into<Vec<u8>>,
{
    ExecRequest {
        timeout: Some(PATIENCE),
        ..ExecRequest::new(argv)
    }
}

/// A request to run a shell script, with a time limit.
pub(crate) fn sh(script: &str) -> ExecRequest {
    request(["sh", "-c", script])
}

/// The same, as this user.
pub(crate) fn sh_as(user: &str, script: &str) -> ExecRequest {
    ExecRequest {
        user: Some(user.to_owned()),
        ..sh(script)
    }
}

/// Takes one of a child's ends.
pub(crate) fn take<T>(end: &mut Option<T>) -> Result<T> {
    end.take().context("that end was taken already")
}

/// Reads a line, with the line feed.
pub(crate) fn read_line(reader: &mut impl Read) -> Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') {
        if reader.read(&mut byte)? == 0 {
            break;
        }
        line.extend(byte);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// The processes of this machine with this command line, arguments with a NUL behind each.
pub(crate) fn with_command_line(line: &[u8]) -> Result<Vec<u32>> {
    let processes = sovereign_tests::host::processes()?.into_iter();
    Ok(processes
        .map(|process| process.pid)
        .filter(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|found| found == line))
        .collect())
}

/// Waits until something holds.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    // An engine in an emulated machine has been seen to take twenty to remove what it has.
    const WITHIN: Duration = Duration::from_secs(60);
    let end = Instant::now() + WITHIN;
    while !holds()? {
        if Instant::now() > end {
            bail!("after {} s still not: {what}", WITHIN.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
