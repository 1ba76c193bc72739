//! The tiers that share this machine's kernel, beside what people would use instead: a bare process,
//! and Docker's own commands.
//!
//! Wall times; only their ratios mean anything, and they are taken in one run, by turns, so that what
//! else the machine does falls on both.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use sovereign::{Engine, Launch, Policy, SandboxSpec, Tier, Timeline};
use sovereign_tests::call::Sovereign;

use crate::inside::{crowds, machine, median, milliseconds, once};
use crate::results::Results;
use crate::{MeasureArgs, crowd, docker_cp, stopwatch};

/// What the figures have to be.
const CONFINED_MS: f64 = 10.0;
const UNCONFINED_MS: f64 = 3.0;
const EXEC_RATIO: f64 = 1.0 / 20.0;
const START_RATIO: f64 = 1.0;

/// The largest file that is copied into the local tier.
const LOCAL_MIB: u32 = 128;

/// The image that our containers are made of, by the name that Docker knows it by.
const IMAGE: &str = "terminai-sandbox:latest";
const TRUE: &str = "/bin/true";

/// Has the rest of the line run where no more user namespaces can be made, and so no confinement.
const UNCONFINED: &[&str] = &[
    "--user",
    "--map-root-user",
    "sh",
    "-c",
    "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"",
    "unconfined",
];

/// Measures the local tier as it is here and unconfined, and the tier `docker`.
///
/// # Errors
///
/// If there is nothing to measure with. What cannot be measured is noted with its reason.
pub(crate) fn measure(args: &MeasureArgs) -> Result<Results> {
    let mut results = local(args)?;
    match unconfined(args) {
        Ok(more) => results.figures.extend(more.figures),
        Err(error) => results.skip("local tier, unconfined", format!("{error:#}")),
    }
    if let Err(error) = crowd_and_copies(&mut results, args) {
        results.skip("local tier: side by side, and copies", format!("{error:#}"));
    }
    if let Err(error) = docker(&mut results, args) {
        results.skip("docker tier", format!("{error:#}"));
    }
    Ok(results)
}

/// Measures the copies of the tier `docker` alone.
///
/// # Errors
///
/// If there is no Docker daemon, or a copy fails.
pub(crate) fn copies(args: &MeasureArgs) -> Result<Results> {
    let mut results = Results {
        clock: "wall".to_owned(),
        machine: machine(),
        ..Results::default()
    };
    // This has the daemon load the image, which the peer is made of.
    let run = ["run", "-q", "--tier", "docker", "--", TRUE];
    Sovereign::find()?.call(run).output()?;
    let peer = Peer::start()?;
    docker_cp::measure(&mut results, "docker", args.file_mib, Some(&peer))?;
    Ok(results)
}

/// Measures the local tier, with the confinement that it reaches where this process is.
///
/// # Errors
///
/// If it cannot be had at all.
pub(crate) fn local(args: &MeasureArgs) -> Result<Results> {
    let sovereign = Sovereign::find()?;
    let run = ["run", "--tier", "local"];
    let report = sovereign.call(run.iter().chain(&["--json", "--", TRUE]));
    let report = report.output()?.json()?;
    let level = report["isolation"].as_str().context("no tier local")?;
    let (level, limit) = match level {
        "none" => ("unconfined", UNCONFINED_MS),
        _ => ("confined", CONFINED_MS),
    };
    let mut ours = Command::new(sovereign.program());
    ours.args(run).args(["-q", "--", TRUE]);
    let mut bare = Command::new(TRUE);
    let (ours, bare) = by_turns(
        args.runs,
        || to_the_end(&mut ours),
        || to_the_end(&mut bare),
    )?;
    let floor = median(&bare);
    let more = ours.iter().map(|took| took - floor).collect();
    let mut results = Results {
        clock: "wall".to_owned(),
        machine: machine(),
        ..Results::default()
    };
    results.add(
        &format!("bare fork and exec of {TRUE} ({level})"),
        "ms",
        bare,
        None,
    );
    results.add(
        &format!("local tier, {level}: more than that"),
        "ms",
        more,
        Some(limit),
    );
    Ok(results)
}

