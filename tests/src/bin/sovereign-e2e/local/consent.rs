//! That nothing runs on this machine itself unless somebody said so.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use sovereign_tests::call::Sovereign;

use super::{Local, as_each_user};
use crate::suite::{Outcome, PASSED, Suite, skip};

pub(crate) fn add(suite: &mut Suite) {
    suite.host(
        "local",
        &[
            ("without_consent_nothing_runs", without_consent_nothing_runs),
            (
                "consent_by_environment_or_file_is_enough",
                consent_is_enough,
            ),
            ("naming_the_tier_is_consent", naming_the_tier_is_consent),
            (
                "question_on_a_terminal_defaults_to_no",
                question_defaults_to_no,
            ),
            (
                "question_is_asked_of_a_sandbox_that_is_removed_at_its_end",
                question_is_asked_of_a_sandbox_that_is_removed,
            ),
            (
                "floor_above_the_tier_is_refused",
                floor_above_the_tier_is_refused,
            ),
            (
                "flags_that_cannot_be_honoured_are_refused",
                flags_are_refused,
            ),
        ],
    );
}

/// Why `--tier auto` takes another tier here, if it does.
fn other_tier(local: &Local) -> Result<Option<String>> {
    let answer = local.call(["doctor", "--json"]).output()?.json()?;
    Ok(answer["tier"]
        .as_str()
        .map(|tier| format!("tier {tier} can be had here")))
}

fn without_consent_nothing_runs(sovereign: &Sovereign) -> Outcome {
    as_each_user(sovereign, |local| {
        if let Some(reason) = other_tier(local)? {
            return skip(reason);
        }
        for value in ["", "0", "no"] {
            let call = local.call(["run", "--", "echo", "ran"]);
            let output = call.env("SOVEREIGN_ALLOW_LOCAL", value).output()?;
            ensure!(
                output.code() == Some(125) && output.stdout.is_empty(),
                "{output}"
            );
            for way in ["--tier local", "SOVEREIGN_ALLOW_LOCAL=1"] {
                ensure!(output.errors().contains(way), "{output}");
            }
        }
        let call = local.call(["run", "--json", "--", "echo", "ran"]);
        let answer = call.output()?.json()?;
        ensure!(answer["error"]["code"] == "consent-needed", "{answer}");
        PASSED
    })
}

fn consent_is_enough(sovereign: &Sovereign) -> Outcome {
    as_each_user(sovereign, |local| {
        if let Some(reason) = other_tier(local)? {
            return skip(reason);
        }
        let call = local.call(["run", "--", "echo", "ran"]);
        let output = call.env("SOVEREIGN_ALLOW_LOCAL", "1").output()?;
        ensure!(output.text() == "ran", "{output}");
        ensure!(
            output.errors().contains("tier local, isolation"),
            "{output}"
        );
        ensure!(output.errors().contains("passed over microvm"), "{output}");
        if local.as_nobody {
            return PASSED;
        }
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join("sovereign"))?;
        std::fs::write(
            folder.path().join("sovereign/config.toml"),
            "allow_local = true\n",
        )?;
        let call = local.call(["run", "--", "echo", "ran"]);
        let output = call.env("XDG_CONFIG_HOME", folder.path()).output()?;
        ensure!(output.text() == "ran", "{output}");
        PASSED
    })
}

fn naming_the_tier_is_consent(sovereign: &Sovereign) -> Outcome {
    as_each_user(sovereign, |local| {
        let call = local.run(["--", "echo", "ran"]);
        let output = call.env("SOVEREIGN_ALLOW_LOCAL", "0").output()?;
        ensure!(output.text() == "ran", "{output}");
        let line = output.errors();
        let expected = match local.shortfall()? {
            None => "isolation process (shares this machine's kernel)",
            Some(_) => "isolation none: the command can do what you can",
        };
        ensure!(
            line.contains(expected) && line.lines().count() == 1,
            "{output}"
        );
        PASSED
    })
}

fn question_defaults_to_no(sovereign: &Sovereign) -> Outcome {
    let local = Local::ours(sovereign);
    if let Some(reason) = other_tier(&local)? {
        return skip(reason);
    }
    for (answer, runs) in [
        ("\n", false),
        ("n\n", false),
        ("maybe\n", false),
        ("y\n", true),
    ] {
        let call = ["run", "--", "echo", "it has run"];
        let (shown, code) = answer_question(sovereign, &call, Path::new("/nonexistent"), answer)?;
        ensure!(shown.contains("[y/N]"), "{shown}");
        ensure!(shown.contains("it has run") == runs, "{answer:?}: {shown}");
        ensure!(
            code == Some(if runs { 0 } else { 125 }),
            "{answer:?}: {code:?} {shown}"
        );
    }
    PASSED
}

