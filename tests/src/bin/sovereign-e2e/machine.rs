//! The machine that a sandbox is: CPUs, memory, other kernels, confinement.

use std::fs;
use std::io::Read;
use std::process::ChildStdout;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sovereign_tests::call::{Running, Sovereign, read_exactly};
use sovereign_tests::host::{descriptors, kib_field, private_kib, resident_kib, vmm_of};
use sovereign_tests::images::STOCK;

use crate::suite::{Outcome, PASSED, Suite, skip};

/// The most memory that a VMM may have of its own, with one vCPU.
const PRIVATE_KIB: u64 = 4 * 1024;

pub(crate) fn add(suite: &mut Suite) {
    suite.guest(
        "machine",
        &[
            ("has_the_cpus_it_was_given", has_the_cpus_it_was_given),
            ("has_32_cpus", has_32_cpus),
            ("has_the_memory_it_was_given", has_the_memory_it_was_given),
            (
                "memory_reaches_across_the_mmio_gap",
                memory_reaches_across_the_mmio_gap,
            ),
            (
                "untouched_memory_is_not_taken",
                untouched_memory_is_not_taken,
            ),
            (
                "vmm_has_at_most_4_mib_of_its_own",
                vmm_has_at_most_4_mib_of_its_own,
            ),
            ("vmm_is_confined", vmm_is_confined),
            ("vmm_holds_few_descriptors", vmm_holds_few_descriptors),
            ("stock_debian_kernel_boots", stock_debian_kernel_boots),
            (
                "root_is_read_only_below_its_overlay",
                root_is_read_only_below_its_overlay,
            ),
        ],
    );
}

fn has_the_cpus_it_was_given(sovereign: &Sovereign) -> Outcome {
    for cpus in ["1", "2", "5"] {
        let output = sovereign.run(["--cpus", cpus, "--", "nproc"]).output()?;
        ensure!(output.code() == Some(0), "{output}");
        ensure!(output.text() == cpus, "{output}");
    }
    PASSED
}

fn has_32_cpus(sovereign: &Sovereign) -> Outcome {
    let call = sovereign.run(["--cpus", "32", "--boot-timeout", "240s", "--", "nproc"]);
    let output = call.deadline(Duration::from_secs(300)).output()?;
    ensure!(output.code() == Some(0), "{output}");
    ensure!(output.text() == "32", "{output}");
    PASSED
}

/// What of a guest's memory its kernel may keep: itself, page descriptors, what the BIOS map leaves out.
const KEPT_PER_CENT: u64 = 30;

fn has_the_memory_it_was_given(sovereign: &Sovereign) -> Outcome {
    for (size, mib) in [("64M", 64), ("256M", 256), ("1G", 1024)] {
        let total = total_memory_mib(sovereign, size)?;
        let least = mib * (100 - KEPT_PER_CENT) / 100;
        ensure!(
            (least..=mib).contains(&total),
            "{size}: the guest sees {total} MiB"
        );
    }
    PASSED
}

/// The gap ends at 4 GiB and begins at 3 GiB at the latest, so 3.5 GiB must reach across.
fn memory_reaches_across_the_mmio_gap(sovereign: &Sovereign) -> Outcome {
    if kib_field("/proc/meminfo", "MemTotal")? < 3584 * 1024 {
        return skip("this host has less than 3584 MiB");
    }
    let total = total_memory_mib(sovereign, "3584M")?;
    ensure!((3300..=3584).contains(&total), "the guest sees {total} MiB");
    PASSED
}

fn total_memory_mib(sovereign: &Sovereign, size: &str) -> Result<u64> {
    let output = sovereign
        .run_with_memory(size, ["--", "grep", "MemTotal", "/proc/meminfo"])
        .output()?;
    ensure!(output.code() == Some(0), "{output}");
    let kib = output
        .text()
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok());
    Ok(kib.with_context(|| output.to_string())? / 1024)
}

/// A sandbox that has booted, runs a command and waits. It ends when this is dropped.
struct Waiting {
    vmm: u32,
    /// Somebody reads what it says for as long as it is looked at.
    _stdout: ChildStdout,
    _running: Running,
}

