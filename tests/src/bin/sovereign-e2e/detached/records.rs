//! What is kept of sandboxes, and said about them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::thread;

use anyhow::{Result, ensure};
use serde_json::Value;
use sovereign_tests::call::Sovereign;

use super::Desk;
use crate::small_disk::SmallDisk;
use crate::suite::{Outcome, PASSED, skip};

pub(super) fn name_belongs_to_one_of_many(desk: &Desk) -> Outcome {
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

pub(super) fn misuse_is_told_with_the_remedy(desk: &Desk) -> Outcome {
    desk.start(&["--name", "web", "--", "sleep", "1000"])?;
    let cases: [(&[&str], u8, &str); 8] = [
        (&["exec", "wep", "--", "true"], 125, "did you mean \"web\""),
        (&["start", "web"], 125, "is running"),
        (&["rm", "web"], 125, "--force"),
        (&["create", "--name", "a/b"], 125, "letters"),
        (&["create", "--name", "0123456789ab"], 125, "form of an id"),
        (&["logs", "web", "9"], 125, "nothing is kept"),
        (&["attach", "web", "9"], 125, "no command 9"),
        (&["kill", "-s", "SING", "web"], 125, "a signal is"),
    ];
    for (args, code, words) in cases {
        let output = desk.call(args).output()?;
        ensure!(output.code() == Some(code.into()), "{output}");
        ensure!(output.errors().contains(words), "{output}");
    }
    let started = desk.call(["start", "web"]).output()?;
    ensure!(
        !started.errors().contains("--force"),
        "no such flag: {started}"
    );
    let failed = desk.run(&["-d", "--", "no-such-command"]).output()?;
    ensure!(failed.code() == Some(127), "{failed}");
    ensure!(
        desk.says(&["ls", "-aq"])?.lines().count() == 1,
        "what did not start is not kept"
    );
    desk.says(&["rm", "-f", "web", "nobody"])?;
    PASSED
}

pub(super) fn events_tell_what_happened(desk: &Desk) -> Outcome {
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

pub(super) fn state_folder_need_not_be_text(desk: &Desk) -> Outcome {
    let folder = desk.state.path().join(OsStr::from_bytes(b"x\xff"));
    let here = |args: &[&str]| desk.good(desk.call(args).env("SOVEREIGN_STATE_DIR", &folder));
    here(&["create", "--tier", desk.tier, "--name", "a"])?;
    let told: Value = serde_json::from_str(&here(&["inspect", "a"])?)?;
    let told = told[0]["folder"].as_str().unwrap_or_default();
    ensure!(told.contains("x\u{fffd}/sandboxes"), "{told}");
    here(&["rm", "a"])?;
    PASSED
}

/// A disk with room for a record, and not for what a command writes.
pub(super) fn full_state_folder_is_named_and_left_empty(sovereign: &Sovereign) -> Outcome {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can mount a small file system");
    }
    let dir = tempfile::tempdir()?;
    let script = "dd if=/dev/zero of=\"$1/x\" bs=1k count=60 2>/dev/null
        SOVEREIGN_STATE_DIR=\"$1\" \"$2\" run -q -d --tier local -- sleep 100; code=$?
        find \"$1/sandboxes\" \"$1/names\" -mindepth 1; exit $code";
    let disk = SmallDisk::of("64k", dir.path());
    let output = match disk.run(sovereign.program(), script)? {
        Ok(output) => output,
        Err(reason) => return skip(reason),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(125),
        "{}: {said}",
        output.status
    );
    let place = dir.path().display().to_string();
    ensure!(said.contains("space") && said.contains(&place), "{said}");
    ensure!(said.contains("SOVEREIGN_STATE_DIR"), "no remedy: {said}");
    ensure!(
        output.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    PASSED
}
