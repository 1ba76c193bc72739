//! Sandboxes one after the other, side by side, interrupted and killed: nothing is left behind.

use std::env;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use sovereign_tests::call::{Running, Sovereign, read_exactly};
use sovereign_tests::host::{Leftovers, is_running, kib_field, vmm_of};

use crate::suite::{Outcome, PASSED, Suite};

/// How soon after its owner's death a machine must be gone.
const GONE_WITHIN: Duration = Duration::from_secs(1);

pub(crate) fn add(suite: &mut Suite) {
    suite.guest(
        "lifecycle",
        &[
            (
                "killed_owner_takes_the_machine_along",
                killed_owner_takes_the_machine_along,
            ),
            ("killed_vmm_is_told", killed_vmm_is_told),
            ("ctrl_c_reaches_the_command", ctrl_c_reaches_the_command),
            (
                "ctrl_c_ends_an_ordinary_command_with_130",
                ctrl_c_ends_an_ordinary_command,
            ),
            ("sigterm_reaches_the_command", sigterm_reaches_the_command),
            (
                "two_ctrl_c_end_a_stubborn_command",
                two_ctrl_c_end_a_stubborn_command,
            ),
            (
                "ctrl_c_while_booting_leaves_nothing",
                ctrl_c_while_booting_leaves_nothing,
            ),
            (
                "eight_side_by_side_leave_nothing",
                eight_side_by_side_leave_nothing,
            ),
            (
                "two_hundred_in_a_row_leave_nothing",
                two_hundred_in_a_row_leave_nothing,
            ),
        ],
    );
}

/// Where the tool itself could leave files.
fn folders_of_the_tool() -> Vec<PathBuf> {
    let of = |name: &str| env::var_os(name).map(PathBuf::from);
    let home = of("HOME").unwrap_or_default();
    let data = of("SOVEREIGN_DATA_DIR").unwrap_or_else(|| home.join(".local/share/sovereign"));
    vec![
        data,
        home.join(".local/state/sovereign"),
        home.join(".config/sovereign"),
    ]
}

/// Starts a sandbox, and returns when its command has printed `up`.
fn start(sovereign: &Sovereign, script: &str) -> Result<(Running, u32)> {
    let mut running = sovereign.run(["--", "sh", "-c", script]).start()?;
    let mut stdout = running.take_stdout()?;
    ensure!(read_exactly(&mut stdout, 3)? == b"up\n");
    let vmm = vmm_of(running.pid(), Duration::from_secs(5))?;
    Ok((running, vmm))
}

