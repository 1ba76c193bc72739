//! The engine as a library: what an embedder that lives long must be able to rely on.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use sovereign::{
    ClientError, CommandError, Engine, ErrorKind, ExecError, ExecRequest, Launch, Policy, Sandbox,
    SandboxSpec, Tier, Timeline,
};
use sovereign_tests::call::Sovereign;
use sovereign_tests::host::{open_descriptors, resident_kib};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::suite::{Outcome, PASSED, Suite};

/// How many sandboxes the embedder starts, after a few that warm it up.
const SANDBOXES: u32 = 20;

/// By how much an embedder may grow over all of them: allocators keep what they once had.
const GROWTH_KIB: u64 = 512;

pub(crate) fn add(suite: &mut Suite) {
    suite.host(
        "library",
        &[
            (
                "asynchronous_commands_run_and_are_cancelled",
                asynchronous_commands_run_and_are_cancelled,
            ),
            ("why_a_sandbox_ended_is_told", why_a_sandbox_ended_is_told),
        ],
    );
    suite.guest(
        "library",
        &[
            (
                "one_sandbox_serves_many_commands",
                one_sandbox_serves_many_commands,
            ),
            ("an_embedder_does_not_grow", an_embedder_does_not_grow),
        ],
    );
}

/// On tokio: several commands at once, live ends, and cancellation by drop, with nothing left behind.
fn asynchronous_commands_run_and_are_cancelled(_: &Sovereign) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let builder = Sandbox::builder().tier(Tier::Local);
        let mut sandbox = builder.start_async().await?;
        let output = sandbox
            .command("sh")
            .args(["-c", "cat; echo err >&2; exit 3"])
            .input("in")
            .output_async()
            .await?;
        ensure!(output.report.exit_code() == 3, "{:?}", output.report);
        ensure!((output.stdout, output.stderr) == (b"in".to_vec(), b"err\n".to_vec()));

        let mut first = sandbox.command("cat").spawn_async()?;
        let second = sandbox.command("echo").arg("second").output_async().await?;
        ensure!(
            second.stdout == b"second\n",
            "a stalled one holds up another"
        );
        let (mut stdin, mut stdout) = (first.stdin.take(), first.stdout.take());
        let (stdin, stdout) = (
            stdin.as_mut().context("stdin")?,
            stdout.as_mut().context("stdout")?,
        );
        stdin.write_all(b"live").await?;
        let mut read = [0; 4];
        stdout.read_exact(&mut read).await?;
        ensure!(&read == b"live");
        drop(first);

        let slow = sandbox.command("sleep").arg("1000").output_async();
        let cut = tokio::time::timeout(Duration::from_millis(200), slow).await;
        ensure!(cut.is_err(), "it ended by itself");
        // In this sandbox there is nothing left but the agent and those that look.
        let mut left = String::new();
        for _ in 0..100 {
            let ps = sandbox
                .command("ps")
                .args(["-eo", "args"])
                .output_async()
                .await?;
            left = String::from_utf8_lossy(&ps.stdout).into_owned();
            if !left.contains("sleep 1000") && !left.lines().any(|line| line == "cat") {
                sandbox.close_async().await;
                return PASSED;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("still there: {left}")
    })
}

/// Also of a child, which does not know its sandbox.
fn why_a_sandbox_ended_is_told(_: &Sovereign) -> Outcome {
    let mut sandbox = Sandbox::builder().tier(Tier::Local).start()?;
    let child = sandbox.command("sleep").arg("60").spawn()?;
    let agent = Pid::from_raw(sandbox.process_id()).context("no process")?;
    kill_process(agent, Signal::KILL)?;
    let Err(error) = child.wait() else {
        bail!("a command outlived its sandbox");
    };
    let error = sandbox.explain(error);
    let is_told = matches!(&error, CommandError::Attached(ExecError::Ended { .. }));
    ensure!(
        is_told && error.to_string().contains("signal 9"),
        "{error:?}"
    );
    // Whatever has a reason of its own keeps it.
    let error = sandbox.explain(ClientError::OutOfTime);
    ensure!(error.kind() == ErrorKind::OutOfTime, "{error:?}");
    PASSED
}

fn start() -> Result<Sandbox> {
    let spec = SandboxSpec {
        memory_mib: Some(128),
        ..SandboxSpec::default()
    };
    let launch = Launch::new(&spec);
    let (sandbox, _) = Engine::new().start(&Policy::default(), launch, &mut Timeline::default())?;
    Ok(sandbox)
}

/// Runs `echo TEXT` and compares what comes back.
fn echo(sandbox: &mut Sandbox, text: &str) -> Result<()> {
    let request = ExecRequest {
        env: vec![(b"PATH".to_vec().into(), b"/usr/bin:/bin".to_vec().into())],
        timeout: Some(Duration::from_secs(60)),
        ..ExecRequest::new(["echo", text])
    };
    let output = sandbox.output(request, &[], 1024)?;
    ensure!(output.report.code == Some(0), "{:?}", output.report);
    ensure!(
        output.stdout == format!("{text}\n").as_bytes(),
        "{:?}",
        output.stdout
    );
    Ok(())
}

fn one_sandbox_serves_many_commands(_: &Sovereign) -> Outcome {
    let mut sandbox = start()?;
    echo(&mut sandbox, "first")?;
    let before = (
        open_descriptors(own_pid())?,
        open_descriptors(vmm_pid(&sandbox)?)?,
    );
    for index in 0..30 {
        echo(&mut sandbox, &format!("command {index}"))?;
    }
    let after = (
        open_descriptors(own_pid())?,
        open_descriptors(vmm_pid(&sandbox)?)?,
    );
    ensure!(
        after.0 == before.0,
        "our descriptors: {} before, {} after",
        before.0,
        after.0
    );
    // The VMM closes its end of the last stream when its guest has, a moment later.
    ensure!(
        after.1 <= before.1 + 1,
        "the VMM's: {} before, {} after",
        before.1,
        after.1
    );
    PASSED
}

fn an_embedder_does_not_grow(_: &Sovereign) -> Outcome {
    for _ in 0..3 {
        echo(&mut start()?, "warm")?;
    }
    let pid = own_pid();
    let before = (open_descriptors(pid)?, threads()?, resident_kib(pid)?);
    for index in 0..SANDBOXES {
        echo(&mut start()?, &format!("sandbox {index}"))?;
    }
    let after = (open_descriptors(pid)?, threads()?, resident_kib(pid)?);
    ensure!(
        after.0 == before.0,
        "descriptors: {} before, {} after",
        before.0,
        after.0
    );
    ensure!(
        after.1 == before.1,
        "threads: {} before, {} after",
        before.1,
        after.1
    );
    ensure!(
        after.2 <= before.2 + GROWTH_KIB,
        "memory: {} to {} KiB",
        before.2,
        after.2
    );
    PASSED
}

fn own_pid() -> u32 {
    std::process::id()
}

fn vmm_pid(sandbox: &Sandbox) -> Result<u32> {
    Ok(u32::try_from(sandbox.process_id())?)
}

fn threads() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/task")?.count())
}
