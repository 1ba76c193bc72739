//! Sandboxes that outlive their creator: the same tests on every tier.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sovereign_tests::call::{Call, Sovereign};
use sovereign_tests::host::{is_running, processes};
use tempfile::TempDir;

use crate::suite::{Outcome, PASSED, Suite, Test};

/// How long something that has to happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The tests, each on every tier.
macro_rules! on_every_tier {
    ($suite:expr, $($name:ident),+ $(,)?) => {
        let local: &[(&str, Test)] = &[$((stringify!($name), |s| with(s, "local", $name))),+];
        let guest: &[(&str, Test)] = &[$((stringify!($name), |s| with(s, "microvm", $name))),+];
        let docker: &[(&str, Test)] = &[$((stringify!($name), |s| with(s, "docker", $name))),+];
        let podman: &[(&str, Test)] = &[$((stringify!($name), |s| with(s, "podman", $name))),+];
        $suite.host("detached", local);
        $suite.engine("docker", "detached", docker);
        $suite.engine("podman", "detached", podman);
        $suite.guest("detached", guest);
    };
}

pub(crate) fn add(suite: &mut Suite) {
    on_every_tier!(
        suite,
        sandbox_outlives_its_creator,
        end_is_kept_and_told,
        command_goes_on_alone_and_its_result_is_kept,
        attached_user_types_and_reads,
        stop_is_gentle_first,
        killed_supervisor_leaves_a_dead_sandbox_that_can_start_again,
        owner_that_is_killed_takes_a_named_sandbox_along,
        name_belongs_to_one_of_many,
        lives_are_bounded,
        removed_when_it_ends_if_asked,
        misuse_is_told_with_the_remedy,
        events_tell_what_happened,
        files_go_in_out_and_between,
    );
}

/// A registry of its own, and the command under test.
struct Desk {
    sovereign: Sovereign,
    tier: &'static str,
    state: TempDir,
}

fn with(sovereign: &Sovereign, tier: &'static str, test: fn(&Desk) -> Outcome) -> Outcome {
    let desk = Desk {
        sovereign: sovereign.clone(),
        tier,
        state: tempfile::tempdir()?,
    };
    let outcome = test(&desk);
    // Whatever is still there ends now, also after a failure.
    let listed = desk.call(["ls", "-aq"]).output()?.text();
    let left: Vec<&str> = listed.lines().collect();
    if !left.is_empty() {
        desk.call(["rm", "-f"].into_iter().chain(left)).output()?;
    }
    let verdict = outcome?;
    desk.eventually("no supervisor is left", || {
        Ok(desk.supervisors()?.is_empty())
    })?;
    Ok(verdict)
}

impl Desk {
    fn call<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Call {
        self.sovereign
            .call(args)
            .env("SOVEREIGN_STATE_DIR", self.state.path())
            .deadline(Duration::from_secs(120))
    }

    /// Prepares `sovereign run --tier TIER ARGS`.
    fn run(&self, args: &[&str]) -> Call {
        let start = ["run", "-q", "--tier", self.tier];
        self.call(start.iter().chain(args))
    }

    /// Starts a detached sandbox, which has to succeed.
    fn start(&self, args: &[&str]) -> Result<String> {
        self.good(self.run(&[&["-d"], args].concat()))
    }

    /// What a call that has to succeed prints.
    fn good(&self, call: Call) -> Result<String> {
        let output = call.output()?;
        ensure!(output.code() == Some(0), "{output}");
        Ok(output.text())
    }

    fn says(&self, args: &[&str]) -> Result<String> {
        self.good(self.call(args))
    }

    /// What `inspect` knows.
    fn inspect(&self, name: &str) -> Result<Value> {
        let output = self.call(["inspect", name]).output()?;
        ensure!(output.code() == Some(0), "{output}");
        Ok(output.json()?[0].clone())
    }

    fn state_of(&self, name: &str) -> Result<String> {
        let state = &self.inspect(name)?["state"];
        Ok(state.as_str().context("no state")?.to_owned())
    }

