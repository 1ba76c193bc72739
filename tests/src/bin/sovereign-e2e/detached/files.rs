//! Files go in, out and between.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::Desk;
use crate::small_disk::SmallDisk;
use crate::suite::{Outcome, PASSED, skip};

/// The sandbox's user.
const USER: u32 = 1000;

/// As `docker cp` does, with modes, links and holes; and nothing is half written.
pub(super) fn files_go_in_out_and_between(desk: &Desk) -> Outcome {
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
    let listed = desk.says(&["fs", "ls", "two", "/tmp/new/sub"])?;
    ensure!(listed.trim().ends_with(" run"), "{listed}");
    let listed = desk.says(&["fs", "ls", "two", "/tmp/new/sub/", "/tmp/new/sub"])?;
    ensure!(listed.matches(" /tmp/new/sub/run").count() == 2, "{listed}");
    let missing = desk.call(["cp", "one:/no/such", &path("x")]).output()?;
    ensure!(missing.code() == Some(125), "{missing}");
    ensure!(
        missing.to_string().contains("/no/such: No such file"),
        "{missing}"
    );
    PASSED
}

/// What is not done by then is not done at all, and the sandbox goes on.
pub(super) fn files_have_no_more_time_than_they_are_given(desk: &Desk) -> Outcome {
    desk.start(&["--name", "a", "--", "sleep", "600"])?;
    desk.good(desk.call(["fs", "write", "a", "note"]).stdin("old"))?;
    let writing: [(&[&str], &str); 3] = [
        (
            &["fs", "write", "--timeout=1s", "a", "note"],
            "note: it was",
        ),
        (
            &["cp", "--timeout", "1s", "-", "a:"],
            "had: copying - to a:",
        ),
        (&["fs", "--timeout=1s", "watch", "a", "."], ".: it was"),
    ];
    for (args, what) in writing {
        let mut running = desk.call([&["--json"], args].concat()).start()?;
        // Whoever writes to it has all the time in the world.
        let stdin = running.take_stdin()?;
        let mut said = String::new();
        running.take_stdout()?.read_to_string(&mut said)?;
        let status = running.wait()?;
        drop(stdin);
        ensure!(status.code() == Some(124), "{args:?}: {status}, {said}");
        ensure!(said.contains(r#""out-of-time""#), "{args:?}: {said}");
        ensure!(said.contains(what), "{args:?}: {said}");
    }
    let in_time = desk.says(&["fs", "cat", "--timeout=60s", "a", "note"])?;
    ensure!(in_time.trim() == "old", "{in_time}");
    desk.eventually("nothing half written is left", || {
        let names = desk.says(&["exec", "a", "--", "ls", "-A"])?;
        Ok(!names.contains(".sovereign-"))
    })?;
    what_has_no_time_is_not_begun(desk)
}

fn what_has_no_time_is_not_begun(desk: &Desk) -> Outcome {
    desk.says(&["exec", "a", "--", "mkdir", "folder", "other"])?;
    let late: [&[&str]; 2] = [
        &["fs", "rm", "--timeout=1ns", "a", "note", "folder"],
        &["fs", "mv", "--timeout=1ns", "a", "folder", "other"],
    ];
    for args in late {
        let output = desk.call(args).output()?;
        ensure!(output.code() == Some(124), "{args:?}: {output}");
        ensure!(output.errors().contains("folder: "), "{args:?}: {output}");
    }
    let names = desk.says(&["exec", "a", "--", "ls"])?;
    ensure!(names == "folder\nnote\nother", "{names}");
    // Whoever keeps the sandbox says nothing either.
    for pid in desk.supervisors()? {
        let pid = Pid::from_raw(i32::try_from(pid)?).context("no process")?;
        kill_process(pid, Signal::STOP)?;
    }
    let output = desk
        .call(["fs", "cat", "--timeout=300ms", "a", "note"])
        .output()?;
    ensure!(output.code() == Some(124), "{output}");
    desk.says(&["kill", "a"])?;
    PASSED
}

/// With modes, times and links; root's are kept where somebody is root, and else nobody pretends.
pub(super) fn archive_keeps_who_files_belong_to(desk: &Desk) -> Outcome {
    let ours = rustix::process::geteuid();
    if !ours.is_root() && ours.as_raw() != USER {
        return skip("only root can give files away");
    }
    desk.start(&["--name", "a", "--", "sleep", "600"])?;
    let here = tempfile::tempdir()?;
    let path = |name: &str| here.path().join(name).display().to_string();
    fs::create_dir(path("tree"))?;
    fs::write(path("tree/run"), "run")?;
    symlink("run", path("tree/link"))?;
    fs::hard_link(path("tree/run"), path("tree/same"))?;
    fs::set_permissions(path("tree/run"), fs::Permissions::from_mode(0o751))?;
    let time = UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    fs::File::open(path("tree/run"))?.set_modified(time)?;
    for name in ["tree/run", "tree/link", "tree"] {
        lchown(path(name), Some(USER), Some(USER))?;
    }
    desk.says(&["cp", "-a", &path("tree"), "a:/tmp/tree"])?;
    let stat = "cd /tmp/tree; stat -c '%n %u %g %a %Y' run; stat -c '%n %u %g' link; \
                test run -ef same";
    let told = desk.says(&["exec", "a", "--", "sh", "-c", stat])?;
    let expected = format!("run {USER} {USER} 751 1000000000\nlink {USER} {USER}");
    ensure!(told == expected, "{told}");

    desk.says(&["cp", "-a", "a:/tmp/tree", &path("back")])?;
    for name in ["back/run", "back/link", "back"] {
        let kept = fs::symlink_metadata(path(name))?;
        let owner = (kept.uid(), kept.gid());
        ensure!(owner == (USER, USER), "{name}: {owner:?}");
    }
    let run = fs::metadata(path("back/run"))?;
    ensure!(run.mode() & 0o7777 == 0o751, "{:o}", run.mode());
    ensure!(run.modified()? == time, "{:?}", run.modified());
    ensure!(run.ino() == fs::metadata(path("back/same"))?.ino());
    ensure!(fs::read_link(path("back/link"))?.to_str() == Some("run"));
    if ours.is_root() {
        roots_file_is_given_or_refused(desk, &path("roots"))?;
    }
    PASSED
}

fn roots_file_is_given_or_refused(desk: &Desk, source: &str) -> Result<()> {
    fs::write(source, "root's")?;
    let root: &[&str] = match desk.tier {
        "microvm" => &["-u", "root"],
        _ => &[],
    };
    let words = [&["cp", "-a"], root, &[source, "a:/tmp"]].concat();
    let given = desk.call(words).output()?;
    if given.code() == Some(0) {
        let owner = desk.says(&["exec", "a", "--", "stat", "-c", "%u", "/tmp/roots"])?;
        ensure!(owner == "0", "{owner}");
        return Ok(());
    }
    ensure!(
        desk.tier != "microvm" && given.code() == Some(125),
        "{given}"
    );
    let words = "cannot be given to user 0";
    ensure!(given.errors().contains(words), "{given}");
    Ok(())
}

/// The error names the file, the reason and the remedy, and what was there before stays.
pub(super) fn full_sandbox_is_told(desk: &Desk) -> Outcome {
    let bound = ["--overlay-size", "2M", "--name", "a", "--", "sleep", "600"];
    desk.start(&bound)?;
    let here = tempfile::tempdir()?;
    let big = here.path().join("big");
    fs::write(&big, "small")?;
    let source = big.display().to_string();
    desk.says(&["cp", &source, "a:/tmp"])?;
    fs::write(&big, vec![b'x'; 8 << 20])?;
    let full = desk.call(["cp", "--json", &source, "a:/tmp"]).output()?;
    ensure!(full.code() == Some(125), "{full}");
    let error = &full.json()?["error"];
    ensure!(error["code"] == "no-space", "{full}");
    let message = error["message"].as_str().unwrap_or_default();
    ensure!(message.starts_with("/tmp/big: No space left"), "{full}");
    let hint = error["hint"].as_str().unwrap_or_default();
    ensure!(hint.contains("--overlay-size"), "{full}");
    let old = desk.says(&["fs", "cat", "a", "/tmp/big"])?;
    ensure!(old == "small", "{old}");
    PASSED
}

/// The same of a file system of this machine.
pub(super) fn full_host_is_told(desk: &Desk) -> Outcome {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can mount a small file system");
    }
    let script = "head -c 4194304 /dev/zero > big; exec sleep 600";
    desk.start(&["--name", "a", "--", "sh", "-c", script])?;
    desk.eventually("the file is there", || {
        let told = desk.call(["exec", "a", "--", "stat", "-c", "%s", "big"]);
        Ok(told.output()?.text() == "4194304")
    })?;
    let small = tempfile::tempdir()?;
    let script = "\"$2\" cp --json a:big \"$1\"; code=$?; ls -A \"$1\" >&2; exit $code";
    let disk = SmallDisk::of("1m", small.path()).env("SOVEREIGN_STATE_DIR", desk.state.path());
    let output = match disk.run(desk.program(), script)? {
        Ok(output) => output,
        Err(reason) => return skip(reason),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(125),
        "{}: {said}",
        output.status
    );
    let told: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let error = &told["error"];
    let place = small.path().display().to_string();
    let message = error["message"].as_str().unwrap_or_default();
    ensure!(
        message.starts_with(&format!("{place}/big: No space left")),
        "{told}"
    );
    let hint = error["hint"].as_str().unwrap_or_default();
    ensure!(
        hint.contains(&place) && error["code"] == "no-space",
        "{told}"
    );
    ensure!(said.is_empty(), "it left {said}");
    PASSED
}
