//! What is no file, and what says less of itself than it has.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;

use anyhow::{Result, ensure};

use super::Desk;
use crate::suite::{Outcome, PASSED};

/// Named by the user or met in a folder: nothing takes their place, here and in a sandbox.
pub(super) fn devices_pipes_and_sockets_stay_what_they_are(desk: &Desk) -> Outcome {
    let script = "mkdir tree; echo x > tree/pipe; echo x > file; mkfifo pipe; exec sleep 600";
    desk.start(&["--name", "a", "--", "sh", "-c", script])?;
    desk.eventually("the files are there", || {
        let there = desk.call(["fs", "stat", "a", "pipe"]).output()?;
        Ok(there.code() == Some(0))
    })?;
    let here = tempfile::tempdir()?;
    let path = |name: &str| here.path().join(name).display().to_string();
    fs::create_dir(path("tree"))?;
    let mut odd = vec!["pipe", "tree/pipe", "socket"];
    for pipe in ["pipe", "tree/pipe"] {
        make(Command::new("mkfifo").arg(path(pipe)))?;
    }
    let _listening = UnixListener::bind(path("socket"))?;
    if rustix::process::geteuid().is_root() {
        make(
            Command::new("mknod")
                .arg(path("null"))
                .args(["c", "1", "3"]),
        )?;
        odd.push("null");
    }
    symlink("/proc/self/fd/1", path("stdout"))?;
    for name in ["pipe", "socket", "null", "stdout"] {
        if name == "null" && !odd.contains(&name) {
            continue;
        }
        is_refused(desk, "a:file", &path(name), &path(name))?;
    }
    is_refused(desk, "a:tree", &path(""), &path("tree/pipe"))?;
    fs::create_dir(path("in"))?;
    fs::write(path("in/pipe"), "new")?;
    is_refused(desk, &path("in/pipe"), "a:pipe", "pipe")?;
    is_refused(desk, &path("in/."), "a:", "pipe")?;
    for name in odd {
        let kind = fs::symlink_metadata(path(name))?.file_type();
        ensure!(!kind.is_file(), "{name}: {kind:?}");
        ensure!(name != "null" || kind.is_char_device(), "{kind:?}");
    }
    is_refused(desk, &path("socket"), "a:", &path("socket"))?;
    is_refused(desk, "a:pipe", &path("new"), "pipe")?;
    ensure!(fs::read_link(path("stdout"))?.ends_with("fd/1"));
    let kind = desk.says(&["exec", "a", "--", "stat", "-c", "%F", "pipe"])?;
    ensure!(kind == "fifo", "{kind}");
    PASSED
}

/// The kernel's files say that they are empty, or have a page: what can be read of them is copied.
pub(super) fn what_tells_no_size_is_copied_whole(desk: &Desk) -> Outcome {
    desk.start(&["--name", "a", "--", "sleep", "600"])?;
    let here = tempfile::tempdir()?;
    let path = |name: &str| here.path().join(name).display().to_string();
    desk.says(&["cp", "a:/proc/version", &path("out")])?;
    let inside = desk.says(&["exec", "a", "--", "cat", "/proc/version"])?;
    let out = fs::read_to_string(path("out"))?;
    ensure!(out.trim() == inside && !inside.is_empty(), "{out}");
    desk.says(&["cp", "/proc/version", "a:in"])?;
    let copied = desk.says(&["fs", "cat", "a", "in"])?;
    let ours = fs::read_to_string("/proc/version")?;
    ensure!(copied == ours.trim(), "{copied}");
    PASSED
}

fn make(command: &mut Command) -> Result<()> {
    ensure!(command.status()?.success(), "{command:?}");
    Ok(())
}

/// A copy says which file it does not replace, or does not take.
fn is_refused(desk: &Desk, from: &str, to: &str, file: &str) -> Result<()> {
    let refused = desk.call(["cp", "--json", from, to]).output()?;
    let error = &refused.json()?["error"];
    ensure!(refused.code() == Some(125), "{from} to {to}: {refused}");
    ensure!(error["code"] == "invalid", "{from} to {to}: {refused}");
    let message = error["message"].as_str().unwrap_or_default();
    ensure!(message.contains(file), "{from} to {to}: {refused}");
    Ok(())
}
