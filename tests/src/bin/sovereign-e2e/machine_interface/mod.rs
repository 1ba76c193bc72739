//! `--json`: what every command really prints is what its published schema says, on every tier.

mod builds;
mod schemas;

use std::fs;
use std::io::{BufRead, BufReader};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sovereign_tests::call::{Call, Sovereign};

use self::builds::build_keeps_its_schema;
use self::schemas::Schemas;
use crate::detached::{Desk, with};
use crate::suite::{Outcome, PASSED, Suite, Test};

pub(crate) fn add(suite: &mut Suite) {
    let name = "every_command_of_a_sandbox_keeps_its_schema";
    let test = |test: Test| [(name, test)];
    let local = test(|s| with(s, "local", every_command_of_a_sandbox_keeps_its_schema));
    let docker = test(|s| with(s, "docker", every_command_of_a_sandbox_keeps_its_schema));
    let podman = test(|s| with(s, "podman", every_command_of_a_sandbox_keeps_its_schema));
    let guest = test(|s| with(s, "microvm", every_command_of_a_sandbox_keeps_its_schema));
    suite.host("machine_interface", &local);
    suite.engine("docker", "machine_interface", &docker);
    suite.engine("podman", "machine_interface", &podman);
    suite.guest("machine_interface", &guest);
    suite.host(
        "machine_interface",
        &[
            (
                "commands_without_a_sandbox_keep_their_schemas",
                commands_without_a_sandbox_keep_their_schemas,
            ),
            ("build_keeps_its_schema", build_keeps_its_schema),
        ],
    );
}

/// Calls of commands with `--json`.
struct Caller<'a> {
    desk: &'a Desk,
    schemas: Schemas,
}

impl Caller<'_> {
    /// The one document that a command prints, which has to be what the schema says.
    fn document(&self, schema: &str, code: i32, args: &[&str]) -> Result<Value> {
        let call = self.desk.call(args.iter().chain(&["--json"]));
        judge(&self.schemas, schema, code, call)
    }

    /// The same of a command that is followed by another.
    fn ran(&self, schema: &str, code: i32, args: &[&str], command: &[&str]) -> Result<Value> {
        let call = self.desk.call([args, &["--json", "--"], command].concat());
        judge(&self.schemas, schema, code, call)
    }

    /// The lines that a command prints, each of which has to be what the schema says.
    fn lines(&self, schema: &str, code: i32, args: &[&str]) -> Result<Vec<Value>> {
        self.lines_of(schema, code, self.desk.call(args.iter().chain(&["--json"])))
    }

    fn lines_of(&self, schema: &str, code: i32, call: Call) -> Result<Vec<Value>> {
        let output = call.output()?;
        ensure!(output.code() == Some(code), "{output}");
        let lines = output.text();
        let values: Vec<Value> = lines
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()
            .with_context(|| output.to_string())?;
        for value in &values {
            self.schemas.judge(schema, value)?;
        }
        ensure!(!values.is_empty(), "{output}");
        Ok(values)
    }
}

fn judge(schemas: &Schemas, schema: &str, code: i32, call: Call) -> Result<Value> {
    let output = call.output()?;
    ensure!(output.code() == Some(code), "{output}");
    let value = output.json()?;
    schemas
        .judge(schema, &value)
        .with_context(|| output.to_string())?;
    Ok(value)
}

fn every_command_of_a_sandbox_keeps_its_schema(desk: &Desk) -> Outcome {
    let caller = Caller {
        desk,
        schemas: Schemas::new()?,
    };
    lives(&caller)?;
    commands(&caller)?;
    files(&caller)?;
    ends(&caller)?;
    PASSED
}