/// Waits until a process is gone.
fn wait_until_gone(pid: u32, patience: Duration) -> Result<()> {
    let end = Instant::now() + patience;
    while is_running(pid) {
        if Instant::now() > end {
            bail!("process {pid} is still there after {patience:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn killed_owner_takes_the_machine_along(sovereign: &Sovereign) -> Outcome {
    let (mut running, vmm) = start(sovereign, "echo up; sleep 1000")?;
    running.signal(Signal::KILL)?;
    running.wait()?;
    wait_until_gone(vmm, GONE_WITHIN)?;
    PASSED
}

fn killed_vmm_is_told(sovereign: &Sovereign) -> Outcome {
    let (mut running, vmm) = start(sovereign, "echo up; sleep 1000")?;
    let vmm = i32::try_from(vmm)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(vmm.context("no pid")?, Signal::KILL)?;
    let Some(status) = running.wait_for(Duration::from_secs(10))? else {
        bail!("the death of its VMM went unnoticed");
    };
    ensure!(status.code() == Some(125), "{status}");
    PASSED
}

fn ctrl_c_reaches_the_command(sovereign: &Sovereign) -> Outcome {
    let script = "trap 'exit 42' INT; echo up; while :; do sleep 0.1; done";
    let (mut running, vmm) = start(sovereign, script)?;
    running.signal_group(Signal::INT)?;
    ensure!(running.wait()?.code() == Some(42));
    wait_until_gone(vmm, GONE_WITHIN)?;
    PASSED
}

fn ctrl_c_ends_an_ordinary_command(sovereign: &Sovereign) -> Outcome {
    let (mut running, _) = start(sovereign, "echo up; exec sleep 1000")?;
    running.signal_group(Signal::INT)?;
    ensure!(running.wait()?.code() == Some(130));
    PASSED
}

fn sigterm_reaches_the_command(sovereign: &Sovereign) -> Outcome {
    let script = "trap 'exit 43' TERM; echo up; while :; do sleep 0.1; done";
    let (mut running, _) = start(sovereign, script)?;
    running.signal(Signal::TERM)?;
    ensure!(running.wait()?.code() == Some(43));
    PASSED
}

fn two_ctrl_c_end_a_stubborn_command(sovereign: &Sovereign) -> Outcome {
    let script = "trap '' INT TERM; echo up; while :; do sleep 0.1; done";
    let (mut running, vmm) = start(sovereign, script)?;
    running.signal_group(Signal::INT)?;
    thread::sleep(Duration::from_millis(200));
    running.signal_group(Signal::INT)?;
    let Some(status) = running.wait_for(Duration::from_secs(10))? else {
        bail!("two Ctrl-C within a second did not end the sandbox");
    };
    ensure!(!status.success(), "{status}");
    wait_until_gone(vmm, GONE_WITHIN)?;
    PASSED
}

fn ctrl_c_while_booting_leaves_nothing(sovereign: &Sovereign) -> Outcome {
    let folders = folders_of_the_tool();
    sovereign.run(["true"]).output()?;
    let before = Leftovers::look(&folders)?;
    for delay_ms in [0, 20, 100, 300] {
        let mut running = sovereign.run(["--", "sleep", "1000"]).start()?;
        thread::sleep(Duration::from_millis(delay_ms));
        running.signal_group(Signal::INT)?;
        let Some(status) = running.wait_for(Duration::from_secs(20))? else {
            bail!("Ctrl-C after {delay_ms} ms went unnoticed");
        };
        ensure!(!status.success(), "{status}");
    }
    let left = Leftovers::left_since(&before, &folders)?;
    ensure!(left.is_empty(), "left behind: {left:#?}");
    PASSED
}

fn eight_side_by_side_leave_nothing(sovereign: &Sovereign) -> Outcome {
    let folders = folders_of_the_tool();
    sovereign.run(["true"]).output()?;
    let before = Leftovers::look(&folders)?;
    let deadline = Duration::from_secs(240);
    let threads: Vec<_> = (0..8)
        .map(|index| {
            let script = format!("sleep 2; echo {index}; exit {index}");
            let call = sovereign.run(["--boot-timeout", "180s", "--", "sh", "-c", &script]);
            thread::spawn(move || call.deadline(deadline).output())
        })
        .collect();
    for (index, thread) in threads.into_iter().enumerate() {
        let output = thread
            .join()
            .map_err(|_| anyhow::anyhow!("a caller panicked"))??;
        ensure!(output.code() == i32::try_from(index).ok(), "{output}");
        ensure!(output.text() == index.to_string(), "{output}");
    }
    let left = Leftovers::left_since(&before, &folders)?;
    ensure!(left.is_empty(), "left behind: {left:#?}");
    PASSED
}

/// By how much the host's used memory may differ after 200 sandboxes: kernel caches breathe.
const MEMORY_DRIFT_KIB: u64 = 24 * 1024;

fn two_hundred_in_a_row_leave_nothing(sovereign: &Sovereign) -> Outcome {
    let count: u32 = match env::var("SOVEREIGN_E2E_SANDBOXES") {
        Ok(value) => value
            .parse()
            .with_context(|| format!("SOVEREIGN_E2E_SANDBOXES={value}"))?,
        Err(_) => 200,
    };
    let folders = folders_of_the_tool();
    for _ in 0..3 {
        sovereign.run(["true"]).output()?;
    }
    let before = Leftovers::look(&folders)?;
    let available = kib_field("/proc/meminfo", "MemAvailable")?;
    for index in 0..count {
        let text = format!("sandbox {index}");
        let output = sovereign.run(["--", "echo", &text]).output()?;
        ensure!(output.code() == Some(0), "number {index}: {output}");
        ensure!(output.text() == text, "number {index}: {output}");
    }
    let left = Leftovers::left_since(&before, &folders)?;
    ensure!(left.is_empty(), "left behind: {left:#?}");
    if env::var_os("SOVEREIGN_E2E_QUIET_HOST").is_none() {
        return PASSED; // Others use this host's memory too: it says nothing about us.
    }
    let now = kib_field("/proc/meminfo", "MemAvailable")?;
    ensure!(
        now + MEMORY_DRIFT_KIB >= available,
        "memory: {available} KiB before, {now} after"
    );
    PASSED
}
