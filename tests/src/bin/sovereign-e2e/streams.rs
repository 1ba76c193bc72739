//! Standard input, output and error: live, binary-clean, half-closable, and bounded in memory.

use std::env;
use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sovereign_tests::call::{Sovereign, read_exactly};
use sovereign_tests::host::{resident_kib, vmm_of};

use crate::suite::{Outcome, PASSED, Suite};

const MIB: usize = 1 << 20;

pub(crate) fn add(suite: &mut Suite) {
    suite.guest(
        "streams",
        &[
            ("stdout_and_stderr_stay_apart", stdout_and_stderr_stay_apart),
            (
                "output_arrives_while_the_command_runs",
                output_arrives_while_the_command_runs,
            ),
            (
                "input_arrives_while_the_command_runs",
                input_arrives_while_the_command_runs,
            ),
            (
                "end_of_input_reaches_the_command",
                end_of_input_reaches_the_command,
            ),
            (
                "without_i_standard_input_is_empty",
                without_i_standard_input_is_empty,
            ),
            ("a_gibibyte_passes_unchanged", a_gibibyte_passes_unchanged),
            (
                "a_reader_that_stops_costs_no_memory",
                a_reader_that_stops_costs_no_memory,
            ),
            (
                "a_reader_that_goes_ends_the_sandbox",
                a_reader_that_goes_ends_the_sandbox,
            ),
            (
                "stalled_stdout_does_not_hold_up_stderr",
                stalled_stdout_does_not_hold_up_stderr,
            ),
        ],
    );
}

fn stdout_and_stderr_stay_apart(sovereign: &Sovereign) -> Outcome {
    let output = sovereign
        .run(["-q", "--", "sh", "-c", "echo out; echo err >&2"])
        .output()?;
    ensure!(output.code() == Some(0), "{output}");
    ensure!(output.stdout == b"out\n", "{output}");
    ensure!(output.stderr == b"err\n", "{output}");
    PASSED
}

fn output_arrives_while_the_command_runs(sovereign: &Sovereign) -> Outcome {
    let mut running = sovereign
        .run(["--", "sh", "-c", "echo first; sleep 1000"])
        .start()?;
    let mut stdout = running.take_stdout()?;
    ensure!(read_exactly(&mut stdout, 6)? == b"first\n");
    ensure!(
        running.wait_for(Duration::ZERO)?.is_none(),
        "the command ended"
    );
    PASSED
}

fn input_arrives_while_the_command_runs(sovereign: &Sovereign) -> Outcome {
    let script = "read line; echo \"got $line\"; read line; echo \"then $line\"";
    let mut running = sovereign.run(["-i", "--", "sh", "-c", script]).start()?;
    let mut stdin = running.take_stdin()?;
    let mut stdout = running.take_stdout()?;
    stdin.write_all(b"one\n")?;
    ensure!(read_exactly(&mut stdout, 8)? == b"got one\n");
    stdin.write_all(b"two\n")?;
    ensure!(read_exactly(&mut stdout, 9)? == b"then two\n");
    ensure!(running.wait()?.success());
    PASSED
}

fn end_of_input_reaches_the_command(sovereign: &Sovereign) -> Outcome {
    let script = "cat; echo after; sleep 0.3; echo later";
    let output = sovereign
        .run(["-i", "--", "sh", "-c", script])
        .stdin("given\n")
        .output()?;
    ensure!(output.code() == Some(0), "{output}");
    ensure!(output.stdout == b"given\nafter\nlater\n", "{output}");
    PASSED
}

fn without_i_standard_input_is_empty(sovereign: &Sovereign) -> Outcome {
    let mut running = sovereign.run(["--", "cat"]).start()?;
    // Held open: the command must not wait for it.
    let _stdin = running.take_stdin()?;
    ensure!(running.wait()?.success());
    PASSED
}