/// From its making to its use.
fn lives(caller: &Caller<'_>) -> Result<()> {
    let tier = caller.desk.tier;
    let create = ["create", "--tier", tier, "--name", "a", "-l", "job=7"];
    let made = caller.ran("sandbox", 0, &create, &["sleep", "1000"])?;
    ensure!(made["name"] == "a" && made["tier"].is_null(), "{made}");
    let taken = caller.ran("error", 125, &create, &["true"])?;
    ensure!(taken["error"]["code"] == "name-taken", "{taken}");
    caller.document("inspect", 0, &["inspect", "a"])?;
    let started = caller.document("start", 125, &["start", "a", "nobody"])?;
    ensure!(started[0]["tier"] == tier, "{started}");
    ensure!(
        started[1]["error"]["code"] == "no-such-sandbox",
        "{started}"
    );
    let listed = caller.document("ls", 0, &["ls"])?;
    ensure!(listed[0]["state"] == "running", "{listed}");
    let known = caller.document("inspect", 125, &["inspect", "a", "nobody"])?;
    ensure!(known[0]["process"].is_u64(), "{known}");
    ensure!(known[1]["error"]["code"] == "no-such-sandbox", "{known}");
    let used = caller.lines("stats", 0, &["stats", "--no-stream", "a"])?;
    ensure!(used[0][0]["name"] == "a", "{used:?}");
    caller.document("error", 125, &["stats", "--no-stream", "nobody"])?;
    let top = caller.document("top", 0, &["top", "a"])?;
    ensure!(top.as_array().is_some_and(|all| !all.is_empty()), "{top}");
    Ok(())
}

/// What runs in it.
fn commands(caller: &Caller<'_>) -> Result<()> {
    let tier = caller.desk.tier;
    let script = "echo hi; printf '\\377' >&2; exit 3";
    let ran = caller.ran("run", 3, &["exec", "a"], &["sh", "-c", script])?;
    ensure!(ran["stdout"] == "hi\n" && ran["tier"] == tier, "{ran}");
    ensure!(ran["stderr_encoding"] == "base64", "{ran}");
    let none = caller.ran("run", 127, &["exec", "a"], &["no-such-command"])?;
    let error = &none["error"];
    ensure!(error["code"] == "command-not-found", "{none}");
    ensure!(error["tier"] == tier && none["tier"] == tier, "{none}");
    let none = caller.ran("run", 125, &["exec", "nobody"], &["true"])?;
    ensure!(none["error"]["code"] == "no-such-sandbox", "{none}");

    let script = "read -r line; echo \"<$line>\"; echo late >&2; exit 5";
    let held = caller.ran(
        "command",
        0,
        &["exec", "-d", "-i", "a"],
        &["sh", "-c", script],
    )?;
    let number = held["command"].to_string();
    let attach = caller.desk.call(["attach", "--json", "a", &number]);
    let attached = judge(&caller.schemas, "run", 5, attach.stdin("x\n"))?;
    ensure!(attached["stdout"] == "<x>\n", "{attached}");
    let waited = caller.document("end", 0, &["wait", "--command", &number, "a"])?;
    ensure!(waited[0]["exit_code"] == 5, "{waited}");
    let logged = caller.lines("logs", 0, &["logs", "a", &number])?;
    let texts: Vec<_> = logged.iter().map(|line| &line["text"]).collect();
    ensure!(texts.contains(&&Value::from("late\n")), "{logged:?}");
    let none = caller.document("error", 125, &["attach", "a", "99"])?;
    ensure!(none["error"]["code"] == "no-such-command", "{none}");
    ensure!(none["error"]["tier"] == tier, "{none}");
    let none = caller.document("error", 125, &["logs", "a", "99"])?;
    ensure!(none["error"]["code"] == "no-output", "{none}");
    ensure!(none["error"]["tier"] == tier, "{none}");
    let again = caller.document("start", 125, &["start", "a"])?;
    ensure!(again[0]["error"]["tier"] == tier, "{again}");
    Ok(())
}