/// The same where nothing can be confined.
fn unconfined(args: &MeasureArgs) -> Result<Results> {
    let dir = tempfile::tempdir().context("cannot make a folder")?;
    let json = dir.path().join("results.json");
    let output = Command::new("unshare")
        .args(UNCONFINED)
        .arg(std::env::current_exe()?)
        .args(["local", "--runs", &args.runs.to_string(), "--json"])
        .arg(&json)
        .output()
        .context("cannot start unshare")?;
    ensure!(
        output.status.success(),
        "no user namespace can be made in which there can be no more of them: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    crate::outside::read(&json)
}

/// The local tier's commands side by side, and its copies.
fn crowd_and_copies(results: &mut Results, args: &MeasureArgs) -> Result<()> {
    let spec = SandboxSpec::default();
    let policy = Policy {
        tier: Some(Tier::Local),
        ..Policy::default()
    };
    let launch = Launch::new(&spec);
    let (mut sandbox, _) = Engine::new().start(&policy, launch, &mut Timeline::default())?;
    crowds(results, "local", &mut sandbox)?;
    drop(sandbox);
    // Its folders are bounded, whatever the memory is.
    let mib = args.file_mib.min(LOCAL_MIB);
    docker_cp::measure(results, "local", mib, None)
}

fn docker(results: &mut Results, args: &MeasureArgs) -> Result<()> {
    let runs = args.runs;
    let version = Command::new("docker").arg("version").output();
    let version = version.context("there is no docker command to compare with")?;
    ensure!(
        version.status.success(),
        "no Docker daemon answers: {}",
        String::from_utf8_lossy(&version.stderr).trim()
    );
    let spec = SandboxSpec::default();
    let policy = Policy {
        tier: Some(Tier::Docker),
        ..Policy::default()
    };
    // This also has the daemon load the image.
    let launch = Launch::new(&spec);
    let (mut sandbox, _) = Engine::new().start(&policy, launch, &mut Timeline::default())?;
    let peer = Peer::start()?;
    let mut exec = Command::new("docker");
    exec.args(["exec", &peer.id, TRUE]);
    let (ours, theirs) = by_turns(runs, || once(&mut sandbox), || to_the_end(&mut exec))?;
    crowds(results, "docker", &mut sandbox)?;
    for width in [1, 10] {
        let once = || {
            let mut exec = Command::new("docker");
            to_the_end(exec.args(["exec", &peer.id, TRUE]))
        };
        let name = format!("docker exec of {TRUE}, {width} side by side");
        results.add(&name, "ms", crowd::side_by_side(width, &once)?, None);
    }
    drop(sandbox);
    if let Err(error) = docker_cp::measure(results, "docker", args.file_mib, Some(&peer)) {
        results.skip("docker tier: copies", format!("{error:#}"));
    }
    drop(peer);
    let ratio = median(&ours) / median(&theirs);
    results.add("docker tier: exec in a running sandbox", "ms", ours, None);
    results.add("docker exec of the same", "ms", theirs, None);
    results.add(
        "ours / docker exec's",
        "ratio",
        vec![ratio],
        Some(EXEC_RATIO),
    );

    let sovereign = Sovereign::find()?;
    let mut run = Command::new(sovereign.program());
    run.args(["run", "-q", "--tier", "docker", "--", "echo", "x"]);
    let mut docker = Command::new("docker");
    docker.args(["run", "--rm", "--network", "none", IMAGE, "echo", "x"]);
    let (ours, theirs) = by_turns(
        runs,
        || to_first_byte(&mut run),
        || to_first_byte(&mut docker),
    )?;
    let ratio = median(&ours) / median(&theirs);
    results.add("docker tier: run, start to first output", "ms", ours, None);
    results.add("docker run of the same image", "ms", theirs, None);
    results.add(
        "ours / docker run's",
        "ratio",
        vec![ratio],
        Some(START_RATIO),
    );
    Ok(())
}

/// A container of our image that was started by Docker's own command. Dropped, it is gone.
pub(crate) struct Peer {
    id: String,
}

impl Peer {
    fn start() -> Result<Self> {
        let output = Command::new("docker")
            .args([
                "run",
                "-d",
                "--rm",
                "--network",
                "none",
                IMAGE,
                "sleep",
                "1000",
            ])
            .output()?;
        ensure!(
            output.status.success(),
            "docker run failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(Self { id })
    }

    /// A path in it, as `docker cp` wants it.
    pub(crate) fn path(&self, path: &str) -> String {
        format!("{}:{path}", self.id)
    }

    /// Runs a command in it, as root.
    pub(crate) fn run<const N: usize>(&self, argv: [&str; N]) -> Result<()> {
        let mut exec = Command::new("docker");
        exec.args(["exec", "--user", "root", &self.id]).args(argv);
        to_the_end(&mut exec).map(drop)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let mut remove = Command::new("docker");
        remove.args(["rm", "-f", &self.id]).stdout(Stdio::null());
        let _ = remove.status();
    }
}

/// Both measurements, one after the other each time, after each was made once for nothing.
fn by_turns(
    runs: u32,
    mut ours: impl FnMut() -> Result<f64>,
    mut theirs: impl FnMut() -> Result<f64>,
) -> Result<(Vec<f64>, Vec<f64>)> {
    ours()?;
    theirs()?;
    let mut both = (Vec::new(), Vec::new());
    for _ in 0..runs {
        both.0.push(ours()?);
        both.1.push(theirs()?);
    }
    Ok(both)
}

fn to_the_end(command: &mut Command) -> Result<f64> {
    let (took, status) = stopwatch::time(command.stdout(Stdio::null()))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(milliseconds(took))
}

fn to_first_byte(command: &mut Command) -> Result<f64> {
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let mut stdout = child.stdout.take().context("no standard output")?;
    let first = stdout.read_exact(&mut [0]);
    let took = started.elapsed();
    let status = child.wait().context("cannot wait")?;
    ensure!(
        first.is_ok() && status.success(),
        "{command:?} ended with {status}"
    );
    Ok(milliseconds(took))
}

/// What has a process of this program measure the tiers.
pub(crate) fn arguments(args: &MeasureArgs, json: &Path) -> Vec<String> {
    let runs = args.runs.to_string();
    let json = json.display().to_string();
    let mib = args.file_mib.to_string();
    [
        "tiers",
        "--runs",
        &runs,
        "--file-mib",
        &mib,
        "--json",
        &json,
    ]
    .map(str::to_owned)
    .into()
}
