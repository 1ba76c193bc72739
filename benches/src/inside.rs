//! The measurements, on this very machine and by its own clock.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use sandbox_image::DEFAULT_IMAGE;
use sovereign::{Engine, Launch, Policy, Sandbox, SandboxSpec, Timeline};
use sovereign_tests::call::{Sovereign, read_exactly};
use sovereign_tests::host::{private_kib, vmm_of};

use crate::results::Results;
use crate::{MeasureArgs, copies, crowd, firecracker, stopwatch};

/// The guest of every measurement.
const MEMORY_MIB: u32 = 128;
const RUN: &[&str] = &["run", "-q", "--cpus", "1", "-m", "128M"];

/// What the figures have to be.
const START_MS: f64 = 45.0;
const RATIO: f64 = 0.6;
const PRIVATE_KIB: f64 = 4096.0;

/// The set variable tells that milliseconds are virtual: the lab says so.
pub(crate) const COUNTED: &str = "SOVEREIGN_BENCH_COUNTED";

/// Measures everything.
///
/// # Errors
///
/// If no sandbox can be run here at all. What else cannot be measured is noted with its reason.
pub(crate) fn measure(args: &MeasureArgs) -> Result<Results> {
    let sovereign = Sovereign::find()?;
    let (mut results, counted) = by_the_clock();
    say("starts");
    let start = start_to_exit(&sovereign, args.runs)?;
    let ours = median(&start);
    // Only counted instructions are the same on every machine.
    results.add(
        "sovereign run -- /bin/true, start to exit",
        "ms",
        start,
        counted.then_some(START_MS),
    );
    peer(&mut results, args, ours, counted);
    say("memory");
    let memory = private_memory(&sovereign)?;
    results.add(
        "the VMM's own private memory",
        "KiB",
        vec![memory],
        Some(PRIVATE_KIB),
    );
    say("commands");
    if let Err(error) = exec_round_trips(&mut results, args.runs) {
        results.skip("exec round trip", format!("{error:#}"));
    }
    say("throughput");
    match throughput(&sovereign, args.stream_mib) {
        Ok(rate) => results.add(
            "standard input to output, through cat",
            "MiB/s",
            vec![rate],
            None,
        ),
        Err(error) => results.skip("throughput", format!("{error:#}")),
    }
    copy(&mut results, args, counted);
    results.timeline = timeline(&sovereign)?;
    Ok(results)
}

/// Measures how files go into a guest and out of it.
///
/// # Errors
///
/// If no sandbox can be run here at all.
pub(crate) fn copies(args: &MeasureArgs) -> Result<Results> {
    let (mut results, counted) = by_the_clock();
    copy(&mut results, args, counted);
    Ok(results)
}

fn copy(results: &mut Results, args: &MeasureArgs, counted: bool) {
    say("copies");
    if let Err(error) = copies::measure(results, counted, args) {
        results.skip("copies", format!("{error:#}"));
    }
}

/// Tells what is done next: in the lab, each takes a while.
fn say(what: &str) {
    eprintln!("measuring {what}");
}

/// Results without any figures yet, and whether their milliseconds are counted instructions.
fn by_the_clock() -> (Results, bool) {
    let counted = std::env::var_os(COUNTED).is_some();
    let results = Results {
        clock: if counted { "virtual" } else { "wall" }.to_owned(),
        machine: machine(),
        ..Results::default()
    };
    (results, counted)
}

fn start_to_exit(sovereign: &Sovereign, runs: u32) -> Result<Vec<f64>> {
    let once = || {
        let mut command = Command::new(sovereign.program());
        command
            .args(RUN)
            .args(["--", "/bin/true"])
            .stdout(Stdio::null());
        let (took, status) = stopwatch::time(&mut command)?;
        ensure!(status.success(), "{command:?} ended with {status}");
        Ok(milliseconds(took))
    };
    once()?; // The first also verifies the image and fills the page cache.
    (0..runs).map(|_| once()).collect()
}

/// Measures Firecracker, if there is one, and compares.
fn peer(results: &mut Results, args: &MeasureArgs, ours: f64, counted: bool) {
    const NAME: &str = "Firecracker, same kernel and image: boot and power-off";
    let Some(program) = &args.firecracker else {
        results.skip(NAME, "no Firecracker was named (--firecracker PATH)");
        return;
    };
    say("Firecracker's starts");
    match firecracker_times(program, args.runs) {
        Ok(times) => {
            let theirs = median(&times);
            results.add(NAME, "ms", times, None);
            let limit = counted.then_some(RATIO);
            results.add("ours / Firecracker's", "ratio", vec![ours / theirs], limit);
        }
        Err(error) => results.skip(NAME, format!("{error:#}")),
    }
}