/// The files that it has.
fn files(caller: &Caller<'_>) -> Result<()> {
    let tier = caller.desk.tier;
    let own = tempfile::tempdir()?;
    let file = own.path().join("file");
    fs::write(&file, "12345")?;
    let path = file.to_str().context("a strange folder")?;
    caller.lines("fs-done", 0, &["fs", "mkdir", "a", "d"])?;
    let write = caller.desk.call(["fs", "write", "--json", "a", "d/f"]);
    let written = caller.lines_of("fs-written", 0, write.stdin("some text"))?;
    ensure!(written[0]["bytes"] == 9, "{written:?}");
    let copied = caller.document("cp", 0, &["cp", path, "a:d/g"])?;
    ensure!(copied["entries"] == 1, "{copied}");
    let listed = caller.lines("fs-entry", 0, &["fs", "ls", "a", "d"])?;
    ensure!(listed.len() == 2, "{listed:?}");
    let known = caller.lines("fs-entry", 125, &["fs", "stat", "a", "d/f", "d/none"])?;
    ensure!(known[0]["size"] == 9, "{known:?}");
    ensure!(known[1]["error"]["code"] == "no-such-file", "{known:?}");
    ensure!(known[1]["error"]["tier"] == tier, "{known:?}");
    let read = caller.lines("fs-content", 0, &["fs", "cat", "a", "d/f", "--length", "4"])?;
    ensure!(read[0]["content"] == "some", "{read:?}");
    let found = caller.lines("fs-entry", 0, &["fs", "find", "a", ".", "--name", "g"])?;
    ensure!(found.len() == 1, "{found:?}");
    let watch = ["fs", "watch", "--json", "a", "d"];
    let mut watching = caller.desk.call(watch).start()?;
    let mut changes = BufReader::new(watching.take_stdout()?);
    let mut change = String::new();
    // It says nothing until something happens, which it may not see if it happens too early.
    let toucher = ["fs", "write", "a", "d/h"];
    for _ in 0..50 {
        std::thread::sleep(std::time::Duration::from_millis(50));
        caller.desk.good(caller.desk.call(toucher).stdin("x"))?;
        if has_something(&changes)? {
            break;
        }
    }
    changes.read_line(&mut change)?;
    caller
        .schemas
        .judge("fs-change", &serde_json::from_str(&change)?)?;
    drop(watching);
    caller.lines("fs-done", 0, &["fs", "mv", "a", "d/f", "d/new"])?;
    let gone = caller.lines("fs-done", 125, &["fs", "rm", "a", "d/new", "d/none"])?;
    ensure!(gone[0]["error"].is_null(), "{gone:?}");
    ensure!(gone[1]["error"]["code"] == "no-such-file", "{gone:?}");
    let none = caller.document("error", 125, &["cp", "a:d/none", path])?;
    ensure!(none["error"]["code"] == "no-such-file", "{none}");
    ensure!(none["error"]["tier"] == tier, "{none}");
    let output = caller.desk.call(["cp", "--json", "a:d/g", "-"]).output()?;
    let told: Value = serde_json::from_str(output.errors().trim())?;
    caller.schemas.judge("cp", &told)?;
    ensure!(output.stdout.len() >= 1024, "an archive: {output}");
    Ok(())
}