fn question_is_asked_of_a_sandbox_that_is_removed(sovereign: &Sovereign) -> Outcome {
    let local = Local::ours(sovereign);
    if let Some(reason) = other_tier(&local)? {
        return skip(reason);
    }
    let state = tempfile::tempdir()?;
    let listed = || -> Result<String> {
        let call = local.call(["ls", "-aq"]);
        let output = call.env("SOVEREIGN_STATE_DIR", state.path()).output()?;
        Ok(output.text())
    };
    let call = ["run", "--rm", "--name", "a", "--", "echo", "it has run"];
    let (shown, code) = answer_question(sovereign, &call, state.path(), "n\n")?;
    ensure!(code == Some(125), "{code:?} {shown}");
    ensure!(listed()?.is_empty(), "it is left after a no: {}", listed()?);
    let (shown, code) = answer_question(sovereign, &call, state.path(), "y\n")?;
    ensure!(code == Some(0), "{code:?} {shown}");
    ensure!(shown.contains("it has run"), "{shown}");
    ensure!(listed()?.is_empty(), "it is left: {}", listed()?);

    let make = local.call(["create", "--rm", "--name", "b"]);
    let made = make.env("SOVEREIGN_STATE_DIR", state.path()).output()?;
    ensure!(made.code() == Some(0), "{made}");
    let (shown, code) = answer_question(sovereign, &["start", "b"], state.path(), "n\n")?;
    ensure!(code == Some(125), "{code:?} {shown}");
    ensure!(listed()?.is_empty(), "it is left after a no: {}", listed()?);
    PASSED
}

/// Answers the question of a call on a terminal of its own. Returns what the terminal shows, and the
/// exit code.
fn answer_question(
    sovereign: &Sovereign,
    call: &[&str],
    state: &Path,
    answer: &str,
) -> Result<(String, Option<i32>)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?.into_string()?;
    let device = File::options().read(true).write(true).open(name)?;
    let stdio = || device.try_clone().map(Stdio::from);
    let mut child = Command::new("setsid")
        .args(["--ctty", "--wait"])
        .arg(sovereign.program())
        .args(call)
        .env("HOME", "/nonexistent")
        .env("SOVEREIGN_STATE_DIR", state)
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("SOVEREIGN_ALLOW_LOCAL")
        .stdin(stdio()?)
        .stdout(stdio()?)
        .stderr(stdio()?)
        .spawn()
        .context("cannot start setsid")?;
    drop(device);
    let mut screen = File::from(master);
    let mut shown = Vec::new();
    let mut buffer = [0; 4096];
    let mut answered = false;
    // Reading a terminal that nobody has open any more is an error.
    while let Ok(count @ 1..) = screen.read(&mut buffer) {
        shown.extend(buffer.get(..count).unwrap_or_default());
        if !answered && String::from_utf8_lossy(&shown).contains("[y/N] ") {
            screen.write_all(answer.as_bytes())?;
            answered = true;
        }
    }
    let code = child.wait()?.code();
    Ok((String::from_utf8_lossy(&shown).into_owned(), code))
}

fn floor_above_the_tier_is_refused(sovereign: &Sovereign) -> Outcome {
    as_each_user(sovereign, |local| {
        for floor in ["container", "vm"] {
            let output = local
                .run(["--min-isolation", floor, "--", "echo", "ran"])
                .output()?;
            ensure!(
                output.code() == Some(125) && output.stdout.is_empty(),
                "{output}"
            );
            ensure!(output.errors().contains(floor), "{output}");
        }
        let output = local
            .run(["--min-isolation", "process", "--", "echo", "ran"])
            .output()?;
        match local.shortfall()? {
            None => ensure!(output.text() == "ran", "{output}"),
            Some(cause) => ensure!(
                output.code() == Some(125) && output.errors().contains(&cause),
                "{output}"
            ),
        }
        PASSED
    })
}

fn flags_are_refused(sovereign: &Sovereign) -> Outcome {
    let local = Local::ours(sovereign);
    let cases = [
        ["--cpus", "1"],
        ["--memory", "512M"],
        ["--image", "sandbox"],
        ["--kernel", "/boot/vmlinux"],
        ["--initramfs", "/boot/initrd"],
        ["--rootfs", "/boot/root"],
    ];
    for [flag, value] in cases {
        let output = local.run([flag, value, "--", "echo", "ran"]).output()?;
        ensure!(
            output.code() == Some(125) && output.stdout.is_empty(),
            "{output}"
        );
        let expected = format!("tier local cannot honour {flag}");
        ensure!(output.errors().contains(&expected), "{output}");
    }
    PASSED
}
