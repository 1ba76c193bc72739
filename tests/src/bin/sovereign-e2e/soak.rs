//! Many operations on detached sandboxes, with whatever holds them killed in between: afterwards each
//! sandbox runs and is usable, or is told to have ended, and nothing is left behind.
//!
//! `SOVEREIGN_E2E_SOAK` is the number of operations; the default is for every day.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sovereign_tests::host::{Process, processes};

use crate::detached::{Desk, with};
use crate::suite::{Outcome, PASSED, Suite, Test};

/// Operations of an ordinary run.
const OPERATIONS: u32 = 150;

/// The names that are fought over.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

pub(crate) fn add(suite: &mut Suite) {
    const NAME: &str = "sandboxes_survive_or_are_told_dead";
    let local: Test = |s| with(s, "local", soak);
    let docker: Test = |s| with(s, "docker", soak);
    let podman: Test = |s| with(s, "podman", soak);
    let microvm: Test = |s| with(s, "microvm", soak);
    suite.host("soak", &[(NAME, local)]);
    suite.engine("docker", "soak", &[(NAME, docker)]);
    suite.engine("podman", "soak", &[(NAME, podman)]);
    suite.guest("soak", &[(NAME, microvm)]);
}

struct Soak<'a> {
    desk: &'a Desk,
    random: Random,
    /// How many calls did what they were asked.
    done: u32,
}

fn soak(desk: &Desk) -> Outcome {
    let operations = match env::var("SOVEREIGN_E2E_SOAK") {
        Ok(count) => count.parse().context("SOVEREIGN_E2E_SOAK is a number")?,
        Err(_) if desk.tier == "local" => OPERATIONS,
        // Each starts a guest or a container.
        Err(_) => OPERATIONS / 3,
    };
    let mut soak = Soak {
        desk,
        random: Random(0x5eed),
        done: 0,
    };
    for number in 0..operations {
        let what = soak.step()?;
        soak.check()
            .with_context(|| format!("after operation {number}: {what}"))?;
    }
    soak.clear()?;
    ensure!(
        soak.done > operations / 10,
        "only {} of {operations} were done: the rest says little",
        soak.done
    );
    PASSED
}

impl Soak<'_> {
    /// Does something at random, which may fail: what counts is what is there afterwards.
    fn step(&mut self) -> Result<String> {
        let name = NAMES[self.random.below(NAMES.len())];
        let tier = self.desk.tier;
        let start = [
            "run", "-q", "-d", "--tier", tier, "--name", name, "--", "sleep", "1000",
        ];
        let brief = [
            "run", "-q", "-d", "--tier", tier, "--name", name, "--", "true",
        ];
        let copy = &format!("{name}:copy");
        let args: &[&str] = match self.random.below(14) {
            0..3 => &start,
            3 => &brief,
            4 => &["exec", name, "--", "true"],
            5 => &["exec", "-d", name, "--", "sleep", "1"],
            6 => &["stop", "-t", "100ms", name],
            7 => &["start", name],
            8 => &["rm", "-f", name],
            9 => &["kill", name],
            10 => return self.kill_what_holds_one(),
            11 => return self.kill_a_client(&start),
            12 => return self.kill_a_client(&["fs", "write", name, "note"]),
            _ => &["cp", "/etc/passwd", copy],
        };
        let output = self.desk.call(args).output()?;
        ensure!(
            matches!(output.code(), Some(0 | 125)),
            "an end that is neither good nor told: {output}"
        );
        ensure!(!output.errors().contains("panicked"), "{output}");
        self.done += u32::from(output.code() == Some(0));
        Ok(args.join(" "))
    }

    /// Kills a supervisor, a process of its own, or the agent or monitor of a sandbox.
    fn kill_what_holds_one(&mut self) -> Result<String> {
        let supervisors = self.desk.supervisors()?;
        let listed = self.desk.call(["ls", "-aq"]).output()?.text();
        let recorded: Vec<_> = listed
            .lines()
            .filter_map(|id| self.desk.inspect(id).ok()?["process"].as_u64())
            .collect();
        let holds = |process: &Process| {
            let of_ours = supervisors.contains(&process.pid)
                || supervisors.contains(&process.parent)
                || recorded.contains(&process.pid.into());
            // A number may be somebody else's by now.
            of_ours && process.name.starts_with("sovereign")
        };
        let processes = processes()?.into_iter();
        let holders: Vec<u32> = processes.filter(holds).map(|it| it.pid).collect();
        let Some(victim) = self.random.pick(&holders) else {
            return Ok("kill of nobody".to_owned());
        };
        kill(victim);
        Ok(format!("kill -9 of process {victim}"))
    }

    /// Kills the command line in the middle of what it does.
    fn kill_a_client(&mut self, args: &[&str]) -> Result<String> {
        let mut client = self.desk.call(args).start()?;
        std::thread::sleep(Duration::from_millis(u64::try_from(self.random.below(40))?));
        kill(client.pid());
        client.wait()?;
        Ok(format!("kill -9 of {}", args.join(" ")))
    }

    /// Every sandbox that is listed as running is usable, and every other one is told.
    fn check(&self) -> Result<()> {
        let output = self.desk.call(["ls", "-a", "--json"]).output()?;
        ensure!(output.code() == Some(0), "{output}");
        let listed = output.json()?;
        let listed = listed.as_array().context("no list")?;
        let names: BTreeSet<_> = listed.iter().map(|it| it["name"].to_string()).collect();
        ensure!(names.len() == listed.len(), "two of one name: {output}");
        for it in listed.iter().filter(|it| it["state"] == "running") {
            let name = it["name"].as_str().context("no name")?;
            let used = self.desk.call(["exec", name, "--", "true"]).output()?;
            ensure!(used.code() == Some(0) || !self.runs(name)?, "{used}");
        }
        Ok(())
    }

    fn runs(&self, name: &str) -> Result<bool> {
        let output = self.desk.call(["inspect", name]).output()?;
        let state: Value = output.json()?;
        Ok(state[0]["state"] == "running")
    }

    fn clear(&self) -> Result<()> {
        let listed = self.desk.call(["ls", "-aq"]).output()?.text();
        for id in listed.lines() {
            let output = self.desk.call(["rm", "-f", id]).output()?;
            ensure!(output.code() == Some(0), "{output}");
        }
        let mut patience = 1000;
        while !self.desk.supervisors()?.is_empty() && patience > 0 {
            std::thread::sleep(Duration::from_millis(10));
            patience -= 1;
        }
        let left = self.desk.supervisors()?;
        ensure!(left.is_empty(), "supervisors are left: {left:?}");
        // What those who were killed were just making or removing.
        self.desk.says(&["prune", "-q"])?;
        for folder in ["sandboxes", "names"] {
            let left = entries(&self.desk.state.path().join(folder));
            ensure!(left.is_empty(), "{folder} is not empty: {left:?}");
        }
        Ok(())
    }
}

/// Everything below a folder.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let there = fs::read_dir(folder).into_iter().flatten().flatten();
    let below = there.flat_map(|entry| {
        let path = entry.path();
        let mut below = entries(&path);
        below.insert(0, path);
        below
    });
    below.collect()
}

fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Numbers that are the same in every run (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap_or(0) % limit.max(1)
    }

    fn pick(&mut self, among: &[u32]) -> Option<u32> {
        let place = self.below(among.len());
        among.get(place).copied()
    }
}
