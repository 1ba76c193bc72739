//! What sandboxes use, and what runs in them.

use anyhow::{Context, ensure};

use super::Desk;
use crate::suite::{Outcome, PASSED};

/// Something that keeps a CPU busy, and 40 MiB of memory.
const BUSY: &str = "x = bytearray(40 << 20)\nwhile True: pass";

pub(super) fn usage_is_measured(desk: &Desk) -> Outcome {
    let python = ["--", "python3", "-c", BUSY];
    let memory: &[&str] = match desk.tier {
        "local" => &[],
        _ => &["-m", "256M"],
    };
    desk.start(&[&["--name", "busy"], memory, &python].concat())?;
    desk.start(&[&["--name", "idle"], memory, &["--", "sleep", "1000"]].concat())?;
    let look = |name: &str| {
        let look = desk.call(["stats", "--no-stream", "--format", "json", name]);
        let output = look.output()?;
        ensure!(output.code() == Some(0), "{output}");
        Ok(output.json()?[0].clone())
    };
    desk.eventually("the busy one has its memory", || {
        Ok(look("busy")?["memory_bytes"].as_u64() > Some(40 << 20))
    })?;
    let (busy, idle) = (look("busy")?, look("idle")?);
    let number = |of: &serde_json::Value, name: &str| {
        of[name].as_f64().with_context(|| format!("{name}: {of}"))
    };
    ensure!(busy["tier"] == desk.tier, "{busy}");
    // This machine is busy with other things too.
    ensure!(number(&busy, "cpu_percent")? > 10.0, "{busy}");
    ensure!(
        number(&idle, "cpu_percent")? < number(&busy, "cpu_percent")?,
        "{idle} {busy}"
    );
    ensure!(
        number(&busy, "cpu_ms")? > number(&idle, "cpu_ms")?,
        "{idle} {busy}"
    );
    ensure!(
        number(&idle, "memory_bytes")? < number(&busy, "memory_bytes")?,
        "{idle} {busy}"
    );
    ensure!(number(&busy["host"], "memory_bytes")? > 40e6, "{busy}");
    ensure!((2.0..20.0).contains(&number(&idle, "processes")?), "{idle}");
    let (counted_by, limit) = match desk.tier {
        "microvm" => ("kernel", 150..=256),
        "local" => ("processes", 0..=0),
        _ => ("cgroup", 256..=256),
    };
    ensure!(idle["counted_by"] == counted_by, "{idle}");
    let found = idle["memory_limit_bytes"].as_u64().unwrap_or_default() >> 20;
    ensure!(limit.contains(&found), "{idle}");

    let table = desk.says(&["stats", "--no-stream"])?;
    let lines: Vec<_> = table.lines().collect();
    ensure!(lines.len() == 3 && lines[0].starts_with("ID "), "{table}");
    ensure!(
        lines[1].contains("busy") && lines[1].contains('%'),
        "{table}"
    );
    let top = desk.says(&["top", "busy"])?;
    ensure!(top.contains("PID") && top.contains("python3 -c"), "{top}");
    desk.says(&["rm", "-f", "busy", "idle"])?;
    let gone = desk.call(["stats", "--no-stream", "busy"]).output()?;
    ensure!(gone.code() == Some(125), "{gone}");
    PASSED
}

pub(super) fn looking_is_no_use(desk: &Desk) -> Outcome {
    desk.start(&["--name", "a", "--idle-timeout", "2s", "--", "sleep", "1000"])?;
    // Its own command keeps it in use; one without it ends, however often it is looked at.
    desk.says(&[
        "create",
        "--name",
        "b",
        "--tier",
        desk.tier,
        "--idle-timeout",
        "2s",
    ])?;
    desk.says(&["start", "b"])?;
    desk.eventually("the idle one has ended", || {
        desk.call(["stats", "--no-stream", "b"]).output()?;
        let completion = desk.call(["--", "sovereign", "cp", "b:/"]);
        completion.env("SOVEREIGN_COMPLETE", "fish").output()?;
        Ok(desk.state_of("b")? == "exited")
    })?;
    ensure!(desk.state_of("a")? == "running");
    desk.says(&["rm", "-f", "a", "b"])?;
    PASSED
}