/// Whether there is something to be read.
fn has_something(stream: &BufReader<std::process::ChildStdout>) -> Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    let mut fds = [PollFd::new(stream.get_ref(), PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    Ok(poll(&mut fds, Some(&now))? > 0)
}

/// How it ends, and what is told of it then.
fn ends(caller: &Caller<'_>) -> Result<()> {
    let tier = caller.desk.tier;
    let renamed = caller.document("sandbox", 0, &["rename", "a", "b"])?;
    ensure!(renamed["name"] == "b", "{renamed}");
    let killed = caller.document("end", 125, &["kill", "b", "nobody"])?;
    ensure!(killed[0]["exit_code"] == 137, "{killed}");
    let stopped = caller.document("end", 0, &["stop", "b"])?;
    ensure!(stopped[0]["exit_code"].is_null(), "{stopped}");
    let dead = caller.ran("run", 125, &["exec", "b"], &["true"])?;
    ensure!(dead["error"]["code"] == "not-running", "{dead}");
    let known = caller.document("inspect", 0, &["inspect", "b"])?;
    ensure!(known[0]["ending"]["reason"] == "killed", "{known}");
    caller.document("ls", 0, &["ls", "-a"])?;
    let removed = caller.document("rm", 0, &["rm", "-f", "b", "nobody"])?;
    ensure!(removed[0]["removed"] == true, "{removed}");
    ensure!(removed[1]["removed"] == false, "{removed}");
    let events = caller.lines("events", 0, &["events", "--no-follow"])?;
    ensure!(events.len() > 4, "{events:?}");

    let run = ["run", "--tier", tier];
    let ran = caller.ran("run", 7, &run, &["sh", "-c", "exit 7"])?;
    ensure!(ran["tier"] == tier, "{ran}");
    let none = caller.ran("run", 127, &run, &["no-such-command"])?;
    ensure!(none["error"]["tier"] == tier, "{none}");
    caller.ran(
        "run",
        0,
        &[&run[..], &["--name", "c", "--rm"]].concat(),
        &["true"],
    )?;
    let left = caller.ran(
        "sandbox",
        0,
        &[&run[..], &["-d", "--rm"]].concat(),
        &["true"],
    )?;
    ensure!(left["tier"] == tier, "{left}");
    Ok(())
}

fn commands_without_a_sandbox_keep_their_schemas(sovereign: &Sovereign) -> Outcome {
    let schemas = Schemas::new()?;
    let home = tempfile::tempdir()?;
    let call = |args: &[&str]| {
        let call = sovereign.call(args.iter().chain(&["--json"]));
        call.env("SOVEREIGN_STATE_DIR", home.path())
    };
    let empty = |args: &[&str]| call(args).env("SOVEREIGN_DATA_DIR", home.path());
    judge(&schemas, "version", 0, call(&["version"]))?;
    let doctor = call(&["doctor"]).output()?.json()?;
    schemas.judge("doctor", &doctor)?;
    judge(&schemas, "prune", 0, call(&["prune", "--dry-run"]))?;
    judge(&schemas, "image-ls", 0, empty(&["image", "ls"]))?;
    judge(&schemas, "image-freed", 0, empty(&["image", "prune"]))?;
    for command in ["inspect", "rm", "verify"] {
        let none = judge(&schemas, "error", 125, empty(&["image", command, "none"]))?;
        ensure!(none["error"]["code"] == "no-image", "{none}");
    }
    let images = judge(&schemas, "image-ls", 0, call(&["image", "ls"]))?;
    if let Some(name) = images[0]["name"].as_str() {
        judge(
            &schemas,
            "image-inspect",
            0,
            call(&["image", "inspect", name]),
        )?;
        let verify = call(&[
            "image",
            "verify",
            "--progress",
            "none",
            "--tier",
            "local",
            name,
        ]);
        let verified = verify.output()?.json()?;
        schemas.judge("image-verify", &verified)?;
    }
    let misuse: [&[&str]; 5] = [
        &["ls", "--no-such-flag"],
        &["dctor"],
        &["ls", "--filter", "colour=red"],
        &["kill", "-s", "SING", "x"],
        &["cp", "here", "there"],
    ];
    for args in misuse {
        let wrong = judge(&schemas, "error", 125, call(args))?;
        ensure!(wrong["error"]["code"] == "usage", "{wrong}");
    }
    let none = ["run", "--tier", "appcontainer", "--json", "--", "true"];
    let none = judge(&schemas, "run", 125, sovereign.call(none))?;
    ensure!(none["error"]["code"] == "tier-unavailable", "{none}");
    ensure!(none["error"]["tier"] == "appcontainer", "{none}");
    PASSED
}