    /// The supervisors of this registry.
    fn supervisors(&self) -> Result<Vec<u32>> {
        let root = self.state.path().as_os_str().as_encoded_bytes();
        let is_ours = |pid: &u32| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                let mut words = line.split(|byte| *byte == 0).skip(1);
                words.next() == Some(b"supervise") && words.next() == Some(root)
            })
        };
        let pids = processes()?.into_iter().map(|process| process.pid);
        Ok(pids.filter(is_ours).collect())
    }

    fn eventually(&self, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !holds()? {
            ensure!(Instant::now() < end, "not in {PATIENCE:?}: {what}");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

fn sandbox_outlives_its_creator(desk: &Desk) -> Outcome {
    let id = desk.start(&["--name", "a", "--", "sh", "-c", "echo up; exec sleep 1000"])?;
    ensure!(
        desk.says(&["ls", "-q"])? == id,
        "it is not in the list as {id}"
    );
    ensure!(desk.state_of("a")? == "running", "{}", desk.state_of("a")?);
    ensure!(
        desk.inspect("a")?["tier"] == desk.tier,
        "{}",
        desk.inspect("a")?
    );

    let output = desk.call(["exec", "-i", "a", "--", "sh", "-c", "cat; exit 3"]);
    let output = output.stdin(b"in\xff".to_vec()).output()?;
    ensure!(output.code() == Some(3), "{output}");
    ensure!(output.stdout == b"in\xff", "{output}");
    desk.eventually("its output is kept", || {
        Ok(desk.says(&["logs", "a"])? == "up")
    })?;
    ensure!(desk.says(&["top", "a"])?.contains("sleep 1000"), "top");
    ensure!(
        desk.says(&["stats", "--no-stream"])?.contains(" a "),
        "stats"
    );

    desk.says(&["kill", "a"])?;
    ensure!(desk.state_of("a")? == "exited", "{}", desk.state_of("a")?);
    desk.says(&["rm", "a"])?;
    ensure!(desk.says(&["ls", "-aq"])?.is_empty(), "it is still listed");
    PASSED
}

fn end_is_kept_and_told(desk: &Desk) -> Outcome {
    desk.start(&[
        "--name",
        "a",
        "--",
        "sh",
        "-c",
        "sleep 0.3; echo out; echo err >&2; exit 7",
    ])?;
    ensure!(desk.says(&["wait", "a"])? == "7", "wait");
    let inspected = desk.inspect("a")?;
    ensure!(inspected["exit_code"] == 7, "{inspected}");
    let logs = desk.call(["logs", "a"]).output()?;
    ensure!(
        (logs.text(), logs.errors().trim()) == ("out".to_owned(), "err"),
        "{logs}"
    );
    ensure!(
        desk.says(&["logs", "--tail", "0", "a"])?.is_empty(),
        "no lines were asked for"
    );
    ensure!(desk.says(&["ls", "-a"])?.contains("exited (7)"), "ls -a");
    ensure!(
        desk.says(&["wait", "a"])? == "7",
        "what has ended can be waited for"
    );
    // It starts again, in the tier that it had.
    desk.says(&["start", "a"])?;
    ensure!(desk.says(&["wait", "a"])? == "7", "wait");
    PASSED
}

fn command_goes_on_alone_and_its_result_is_kept(desk: &Desk) -> Outcome {
    desk.start(&["--name", "a", "--", "sleep", "1000"])?;
    let script = "sleep 0.3; echo one; sleep 0.3; echo two; exit 5";
    let number = desk.says(&["exec", "-d", "a", "--", "sh", "-c", script])?;
    ensure!(
        desk.says(&["logs", "-f", "a", &number])? == "one\ntwo",
        "logs -f"
    );
    ensure!(
        desk.says(&["wait", "--command", &number, "a"])? == "5",
        "wait"
    );
    let missing = desk
        .call(["exec", "-d", "a", "--", "no-such-command"])
        .output()?;
    ensure!(missing.code() == Some(127), "{missing}");
    let commands = desk.inspect("a")?["commands"].clone();
    let known = commands.as_array().context("no commands")?;
    ensure!(known.len() == 2, "{commands}");
    ensure!(known[1]["report"]["code"] == 5, "{commands}");
    let attached = desk.call(["attach", "a", &number]).output()?;
    ensure!(attached.code() == Some(5), "{attached}");
    PASSED
}

fn attached_user_types_and_reads(desk: &Desk) -> Outcome {
    let script = "while read -r line; do echo \"<$line>\"; done; exit 4";
    desk.start(&["--name", "a", "-i", "--", "sh", "-c", script])?;
    let attached = desk.call(["attach", "a"]).stdin("one\ntwo\n").output()?;
    ensure!(attached.code() == Some(4), "{attached}");
    ensure!(attached.text() == "<one>\n<two>", "{attached}");
    ensure!(
        desk.says(&["wait", "a"])? == "4",
        "the sandbox ends with its command"
    );
    PASSED
}

fn stop_is_gentle_first(desk: &Desk) -> Outcome {
    let gentle = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    desk.start(&["--name", "gentle", "--", "sh", "-c", gentle])?;
    desk.start(&["--name", "deaf", "--", "sh", "-c", deaf])?;
    for name in ["gentle", "deaf"] {
        desk.eventually("it is ready", || Ok(desk.says(&["logs", name])? == "ready"))?;
    }
    desk.says(&["stop", "-t", "1s", "gentle", "deaf"])?;
    ensure!(desk.says(&["wait", "gentle"])? == "9", "it had its say");
    ensure!(desk.says(&["wait", "deaf"])? == "143", "it was ended");
    desk.says(&["stop", "deaf"])?;
    PASSED
}

fn killed_supervisor_leaves_a_dead_sandbox_that_can_start_again(desk: &Desk) -> Outcome {
    desk.start(&["--name", "a", "--", "sleep", "1000"])?;
    let holder = desk.inspect("a")?["process"]
        .as_u64()
        .context("no process")?;
    for pid in desk.supervisors()? {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("no process id")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    }
    desk.eventually(
        "it is told to be dead",
        || Ok(desk.state_of("a")? == "dead"),
    )?;
    let holder = u32::try_from(holder)?;
    desk.eventually("its process is gone", || Ok(!is_running(holder)))?;
    let exec = desk.call(["exec", "a", "--", "true"]).output()?;
    ensure!(exec.code() == Some(125), "{exec}");
    ensure!(
        exec.errors().contains("killed") && exec.errors().contains("sovereign start a"),
        "{exec}"
    );
    desk.says(&["start", "a"])?;
    desk.says(&["exec", "a", "--", "true"])?;
    PASSED
}

fn owner_that_is_killed_takes_a_named_sandbox_along(desk: &Desk) -> Outcome {
    let mut owner = desk.run(&["--name", "a", "--", "sleep", "1000"]).start()?;
    desk.eventually("it runs", || {
        Ok(desk.says(&["ls", "-q"])?.lines().count() == 1)
    })?;
    desk.eventually("it can be used", || {
        Ok(desk.call(["exec", "a", "--", "true"]).output()?.code() == Some(0))
    })?;
    owner.signal(rustix::process::Signal::KILL)?;
    owner.wait()?;
    desk.eventually("it has ended", || Ok(desk.state_of("a")? == "exited"))?;
    ensure!(desk.says(&["wait", "a"])? == "137", "wait");
    desk.says(&["rm", "a"])?;
    // With its command it ends like any other, and the result is kept.
    let output = desk
        .run(&["--name", "b", "--", "sh", "-c", "exit 6"])
        .output()?;
    ensure!(output.code() == Some(6), "{output}");
    ensure!(desk.says(&["wait", "b"])? == "6", "wait");
    PASSED
}

fn name_belongs_to_one_of_many(desk: &Desk) -> Outcome {
    let made: Vec<_> = thread::scope(|scope| {
        let makers: Vec<_> = (0..12)
            .map(|_| scope.spawn(|| desk.call(["create", "--name", "a"]).output()))
            .collect();
        makers.into_iter().map(|maker| maker.join()).collect()
    });
    let mut codes = Vec::new();
    for outcome in made {
        let output = outcome.map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        if output.code() != Some(0) {
            ensure!(
                output
                    .errors()
                    .contains("the name \"a\" is that of sandbox"),
                "{output}"
            );
        }
        codes.push(output.code());
    }
    let good = codes.iter().filter(|code| **code == Some(0)).count();
    ensure!(good == 1, "{codes:?}");
    ensure!(
        desk.says(&["ls", "-aq"])?.lines().count() == 1,
        "one is listed"
    );
    desk.says(&["rename", "a", "b"])?;
    desk.says(&["create", "--name", "a"])?;
    let taken = desk.call(["rename", "a", "b"]).output()?;
    ensure!(taken.code() == Some(125), "{taken}");
    let listed: BTreeSet<_> = desk
        .says(&["ls", "-aq"])?
        .lines()
        .map(str::to_owned)
        .collect();
    ensure!(listed.len() == 2, "{listed:?}");
    PASSED
}

fn lives_are_bounded(desk: &Desk) -> Outcome {
    desk.start(&[
        "--name",
        "long",
        "--max-duration",
        "1s",
        "--",
        "sleep",
        "1000",
    ])?;
    ensure!(desk.says(&["wait", "long"])? == "124", "its time was over");
    desk.good(desk.call([
        "create",
        "--tier",
        desk.tier,
        "--name",
        "idle",
        "--idle-timeout",
        "1s",
    ]))?;
    desk.says(&["start", "idle"])?;
    desk.says(&["exec", "idle", "--", "sleep", "2"])?;
    ensure!(
        desk.says(&["wait", "idle"])? == "124",
        "it had nothing to do"
    );
    PASSED
}

fn removed_when_it_ends_if_asked(desk: &Desk) -> Outcome {
    desk.start(&["--rm", "--name", "a", "--", "true"])?;
    desk.eventually("it is gone", || Ok(desk.says(&["ls", "-aq"])?.is_empty()))?;
    let left: Vec<_> = fs::read_dir(desk.state.path().join("sandboxes"))?.collect();
    ensure!(left.is_empty(), "{left:?}");
    PASSED
}

fn misuse_is_told_with_the_remedy(desk: &Desk) -> Outcome {
    desk.start(&["--name", "web", "--", "sleep", "1000"])?;
    let cases: [(&[&str], u8, &str); 7] = [
        (&["exec", "wep", "--", "true"], 125, "did you mean \"web\""),
        (&["start", "web"], 125, "is running"),
        (&["rm", "web"], 125, "--force"),
        (&["create", "--name", "a/b"], 125, "letters"),
        (&["logs", "web", "9"], 125, "nothing is kept"),
        (&["attach", "web", "9"], 125, "no command 9"),
        (&["kill", "-s", "SING", "web"], 125, "a signal is"),
    ];
    for (args, code, words) in cases {
        let output = desk.call(args).output()?;
        ensure!(output.code() == Some(code.into()), "{output}");
        ensure!(output.errors().contains(words), "{output}");
    }
    let failed = desk.run(&["-d", "--", "no-such-command"]).output()?;
    ensure!(failed.code() == Some(127), "{failed}");
    ensure!(
        desk.says(&["ls", "-aq"])?.lines().count() == 1,
        "what did not start is not kept"
    );
    desk.says(&["rm", "-f", "web", "nobody"])?;
    PASSED
}

fn events_tell_what_happened(desk: &Desk) -> Outcome {
    desk.start(&["--name", "a", "--", "sh", "-c", "sleep 0.2; exit 3"])?;
    desk.says(&["wait", "a"])?;
    desk.says(&["rm", "a"])?;
    let text = desk.says(&["events", "--no-follow"])?;
    let events: Vec<Value> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let kinds: Vec<_> = events
        .iter()
        .filter_map(|event| event["event"].as_str())
        .collect();
    let expected = ["created", "started", "command-ended", "ended", "removed"];
    ensure!(kinds == expected, "{text}");
    ensure!(events[3]["exit_code"] == 3, "{text}");
    PASSED
}

/// As `docker cp` does, with modes, links and holes; and nothing is half written.
fn files_go_in_out_and_between(desk: &Desk) -> Outcome {
    desk.start(&["--name", "one", "--", "sleep", "600"])?;
    desk.start(&["--name", "two", "--", "sleep", "600"])?;
    let here = tempfile::tempdir()?;
    let path = |name: &str| here.path().join(name).display().to_string();
    fs::create_dir_all(path("src/sub"))?;
    fs::write(path("src/sub/run"), "#!/bin/sh\necho ran\n")?;
    fs::set_permissions(path("src/sub/run"), fs::Permissions::from_mode(0o750))?;
    symlink("sub/run", path("src/link"))?;
    fs::File::create(path("src/holes"))?.set_len(100 << 20)?;
    desk.says(&["cp", &path("src"), "one:"])?;
    let ran = desk.says(&["exec", "one", "--", "sh", "-c", "src/link; id -u > src/id"])?;
    ensure!(ran.trim() == "ran", "{ran}");
    desk.says(&["cp", "one:src/.", "two:/tmp/new"])?;
    desk.says(&["cp", "two:/tmp/new", &path("back")])?;
    let run = fs::metadata(path("back/sub/run"))?;
    ensure!(run.mode() & 0o7777 == 0o750, "{:o}", run.mode());
    ensure!(run.modified()? == fs::metadata(path("src/sub/run"))?.modified()?);
    ensure!(fs::read_link(path("back/link"))?.to_str() == Some("sub/run"));
    let holes = fs::metadata(path("back/holes"))?;
    ensure!(
        holes.len() == 100 << 20 && holes.blocks() < 2048,
        "{holes:?}"
    );

    let write = desk.call(["fs", "write", "two", "note"]).stdin("text");
    desk.good(write)?;
    ensure!(desk.says(&["fs", "cat", "two", "note"])?.trim() == "text");
    let found = desk.says(&["fs", "find", "two", "/tmp/new", "--contains", "echo"])?;
    ensure!(found.trim() == "sub/run", "{found}");
    let missing = desk.call(["cp", "one:/no/such", &path("x")]).output()?;
    ensure!(missing.code() == Some(125), "{missing}");
    ensure!(
        missing.to_string().contains("/no/such: No such file"),
        "{missing}"
    );
    PASSED
}