/// Every byte is compared, which no hash can do better: writer and reader make the same sequence.
fn a_gibibyte_passes_unchanged(sovereign: &Sovereign) -> Outcome {
    let chunks = env_number("SOVEREIGN_E2E_STREAM_MIB", 1024)?;
    let deadline = Duration::from_secs(900);
    let mut running = sovereign
        .run(["-i", "--", "cat"])
        .deadline(deadline)
        .start()?;
    let mut stdin = running.take_stdin()?;
    let mut stdout = running.take_stdout()?;
    let writer = thread::spawn(move || -> std::io::Result<()> {
        let mut noise = Noise::default();
        let mut chunk = vec![0; MIB];
        for _ in 0..chunks {
            noise.fill(&mut chunk);
            stdin.write_all(&chunk)?;
        }
        Ok(())
    });
    let mut noise = Noise::default();
    let mut expected = vec![0; MIB];
    let mut chunk = vec![0; MIB];
    for index in 0..chunks {
        noise.fill(&mut expected);
        stdout
            .read_exact(&mut chunk)
            .with_context(|| format!("after {index} MiB"))?;
        ensure!(chunk == expected, "MiB {index} came back changed");
    }
    let more = stdout.read(&mut chunk)?;
    ensure!(more == 0, "{more} bytes too many");
    writer
        .join()
        .map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    ensure!(running.wait()?.success());
    PASSED
}

/// Bytes that do not repeat and that no layer could compress: splitmix64.
#[derive(Default)]
struct Noise {
    state: u64,
}

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let mixed = (mixed ^ (mixed >> 31)).to_le_bytes();
            for (byte, value) in word.iter_mut().zip(mixed) {
                *byte = value;
            }
        }
    }
}

/// The most by which a process may grow while its reader stands still, beyond what it had a second
/// after the reader stopped.
const STALL_GROWTH_KIB: u64 = 512;

/// The most that a command line client may hold at all while its reader stands still.
const CLIENT_KIB: u64 = 16 * 1024;

fn a_reader_that_stops_costs_no_memory(sovereign: &Sovereign) -> Outcome {
    let script = "yes 0123456789abcde | head -c 10G";
    let mut running = sovereign.run(["--", "sh", "-c", script]).start()?;
    let mut stdout = running.take_stdout()?;
    read_exactly(&mut stdout, MIB)?;
    let vmm = vmm_of(running.pid(), Duration::from_secs(5))?;
    thread::sleep(Duration::from_secs(1));
    let before = (resident_kib(running.pid())?, resident_kib(vmm)?);
    thread::sleep(Duration::from_secs(6));
    let after = (resident_kib(running.pid())?, resident_kib(vmm)?);
    ensure!(
        after.0 <= before.0 + STALL_GROWTH_KIB,
        "client: {} to {} KiB",
        before.0,
        after.0
    );
    ensure!(
        after.1 <= before.1 + STALL_GROWTH_KIB,
        "VMM: {} to {} KiB",
        before.1,
        after.1
    );
    ensure!(after.0 <= CLIENT_KIB, "the client holds {} KiB", after.0);
    // It stood still, it did not break: the stream goes on where it was, byte for byte.
    for index in 0..8 {
        let chunk = read_exactly(&mut stdout, MIB)?;
        let intact = chunk.chunks(16).all(|line| line == b"0123456789abcde\n");
        ensure!(intact, "MiB {index} after the stop is damaged");
    }
    PASSED
}

fn a_reader_that_goes_ends_the_sandbox(sovereign: &Sovereign) -> Outcome {
    let mut running = sovereign.run(["--", "yes"]).start()?;
    let mut stdout = running.take_stdout()?;
    read_exactly(&mut stdout, 1000)?;
    drop(stdout);
    let Some(status) = running.wait_for(Duration::from_secs(20))? else {
        bail!("the sandbox went on without a reader");
    };
    ensure!(!status.success(), "{status}");
    PASSED
}

fn stalled_stdout_does_not_hold_up_stderr(sovereign: &Sovereign) -> Outcome {
    let script = "(yes & sleep 2; echo on-stderr >&2; wait)";
    let mut running = sovereign.run(["-q", "--", "sh", "-c", script]).start()?;
    let _stdout = running.take_stdout()?;
    let mut stderr = running.take_stderr()?;
    let started = Instant::now();
    ensure!(read_exactly(&mut stderr, 10)? == b"on-stderr\n");
    ensure!(started.elapsed() < Duration::from_secs(60));
    PASSED
}

fn env_number(name: &str, default: usize) -> Result<usize> {
    match env::var(name) {
        Ok(value) => value
            .parse()
            .with_context(|| format!("{name}={value} is no number")),
        Err(_) => Ok(default),
    }
}
