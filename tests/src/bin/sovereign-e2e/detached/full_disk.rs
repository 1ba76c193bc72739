//! A state folder whose disk is full: for a moment, or to the end.

use std::fs::OpenOptions;
use std::io::Write;

use anyhow::{Result, ensure};

use super::Desk;
use crate::small_disk::SmallDisk;
use crate::suite::{Outcome, PASSED, skip};

/// What a script says for which 512 KiB are the disk of the state folder, where it begins; `Err` says why
/// there is no such disk.
fn on_a_small_disk(desk: &Desk, script: &str) -> Result<Result<String, String>> {
    let place = desk.state.path();
    let disk = SmallDisk::of("512k", place).env("SOVEREIGN_STATE_DIR", place);
    let script = format!("program=$2; cd \"$1\"\n{script}");
    let ran = disk.run(desk.program(), &script)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(ran.map(|output| text(&output.stdout) + &text(&output.stderr)))
}

/// What is written while the disk is full is missing, and nothing else.
pub(super) fn moment_of_a_full_disk_spoils_no_log(desk: &Desk) -> Outcome {
    // The command is told when to go on, and is seen waiting (`sleep 0.07`). The rest of what it wrote has a
    // second to be looked at.
    let script = r#""$program" run -q -d --tier local --name a --timeout 60s -- sh -c '
            go=0; trap "go=\$((go + 1))" USR1
            echo first
            until [ $go = 1 ]; do sleep 0.06; done
            (trap "" USR1; yes 0123456 | head -c 800000)
            until [ $go = 2 ]; do sleep 0.07; done
            echo later; exit 3'
        soon() { for i in $(seq 300); do "$@" && return; sleep 0.1; done; echo "never: $*"; exit 1; }
        begun() { "$program" logs a | grep -q first; }
        waits() { "$program" top a | grep -q "sleep 0.07\$"; }
        log=$(mktemp); trap 'rm -f "$log"' EXIT
        soon begun
        head -c 100000 /dev/zero > filler; "$program" kill -s USR1 a
        soon waits
        sleep 1; rm filler; "$program" kill -s USR1 a
        "$program" wait a; "$program" logs a > "$log" 2>&1; echo "logs: $?"
        grep -v 0123456 "$log"; "$program" rm a"#;
    let said = match on_a_small_disk(desk, script)? {
        Ok(said) => said,
        Err(reason) => return skip(reason),
    };
    for expected in [
        "3\nlogs: 0",
        "first\n",
        "later\n",
        "bytes of it are missing",
    ] {
        ensure!(said.contains(expected), "not {expected:?}: {said}");
    }
    PASSED
}

/// How a sandbox ended is known also if the disk is full then.
pub(super) fn full_disk_costs_no_result(desk: &Desk) -> Outcome {
    let script = "\"$program\" run -q -d --tier local --name a -- sh -c 'sleep 1; exit 3'
        dd if=/dev/zero of=filler bs=4k 2>/dev/null
        \"$program\" wait a; \"$program\" ls -a; \"$program\" inspect a | grep exit_code
        ls sandboxes/*; \"$program\" rm a";
    let said = match on_a_small_disk(desk, script)? {
        Ok(said) => said,
        Err(reason) => return skip(reason),
    };
    for expected in ["exited (3)", "\"exit_code\": 3"] {
        ensure!(said.contains(expected), "not {expected:?}: {said}");
    }
    ensure!(!said.contains("record.room"), "it takes room: {said}");
    PASSED
}

/// Of a log that was damaged all is shown that comes before the damage.
pub(super) fn damaged_log_is_shown_as_far_as_it_goes(desk: &Desk) -> Outcome {
    let id = desk.start(&["--name", "a", "--", "sh", "-c", "echo first; exit 3"])?;
    desk.says(&["wait", "a"])?;
    let folder = desk.state.path().join("sandboxes").join(id);
    let log = folder.join("output/0");
    let mut log = OpenOptions::new().append(true).open(log)?;
    log.write_all(&[9; 40])?;
    let shown = desk.call(["logs", "a"]).output()?;
    ensure!(shown.code() == Some(125), "{shown}");
    ensure!(shown.text() == "first", "{shown}");
    ensure!(shown.errors().contains("damaged at byte"), "{shown}");
    PASSED
}