fn firecracker_times(program: &Path, runs: u32) -> Result<Vec<f64>> {
    let image = sandbox_image::Store::open_default()?.find(DEFAULT_IMAGE)?;
    firecracker::boot_and_power_off(program, &image)?;
    let once = || {
        Ok(milliseconds(firecracker::boot_and_power_off(
            program, &image,
        )?))
    };
    (0..runs).map(|_| once()).collect()
}

fn private_memory(sovereign: &Sovereign) -> Result<f64> {
    let script = "echo up; sleep 1000";
    let mut running = sovereign
        .call(RUN.iter().chain(&["--", "sh", "-c", script]))
        .start()?;
    let mut stdout = running.take_stdout()?;
    ensure!(read_exactly(&mut stdout, 3)? == b"up\n");
    let vmm = vmm_of(running.pid(), Duration::from_secs(5))?;
    let kib = private_kib(vmm, u64::from(MEMORY_MIB) * 1024)?;
    Ok(f64::from(u32::try_from(kib).unwrap_or(u32::MAX)))
}

/// Times `/bin/true` in one sandbox that is up already, by the engine as a library.
fn exec_round_trips(results: &mut Results, runs: u32) -> Result<()> {
    let spec = SandboxSpec {
        memory_mib: Some(MEMORY_MIB),
        ..SandboxSpec::default()
    };
    let policy = Policy::default();
    let launch = Launch::new(&spec);
    let (mut sandbox, _) = Engine::new().start(&policy, launch, &mut Timeline::default())?;
    once(&mut sandbox)?;
    let times: Result<_> = (0..runs).map(|_| once(&mut sandbox)).collect();
    results.add("exec of /bin/true in a running sandbox", "ms", times?, None);
    crowds(results, "microvm", &mut sandbox)
}

/// Adds the round trips of commands side by side.
pub(crate) fn crowds(results: &mut Results, tier: &str, sandbox: &mut Sandbox) -> Result<()> {
    for width in crowd::WIDTHS {
        let times = crowd::in_sandbox(sandbox, width)?;
        let name = format!("{tier} tier: exec of /bin/true, {width} side by side");
        results.add(&name, "ms", times, None);
    }
    Ok(())
}

pub(crate) fn once(sandbox: &mut Sandbox) -> Result<f64> {
    let started = Instant::now();
    let output = sandbox.output(crowd::true_request(), &[], 1024)?;
    let took = started.elapsed();
    ensure!(
        output.report.code == Some(0),
        "/bin/true ended with {:?}",
        output.report
    );
    Ok(milliseconds(took))
}

fn throughput(sovereign: &Sovereign, mib: u32) -> Result<f64> {
    let mut running = sovereign
        .call(RUN.iter().chain(&["-i", "--", "cat"]))
        .start()?;
    let mut stdin = running.take_stdin()?;
    let mut stdout = running.take_stdout()?;
    let block = vec![0x5a; 1 << 20];
    // The first byte back says that the sandbox is up: what comes after is measured.
    stdin.write_all(b"x")?;
    ensure!(read_exactly(&mut stdout, 1)? == b"x");
    let started = Instant::now();
    let writer = thread::spawn(move || (0..mib).try_for_each(|_| stdin.write_all(&block)));
    let mut buffer = vec![0; 1 << 18];
    let mut left = u64::from(mib) << 20;
    while left > 0 {
        let count = stdout.read(&mut buffer)?;
        if count == 0 {
            bail!("the stream ended {left} bytes early");
        }
        left = left.saturating_sub(u64::try_from(count)?);
    }
    let seconds = started.elapsed().as_secs_f64();
    writer
        .join()
        .map_err(|_| anyhow!("the writer panicked"))??;
    Ok(f64::from(mib) / seconds)
}

/// Returns the steps that `--trace-boot` tells.
fn timeline(sovereign: &Sovereign) -> Result<serde_json::Value> {
    let call = sovereign.call(
        RUN.iter()
            .chain(&["--trace-boot", "--json", "--", "/bin/true"]),
    );
    let mut report = call.output()?.json()?;
    Ok(report["timeline"].take())
}

pub(crate) fn median(values: &[f64]) -> f64 {
    crate::samples::Samples::new(values.to_vec()).median()
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// What the machine says it is.
pub(crate) fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{}, Linux {}",
        model.map_or("unknown CPU", |(_, name)| name),
        kernel.trim()
    )
}
