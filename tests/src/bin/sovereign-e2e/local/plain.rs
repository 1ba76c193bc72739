//! Where commands cannot be confined: what is promised then, and what is not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use sovereign_tests::call::{Running, Sovereign, read_exactly};
use tempfile::TempDir;

use super::{Local, Traces, is_installed};
use crate::suite::{Outcome, PASSED, Suite, skip};

pub(crate) fn add(suite: &mut Suite) {
    suite.host(
        "local",
        &[
            (
                "unconfined_command_is_told_to_be_so",
                unconfined_command_is_told_to_be_so,
            ),
            (
                "unconfined_command_has_a_folder_of_its_own",
                has_a_folder_of_its_own,
            ),
            ("unconfined_command_has_t_apts", unconfined_has_t_apts),
            (
                "killed_sovereign_leaves_no_unconfined_command",
                killed_leaves_nothing,
            ),
            (
                "folder_of_a_killed_agent_is_pruned_and_others_stay",
                prune_removes_what_is_abandoned,
            ),
        ],
    );
}

/// The command under test, where there can be no more user namespaces.
struct Unconfined {
    local: Local,
    _wrapper: TempDir,
}

impl Unconfined {
    /// `None` where not even the namespace can be made in which there can be no more.
    fn new(sovereign: &Sovereign) -> Result<Option<Self>> {
        const FORBID: &str = "echo 0 > /proc/sys/user/max_user_namespaces";
        let possible = Command::new("unshare")
            .args(["--user", "--map-root-user", "sh", "-c", FORBID])
            .output()
            .context("cannot start unshare")?;
        if !possible.status.success() {
            return Ok(None);
        }
        let wrapper = tempfile::tempdir()?;
        let program = wrapper.path().join("sovereign");
        let script = format!(
            "#!/bin/sh\nexec unshare --user --map-root-user sh -c '{FORBID} && exec \"$0\" \"$@\"' \
             '{}' \"$@\"\n",
            sovereign.program().display()
        );
        fs::write(&program, script)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        let local = Local::ours(&Sovereign::at(&program)?);
        Ok(Some(Self {
            local,
            _wrapper: wrapper,
        }))
    }
}

fn unconfined(sovereign: &Sovereign, test: impl Fn(&Local) -> Outcome) -> Outcome {
    match Unconfined::new(sovereign)? {
        Some(unconfined) => test(&unconfined.local),
        None => skip("no user namespace can be made in which there can be no more of them"),
    }
}

fn unconfined_has_t_apts(sovereign: &Sovereign) -> Outcome {
    if !is_installed("python3") {
        return skip("there is no python3");
    }
    unconfined(sovereign, |local| {
        let data = tempfile::tempdir()?;
        // The second run finds what Python may have left there in the first.
        for _ in 0..2 {
            let call = local.run(["-q", "--", "python3", "-m", "terminai_apts", "version"]);
            let output = call.env("SOVEREIGN_DATA_DIR", data.path()).output()?;
            ensure!(output.code() == Some(0), "{output}");
            ensure!(output.json()?["ok"] == true, "{output}");
        }
        PASSED
    })
}

fn unconfined_command_is_told_to_be_so(sovereign: &Sovereign) -> Outcome {
    unconfined(sovereign, |local| {
        let cause = local.shortfall()?.unwrap_or_default();
        ensure!(cause.contains("max_user_namespaces"), "{cause:?}");
        let output = local.run(["--", "echo", "ran"]).output()?;
        ensure!(output.text() == "ran", "{output}");
        let told = "isolation none: the command can do what you can";
        ensure!(output.errors().contains(told), "{output}");
        let output = local
            .run(["--min-isolation", "process", "--", "echo", "ran"])
            .output()?;
        ensure!(
            output.code() == Some(125) && output.stdout.is_empty(),
            "{output}"
        );
        ensure!(output.errors().contains("sudo sysctl"), "{output}");
        for [flag, value] in [
            ["--hostname", "box"],
            ["--overlay-size", "16M"],
            ["--network", "none"],
            ["--pids-limit", "100"],
        ] {
            let output = local.run([flag, value, "--", "echo", "ran"]).output()?;
            ensure!(
                output.code() == Some(125) && output.stdout.is_empty(),
                "{output}"
            );
        }
        PASSED
    })
}

fn has_a_folder_of_its_own(sovereign: &Sovereign) -> Outcome {
    unconfined(sovereign, |local| {
        let script = "test \"$PWD\" = \"$HOME\" && ls -A && mkdir -p a/b && touch a/b/c && pwd";
        let output = local.sh(script).output()?;
        ensure!(output.code() == Some(0), "{output}");
        let text = output.text();
        ensure!(text.starts_with("/tmp/sovereign-local."), "{output}");
        ensure!(!Path::new(&text).exists(), "{output}");
        PASSED
    })
}

fn killed_leaves_nothing(sovereign: &Sovereign) -> Outcome {
    unconfined(sovereign, |local| {
        let before = Traces::look()?;
        let script = "trap '' TERM HUP; echo x > file; (setsid sleep 7009 &); echo up; sleep 7009";
        let mut running = local.sh(script).start()?;
        let mut stdout = running.take_stdout()?;
        ensure!(read_exactly(&mut stdout, 3)? == b"up\n");
        drop(running);
        before.are_gone()
    })
}

fn prune_removes_what_is_abandoned(sovereign: &Sovereign) -> Outcome {
    let data = tempfile::tempdir()?;
    let prune = |args: &[&str]| -> Result<Vec<String>> {
        let call = sovereign.call([&["prune", "--json"], args].concat());
        let output = call.env("SOVEREIGN_DATA_DIR", data.path()).output()?;
        ensure!(output.code() == Some(0), "{output}");
        let answer = output.json()?;
        let found = answer["leftovers"].as_array().context("no list")?.iter();
        let folders = found.filter(|left| left["kind"] == "home-folder");
        Ok(folders
            .map(|left| format!("folder {}", left["name"].as_str().unwrap_or_default()))
            .collect())
    };
    unconfined(sovereign, |local| {
        // What others have left is not of this test.
        prune(&[])?;
        let start = || -> Result<(Running, Vec<String>)> {
            let before = Traces::look()?;
            let mut running = local.sh("echo x > file; echo up; sleep 7010").start()?;
            ensure!(read_exactly(&mut running.take_stdout()?, 3)? == b"up\n");
            Ok((
                running,
                Traces::look()?.0.difference(&before.0).cloned().collect(),
            ))
        };
        let (killed, traces) = start()?;
        let (live, _) = start()?;
        let (agents, folders): (Vec<_>, Vec<_>) = traces
            .into_iter()
            .partition(|trace| trace.starts_with("agent "));
        ensure!(
            !agents.is_empty() && folders.len() == 1,
            "{agents:?} {folders:?}"
        );
        for agent in &agents {
            let agent = agent.trim_start_matches("agent ").parse().ok();
            kill_process(
                agent.and_then(Pid::from_raw).context("no process")?,
                Signal::KILL,
            )?;
        }
        killed.signal(Signal::KILL)?;
        drop(killed);
        // What is dying still holds its folder.
        let end = Instant::now() + Duration::from_secs(30);
        while prune(&["--dry-run"])?.is_empty() && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        ensure!(prune(&["--dry-run"])? == folders, "{folders:?}");
        ensure!(prune(&[])? == folders, "{folders:?}");
        ensure!(prune(&[])?.is_empty());
        drop(live);
        PASSED
    })
}
