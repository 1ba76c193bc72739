//! The tier as an embedder of the engine meets it.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use sovereign::installation::Program;
use sovereign::{
    Engine, Exec, ExecRequest, Launch, Output, Policy, Sandbox, SandboxSpec, Tier, Timeline,
};
use sovereign_tests::call::Sovereign;
use sovereign_tests::host::open_descriptors;

use super::Traces;
use crate::suite::{Outcome, PASSED, Suite, skip};

pub(crate) fn add(suite: &mut Suite) {
    suite.host(
        "local",
        &[
            (
                "one_sandbox_serves_a_hundred_commands_at_once",
                serves_a_hundred_commands_at_once,
            ),
            (
                "commands_of_one_sandbox_share_its_files",
                commands_share_files,
            ),
        ],
    );
}

fn start() -> Result<Sandbox> {
    let policy = Policy {
        tier: Some(Tier::Local),
        ..Policy::default()
    };
    let spec = SandboxSpec::default();
    let (sandbox, _) =
        Engine::new().start(&policy, Launch::new(&spec), &mut Timeline::default())?;
    Ok(sandbox)
}

fn sh(script: &str) -> ExecRequest {
    ExecRequest {
        timeout: Some(Duration::from_secs(60)),
        ..ExecRequest::new(["sh", "-c", script])
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Why the engine finds no agent to start, if it does not.
fn obstacle() -> Option<String> {
    Program::Agent.find().err().map(|error| error.to_string())
}

fn serves_a_hundred_commands_at_once(_: &Sovereign) -> Outcome {
    if let Some(obstacle) = obstacle() {
        return skip(obstacle);
    }
    let traces = Traces::look()?;
    let descriptors = open_descriptors(std::process::id())?;
    let mut sandbox = start()?;
    let commands: Vec<Exec> = (0..100)
        .map(|number| Ok(sandbox.exec(sh(&format!("sleep 0.2; echo {number}")))?))
        .collect::<Result<_>>()?;
    let outputs = thread::scope(|scope| {
        let waiting: Vec<_> = commands
            .into_iter()
            .map(|command| scope.spawn(|| command.output(b"", 1024)))
            .collect();
        waiting
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked")))
            .collect::<Result<Vec<_>>>()
    })?;
    for (number, output) in outputs.into_iter().enumerate() {
        let output = output.with_context(|| format!("command {number}"))?;
        ensure!(text(&output) == number.to_string(), "{number}: {output:?}");
    }
    drop(sandbox);
    let after = open_descriptors(std::process::id())?;
    ensure!(
        after == descriptors,
        "descriptors: {descriptors} before, {after} after"
    );
    traces.are_gone()
}

fn commands_share_files(_: &Sovereign) -> Outcome {
    if let Some(obstacle) = obstacle() {
        return skip(obstacle);
    }
    let (mut one, mut other) = (start()?, start()?);
    one.output(
        sh("echo kept > file; echo kept > /var/tmp/sovereign-e2e"),
        b"",
        1024,
    )?;
    let seen = one.output(sh("cat file"), b"", 1024)?;
    ensure!(text(&seen) == "kept", "{seen:?}");
    let elsewhere = other.output(sh("cat file"), b"", 1024)?;
    ensure!(elsewhere.report.code == Some(1), "{elsewhere:?}");
    one.output(sh("rm /var/tmp/sovereign-e2e"), b"", 1024)?;
    PASSED
}