impl Waiting {
    /// Starts one, however slow a machine with other work is at that.
    fn start(sovereign: &Sovereign, memory: &str) -> Result<Self> {
        let args = ["--boot-timeout", "180s", "--", "sh", "-c"];
        let script = "echo up; sleep 1000";
        let call = sovereign.run_with_memory(memory, args.into_iter().chain([script]));
        let mut running = call.start()?;
        let mut stdout = running.take_stdout()?;
        let said = read_exactly(&mut stdout, 3);
        if said.as_ref().is_ok_and(|said| said == b"up\n") {
            return Ok(Self {
                vmm: vmm_of(running.pid(), VMM_PATIENCE)?,
                _stdout: stdout,
                _running: running,
            });
        }
        let mut told = String::new();
        let mut stderr = running.take_stderr()?;
        // So that it says no more.
        drop(running);
        stderr.read_to_string(&mut told)?;
        bail!("it did not come up: {said:?}: {told}");
    }
}

/// How long it may take to find the process of a sandbox that runs: it is there.
const VMM_PATIENCE: Duration = Duration::from_secs(60);

fn untouched_memory_is_not_taken(sovereign: &Sovereign) -> Outcome {
    let small = Waiting::start(sovereign, "128M")?;
    let large = Waiting::start(sovereign, "2G")?;
    let (small, large) = (resident_kib(small.vmm)?, resident_kib(large.vmm)?);
    // 64 bytes of page descriptor for each 4 KiB page: 30 MiB for the 1920 MiB more.
    ensure!(
        large < small + 64 * 1024,
        "128 MiB: {small} KiB resident, 2 GiB: {large} KiB"
    );
    PASSED
}

fn vmm_has_at_most_4_mib_of_its_own(sovereign: &Sovereign) -> Outcome {
    let waiting = Waiting::start(sovereign, "128M")?;
    let private = private_kib(waiting.vmm, 128 * 1024)?;
    ensure!(
        private <= PRIVATE_KIB,
        "the VMM has {private} KiB of its own"
    );
    ensure!(
        private > 100,
        "{private} KiB cannot be true: the guest's memory was told wrongly"
    );
    PASSED
}

fn vmm_is_confined(sovereign: &Sovereign) -> Outcome {
    let waiting = Waiting::start(sovereign, "128M")?;
    for task in fs::read_dir(format!("/proc/{}/task", waiting.vmm))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let is = |field: &str, value: &str| {
            status
                .lines()
                .any(|line| line.split_whitespace().eq([field, value]))
        };
        ensure!(
            is("Seccomp:", "2"),
            "a thread without a seccomp filter: {status}"
        );
        ensure!(
            is("NoNewPrivs:", "1"),
            "a thread that may gain privileges: {status}"
        );
        ensure!(
            is("CapEff:", "0000000000000000"),
            "a thread with capabilities: {status}"
        );
    }
    PASSED
}

fn vmm_holds_few_descriptors(sovereign: &Sovereign) -> Outcome {
    let waiting = Waiting::start(sovereign, "128M")?;
    let open = descriptors(waiting.vmm)?;
    ensure!(
        open.len() <= 64,
        "the VMM has {} open: {open:?}",
        open.len()
    );
    PASSED
}

fn stock_debian_kernel_boots(sovereign: &Sovereign) -> Outcome {
    let images = sovereign.call(["image", "ls", "--json"]).output()?;
    if !images.text().contains(&format!("\"{STOCK}\"")) {
        return skip(format!("no image `{STOCK}`: `sovereign-gate` makes it"));
    }
    let args = ["--image", STOCK, "--cpus", "2", "--boot-timeout", "120s"];
    let script = "uname -r; nproc; python3 -c 'print(6 * 7)'";
    let call =
        sovereign.run_with_memory("256M", args.into_iter().chain(["--", "sh", "-c", script]));
    let output = call.deadline(Duration::from_secs(300)).output()?;
    ensure!(output.code() == Some(0), "{output}");
    let text = output.text();
    let lines: Vec<_> = text.lines().collect();
    ensure!(
        lines.len() == 3 && lines[0].contains("-cloud-amd64"),
        "{output}"
    );
    ensure!(lines[1..] == ["2", "42"], "{output}");
    PASSED
}

fn root_is_read_only_below_its_overlay(sovereign: &Sovereign) -> Outcome {
    let script = "grep ' / ' /proc/mounts; dd if=/dev/zero of=/dev/vda bs=512 count=1";
    let output = sovereign
        .run(["-u", "root", "--", "sh", "-c", script])
        .output()?;
    ensure!(
        output.code() != Some(0),
        "the root disk could be written to: {output}"
    );
    ensure!(output.text().contains("overlay"), "{output}");
    PASSED
}
